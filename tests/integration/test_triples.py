"""From raw text to triples: one run finds the entities, another says how they relate."""

import json

import numpy as np
import pytest
import tiny

import headstart
from headstart.core.errors import SpecError
from headstart.use import triples


def sentence(rng):
    """A text with one good and one bad word, and where they are."""
    words = [str(w) for w in rng.choice(tiny.FILL, rng.integers(4, 12))]
    at = sorted(map(int, rng.choice(len(words), 2, replace=False)))
    kinds = [("GOOD", tiny.GOOD), ("BAD", tiny.BAD)]
    if rng.integers(2):
        kinds.reverse()
    for place, (_, of) in zip(at, kinds, strict=True):
        words[place] = str(rng.choice(of))
    text, spans = " ".join(words), []
    for place, (label, _) in zip(at, kinds, strict=True):
        start = len(" ".join(words[:place])) + (place > 0)
        spans.append({"start": start, "end": start + len(words[place]), "label": label})
    return text, spans


@pytest.fixture(scope="module")
def runs(tmp_path_factory, backbone):
    folder = tmp_path_factory.mktemp("triples")
    rng = np.random.default_rng(0)
    rows = [sentence(rng) for _ in range(500)]
    entities = [{"text": text, "entities": spans} for text, spans in rows]
    relations = [{"text": text, "head_span": [a["start"], a["end"]], "tail_span": [b["start"], b["end"]],
                  "relation": f"Beats({'e1,e2' if a['label'] == 'GOOD' else 'e2,e1'})"} for text, (a, b) in rows]
    folders = {}
    for name, task, lines in (("entities", "token-classification", entities),
                              ("relations", "relation-extraction", relations)):
        source = folder / f"{name}.jsonl"
        source.write_text("\n".join(map(json.dumps, lines)), "utf-8")
        folders[name] = headstart.fit(tiny.spec(source, backbone, task=task, data={"near_duplicate": 1},
                                              train={"epochs": 6}, evaluate={"baselines": False}),
                                    out=folder / f"{name}-run").folder
    return folders


def test_both_runs_learn(runs):
    for folder in runs.values():
        assert headstart.load(folder).scores["score"] > 0.9


def test_triples_of_a_file(runs, tmp_path):
    source = tmp_path / "new.txt"
    source.write_text("the room was lovely and the staff was rude\nthe dull film was found with a kind hotel\n"
                      "it was found\n")
    first, second, third = triples.triples(runs["relations"], runs["entities"], str(source))
    assert [(e["text"], e["label"]) for e in first["entities"]] == [("lovely", "GOOD"), ("rude", "BAD")]
    assert [(t["head"]["text"], t["relation"], t["tail"]["text"]) for t in first["triples"]] == [
        ("lovely", "Beats", "rude")]
    assert [(t["head"]["text"], t["tail"]["text"]) for t in second["triples"]] == [("kind", "dull")]
    assert third == {"entities": [], "triples": []}


def test_the_verb_and_its_errors(runs, tmp_path, cli):
    source = tmp_path / "new.txt"
    source.write_text("the room was lovely and the staff was rude\n")
    stdout, _ = cli("predict", runs["relations"], source, "--entities", runs["entities"])
    (line,) = stdout.splitlines()
    assert json.loads(line)["triples"][0]["relation"] == "Beats"
    _, stderr = cli("predict", runs["relations"], source, "--entities", runs["relations"], rc=2)
    assert 'is a run of "relation-extraction"; triples need one of "token-classification" there' in stderr
    with pytest.raises(SpecError):
        list(triples.triples(runs["entities"], runs["entities"], str(source)))
