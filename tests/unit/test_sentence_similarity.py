"""sentence-similarity: three kinds of rows, its losses, its ranks, search, mining, what sentence-transformers reads."""

from __future__ import annotations

import json
import math
import unicodedata

import numpy as np
import pytest
import tiny
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

import headstart
from headstart import tasks
from headstart.cli.app import app
from headstart.core.errors import DataError, SpecError
from headstart.core.predict import predict
from headstart.core.scores import Details
from headstart.core.spec import DataSpec
from headstart.core.values import Row, collate
from headstart.data import table as data
from headstart.data.columns import infer_columns
from headstart.models import backbone as backbones
from headstart.models.runtime import TorchRuntime
from headstart.report import run as sections
from headstart.runs import artifact
from headstart.runs import resolve as resolving
from headstart.tasks.sentence_similarity.ranking import Candidates
from headstart.tasks.sentence_similarity.task import SentenceSimilarity
from headstart.use import retrieval as search

CPU = torch.device("cpu")
FAQ = [{"text": f"question about {word}", "text_pair": f"the answer is {word} and nothing more"}
       for word in tiny.GOOD + tiny.BAD + tiny.FILL]
TRIPLETS = [{**row, "negatives": [f"it was {other}" for other in tiny.BAD[:k]]} for k, row in enumerate(FAQ[:6])]
SCORED = [{"text": "we found it lovely", "text_pair": "it was lovely", "score": 4.5},
          {"text": "the film was dull", "text_pair": "some music", "score": 1.0},
          {"text": "very bright room", "text_pair": "a bright room", "score": 4.0},
          {"text": "stale", "text_pair": "it was fresh", "score": 2.0}]


def batch_of(task, reader, rows):
    windows = [w for i, row in enumerate(rows) for w in task.encode(i, row, reader)]
    batch = collate({"input_ids": [w.inputs["input_ids"] for w in windows]},
                    {k: [w.target[k] for w in windows] for k in windows[0].target}, reader.pad_id)
    return {k: torch.from_numpy(a) for k, a in batch.inputs.items()}, {
        k: torch.from_numpy(a) for k, a in batch.target.items()}


@pytest.fixture
def loaded(backbone):
    return backbones.load_backbone(str(backbone), 64)


def target_of(*windows, score=None):
    """(row, role, key) of each window as a target."""
    target = {name: torch.tensor(column) for name, column in zip(("row", "role", "key"), zip(*windows, strict=True),
                                                                  strict=True)}
    return target if score is None else target | {"score": torch.tensor(score)}


def circle(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], 1)


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "said"), [
    ({"text": "a", "text_pair": "b", "score": "0.5"}, None),
    ({"text": "a", "text_pair": "b", "score": "not_duplicate"}, None),
    ({"text": "a", "text_pair": "b", "score": True}, None),
    ({"text": "a", "text_pair": "b", "negatives": []}, None),
    ({"text": "a", "text_pair": "b", "negatives": "c"}, None),
    ({"text": "a", "text_pair": "b", "score": "nearly"}, '"score" is "nearly"; it must be a number'),
    ({"text": "a", "text_pair": "b", "score": float("nan")}, '"score" is nan'),
    ({"text": "a", "text_pair": "b", "score": 10**400}, '"score" is 1000'),
    ({"text": "a", "text_pair": "b", "negatives": ["c", " "]}, '"negatives" holds " "'),
    ({"text": "a", "text_pair": "b", "negatives": {"c": 1}}, '"negatives" is {'),
    ({"text": "a", "text_pair": "b", "score": 1, "negatives": ["c"]}, '"negatives" stands beside a "score"'),
    ({"text": "a", "negatives": ["c"]}, '"negatives" stands alone'),
    ({"text": " ", "text_pair": "b"}, '"text" is empty'),
    ({"text": "a", "text_pair": 3}, '"text_pair" is 3, not a string'),
])
def test_rows_are_checked(row, said):
    found = SentenceSimilarity().check(row)
    assert found is None if said is None else str(found).startswith(said)


@pytest.mark.parametrize("junk", [None, "", [], {}, 1.5e300, float("inf"), [None], [[1, 2]], True, 10**400, {"a": []}])
def test_no_garbage_breaks_the_check(junk):
    for row in (SCORED[0], TRIPLETS[2]):
        for column in row:
            said = SentenceSimilarity().check({**row, column: junk})
            assert said is None or said.startswith('"')


@pytest.mark.parametrize(("header", "columns"), [
    (("sentence1", "sentence2", "score"), {"text": "sentence1", "text_pair": "sentence2", "score": "score"}),
    (("question", "answer", "category"), {"text": "question", "text_pair": "answer"}),
    (("anchor", "positive", "negative"), {"text": "anchor", "text_pair": "positive", "negatives": "negative"}),
    (("text_a", "text_b", "label"), {"text": "text_a", "text_pair": "text_b", "score": "label"}),
    (("query",), {"text": "query"}),
])
def test_columns_are_found_by_their_usual_names(header, columns):
    assert infer_columns(header, DataSpec(train="x"), SentenceSimilarity(), "x") == columns


def test_a_column_that_may_lack_is_not_asked_for_again_when_predicting():
    task, spec = SentenceSimilarity(has_scores=False), DataSpec(train="x", columns={"text": "q", "text_pair": "answer"})
    assert infer_columns(["q"], spec, task, "x", gold="ignored", lenient=True) == {"text": "q"}
    with pytest.raises(DataError, match='no column is called "answer"'):
        infer_columns(["q", "other"], spec, task, "x")


def test_learns_what_the_rows_are():
    assert SentenceSimilarity().learn(SCORED).metric == "spearman"
    assert (SentenceSimilarity().learn(SCORED).low, SentenceSimilarity().learn(SCORED).high) == (0.0, 4.5)
    assert SentenceSimilarity().learn(FAQ).metric == "mrr"
    words = [{**SCORED[0], "score": word} for word in ("similar", "Different")]
    assert SentenceSimilarity().learn(words).high == 1.0


def test_columns_that_only_pairs_of_queries_have_mean_this_task():
    for header in (["anchor", "positive"], ["query", "positive", "negative"], ["text", "text_pair", "negatives"]):
        assert tasks.by_columns(header) == ["sentence-similarity"]


@pytest.mark.parametrize(("task", "rows", "said"), [
    ({}, [{"text": "a"}, FAQ[0]], "1 of 2 rows have no second text"),
    ({}, [FAQ[0], SCORED[0]], "1 of 2 rows have a score"),
    ({}, [SCORED[0]] * 3, "all rows have the score 4.5"),
    ({}, [FAQ[0]] * 3, "same second text and no negatives"),
    ({"objective": "cosine"}, FAQ, 'needs rows with a "score"'),
    ({"objective": "multiple-negatives"}, SCORED, "the rows have scores"),
])
def test_rows_that_teach_nothing_are_refused(task, rows, said):
    with pytest.raises(DataError, match=said):
        SentenceSimilarity(**task).learn(rows)


def test_gold_of_another_kind_is_refused():
    scored, pairs = SentenceSimilarity().learn(SCORED), SentenceSimilarity().learn(FAQ)
    assert [i for i, _ in scored.check_gold([SCORED[0], FAQ[0], {"text": "a"}])] == [1, 2]
    assert [i for i, _ in pairs.check_gold([SCORED[0], FAQ[0], {"text": "a"}])] == [0, 2]


def test_options_are_checked():
    built = tasks.build({"name": "sentence-similarity", "objective": "cosine", "matryoshka": [8, 16]})
    assert tasks.options_of(built) == {"name": "sentence-similarity", "objective": "cosine", "scale": 20.0,
                                       "matryoshka": (8, 16)}
    for wrong in ({"objective": "triplet"}, {"scale": 0}, {"matryoshka": [0]}, {"has_scores": True}):
        with pytest.raises(SpecError):
            tasks.build({"name": "sentence-similarity", **wrong})
    with pytest.raises(SpecError, match="has 64, but a vector has 32 numbers"):
        SentenceSimilarity(matryoshka=(64,)).check_backbone("encoder", 32)


def test_a_text_longer_than_the_window_is_cut_and_counted(backbone):
    reader = backbones.load_backbone(str(backbone), 8).reader
    windows = SentenceSimilarity().learn(FAQ).encode(0, {"text": "film " * 10, "text_pair": "film"}, reader)
    assert [len(w) for w in windows] == [8, 3]
    assert [w.notes["n_cut_tokens"] for w in windows] == [4, 0]


def test_large_batches_and_a_low_rate_are_preset():
    def resolved(**fields):
        spec, origins, _ = resolving.resolve([("x", {"task": "sentence-similarity", "data": {"train": "a"}, **fields})])
        return spec.train.tokens_per_batch, spec.train.lr, origins["train.lr"]

    assert resolved() == (2048, 2e-5, "task sentence-similarity")
    assert resolved(method="linear-probe") == (2048, 3e-3, "method linear-probe")
    assert resolved(train={"lr": 1e-5}) == (2048, 1e-5, "x")


# ---- losses --------------------------------------------------------------------------------------------------------


def test_multiple_negatives_is_cross_entropy_over_the_batch():
    task = SentenceSimilarity(has_scores=False, scale=2.0)
    target = target_of((0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5))
    vectors = circle(0, 20, 90, 70, 180)
    scores_AC, gold_A = task.aligned(vectors, target)
    cosines = [[math.cos(math.radians(a - c)) for c in (20, 70, 180)] for a in (0, 90)]
    torch.testing.assert_close(scores_AC, 2 * torch.tensor(cosines, dtype=torch.float32))
    assert gold_A.tolist() == [0, 1]
    expected = sum(math.log(sum(math.exp(2 * x) for x in line)) - 2 * line[k] for k, line in enumerate(cosines))
    summed, n = task.loss(vectors, target, label_smoothing=0.3)
    assert summed.item() == pytest.approx(expected, rel=1e-5)
    assert n.item() == 2


def test_one_text_twice_in_a_batch_is_one_candidate():
    task = SentenceSimilarity(has_scores=False)
    scores_AC, gold_A = task.aligned(circle(0, 20, 90, 20), target_of((0, 0, 1), (0, 1, 7), (1, 0, 3), (1, 1, 7)))
    assert scores_AC.shape == (2, 1)
    assert gold_A.tolist() == [0, 0]


def test_what_is_right_for_the_same_query_and_the_query_itself_are_no_negatives():
    task = SentenceSimilarity(has_scores=False)
    target = target_of((0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 3), (2, 0, 4), (2, 1, 1))
    scores_AC, gold_A = task.aligned(circle(0, 10, 0, 20, 50, 0), target)
    keys = [1, 2, 3]
    spared = {(int(a), keys[int(c)]) for a, c in torch.nonzero(scores_AC == -40)}
    assert spared == {(0, 1), (0, 3), (1, 1), (1, 2)}
    assert [keys[k] for k in gold_A.tolist()] == [2, 3, 1]


def test_rows_may_stand_in_any_order_in_a_batch(loaded):
    task = SentenceSimilarity().learn(FAQ)
    inputs, target = batch_of(task, loaded.reader, TRIPLETS)
    model = backbones.build_model(loaded, task, "mean", seed=0).eval()
    vectors = model(inputs).logits
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
    moved, _ = task.loss(vectors[order], {k: v[order] for k, v in target.items()})
    torch.testing.assert_close(moved, task.loss(vectors, target)[0])


def test_cosent_asks_for_the_order_and_cosine_for_the_number():
    windows = [(row, role, 2 * row + role) for row in range(3) for role in (0, 1)]
    target = target_of(*windows, score=[1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    vectors = circle(0, 60, 0, 0, 0, 90)  # cosines 0.5, 1, 0
    cosent, n = SentenceSimilarity(objective="cosent", scale=2.0).loss(vectors, target)
    expected = 3 * math.log(1 + math.exp(2 * 0.5) + math.exp(2 * -0.5))
    assert cosent.item() == pytest.approx(expected, rel=1e-5)
    assert n.item() == 3
    cosine, _ = SentenceSimilarity().loss(vectors, target)
    assert cosine.item() == pytest.approx(0.75, rel=1e-5)


def test_matryoshka_adds_the_loss_of_each_prefix():
    target = target_of((0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4), score=[1.0, 1.0, 0.0, 0.0])
    vectors = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    alone = SentenceSimilarity(objective="cosent")
    both = SentenceSimilarity(objective="cosent", matryoshka=(2, 8)).loss(vectors, target)[0]
    torch.testing.assert_close(both, alone.loss(vectors, target)[0] + alone.loss(vectors[:, :2], target)[0])


@pytest.mark.parametrize(("options", "rows"), [
    ({}, FAQ[:6]), ({}, TRIPLETS), ({}, SCORED), ({"objective": "cosent"}, SCORED), ({"matryoshka": (4, 16)}, SCORED)])
def test_every_kind_of_row_is_learned(options, rows, loaded):
    task = SentenceSimilarity(**options).learn(rows)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    inputs, target = batch_of(task, loaded.reader, rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        summed, n = task.loss(model(inputs).logits, target)
        (summed / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed.item())
    assert losses[-1] < 0.5 * losses[0]
    answers = list(predict(task, rows, loaded.reader, TorchRuntime(model.eval(), CPU)))
    assert task.score(task.outcomes(answers, rows))[task.metric] > 0.95
    assert all(abs(answer["similarity"]) <= 1 for answer in answers)


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "first", "max"])
def test_an_untrained_model_says_what_the_pretrained_one_says(pooling, loaded):
    task = SentenceSimilarity().learn(SCORED)
    model = backbones.build_model(loaded, task, pooling, seed=0).eval()
    [answer] = predict(task, [{"text": "a lovely room"}], loaded.reader, TorchRuntime(model, CPU))
    inputs = {k: torch.tensor([v]) for k, v in loaded.reader.read("a lovely room")[0].items()}
    hidden_TD = model.encoder(**inputs).last_hidden_state[0].detach()
    pooled = {"mean": hidden_TD.mean(0), "first": hidden_TD[0], "max": hidden_TD.amax(0)}[pooling]
    np.testing.assert_allclose(answer["embedding"], pooled / pooled.norm(), atol=2e-6)


def test_answers_to_one_text_and_to_a_pair(loaded):
    scored, pairs = SentenceSimilarity().learn(SCORED), SentenceSimilarity().learn(FAQ)
    vectors = [np.array([3.0, 4.0], np.float32), np.array([4.0, 3.0], np.float32)]
    assert scored.decode({}, (), vectors[:1]) == {"embedding": [0.6, 0.8]}
    assert scored.decode({}, (), vectors) == {"similarity": 0.96}
    assert pairs.decode({}, (), vectors) == {"similarity": 0.96, "embeddings": [[0.6, 0.8], [0.8, 0.6]]}
    assert scored.decode({}, (), [np.zeros(2, np.float32)]) == {"embedding": [0.0, 0.0]}


@pytest.mark.parametrize("text", ["房间很干净", "שלום room", "e\u0301te\u0301", "👩‍👩‍👧 film", "\u200bfilm", "ﬁlm"])
def test_any_text_has_a_vector(text, loaded):
    task = SentenceSimilarity().learn(SCORED)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    [answer] = predict(task, [{"text": text}], loaded.reader, TorchRuntime(model, CPU))
    assert math.hypot(*answer["embedding"]) == pytest.approx(1, abs=1e-4)


# ---- ranks ---------------------------------------------------------------------------------------------------------


def ranks_of(rows, cosines):
    return Candidates(rows).ranks(lambda chosen: np.array(cosines, np.float64)[chosen])[0].tolist()


def test_ranks_count_different_texts_once():
    rows: list[Row] = [{"text": "q", "text_pair": "Yes."},
                       {"text": "r", "text_pair": "no", "negatives": ["yes. ", "maybe"]}]
    assert Candidates(rows).texts == ["Yes.", "no", "maybe"]
    assert ranks_of(rows, [[0.5, 0.9, 0.1], [0.9, 0.2, 0.3]]) == [2, 3]


def test_ties_share_the_mean_rank():
    rows = [{"text": f"q{k}", "text_pair": f"a{k}"} for k in range(5)]
    assert ranks_of(rows, np.zeros((5, 5))) == [3] * 5


def test_other_right_texts_and_the_query_itself_do_not_count():
    rows = [{"text": "q", "text_pair": "a"}, {"text": "Q", "text_pair": "b"}, {"text": "a", "text_pair": "q"}]
    assert Candidates(rows).texts == ["a", "b", "q"]
    assert ranks_of(rows, [[0.1, 0.5, 1.0], [0.9, 0.1, 1.0], [1.0, 0.5, 0.4]]) == [1, 1, 2]


def test_scores_of_ranks():
    scores = SentenceSimilarity(has_scores=False).score(np.array([1.0, 2.0, 11.0]))
    assert scores == pytest.approx({"mrr": (1 + 1 / 2 + 1 / 11) / 3, "ndcg_at_10": (1 + 1 / math.log2(3)) / 3,
                                    "recall_at_1": 1 / 3, "recall_at_5": 2 / 3, "recall_at_10": 2 / 3})


def test_outcomes_rank_among_all_rows(loaded):
    task = SentenceSimilarity().learn(FAQ)
    east, north = [1.0, 0.0], [0.0, 1.0]
    answers = [{"similarity": 1.0, "embeddings": [east, east]}, {"similarity": 0.0, "embeddings": [east, north]}]
    assert task.outcomes(answers, FAQ[:2]).tolist() == [1, 2]
    details = task.details(answers, FAQ[:2])
    assert details["n_candidates"] == 2
    assert details["mistakes"] == [{"text": FAQ[1]["text"], "label": FAQ[1]["text_pair"],
                                    "predicted": FAQ[0]["text_pair"], "rank": 2}]
    section = sections.mistakes(Details.from_json(details))
    assert section is not None
    [table] = section.tables
    assert (table.caption.split(", ")[-1], table.columns[-1], table.rows[0][-1]) == (
        "furthest off first", "rank of gold", "2")


def test_tf_idf_finds_shared_words():
    ranked = dict(SentenceSimilarity().learn(FAQ).baselines(FAQ, FAQ, FAQ, 0))["tf-idf-cosine"]
    task = SentenceSimilarity().learn(FAQ)
    assert task.score(task.outcomes(ranked, FAQ))["mrr"] > 0.8
    assert json.loads(json.dumps(task.details(ranked, FAQ[:0] or FAQ)["n_candidates"])) == len(FAQ)
    scored = SentenceSimilarity().learn(SCORED)
    [said] = dict(scored.baselines(SCORED, SCORED, SCORED, 0)).values()
    assert said[1]["similarity"] == 0 < said[2]["similarity"]


# ---- runs ----------------------------------------------------------------------------------------------------------


def fit(rows, backbone, folder, **fields):
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = tiny.spec(source, backbone, **{"task": "sentence-similarity", **fields})
    return headstart.fit(spec, out=folder / "run")


def pairs(n):
    rng = np.random.default_rng(0)
    return [{"text": " ".join(rng.choice(tiny.FILL + tiny.GOOD, 6)), "text_pair": " ".join(rng.choice(tiny.BAD, 5))}
            for _ in range(n)]


@pytest.fixture(scope="module")
def faq(backbone, tmp_path_factory):
    return fit(pairs(80), backbone, tmp_path_factory.mktemp("faq"), head={"pooling": "first"})


def test_a_run_on_pairs(faq):
    assert faq.scores["metric"] == "mrr"
    assert set(faq.scores["baselines"]) == {"tf-idf-cosine", "before-training"}
    assert set(faq.predict(["a film"])[0]) == {"embedding"}
    again = faq.evaluate(pairs(8))
    assert 0 < again["score"] <= 1


def test_a_run_on_scores_with_every_way_to_move(backbone, tmp_path):
    rng = np.random.default_rng(1)
    rows = [{**row, "score": round(float(rng.uniform(0, 5)), 2)} for row in pairs(60)]
    for method in ("linear-probe", "lora"):
        (tmp_path / method).mkdir()
        run = fit(rows, backbone, tmp_path / method, method=method)
        assert run.scores["metric"] == "spearman"
        assert run.predict([rows[0]])[0].keys() == {"similarity"}
        has_dense = (run.folder / "2_Dense" / "model.safetensors").exists()
        assert has_dense == (not (run.folder / "adapter").exists())  # sentence-transformers does not read adapters


def test_sentence_transformers_finds_its_files(faq):
    def read(name):
        return json.loads((faq.folder / name).read_text("utf-8"))

    assert [(m["idx"], m["path"], m["type"].rpartition(".")[2]) for m in read("modules.json")] == [
        (0, "", "Transformer"), (1, "1_Pooling", "Pooling"), (2, "2_Dense", "Dense"), (3, "3_Normalize", "Normalize")]
    assert read("sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    assert read("config_sentence_transformers.json")["similarity_fn_name"] == "cosine"
    pooling = read("1_Pooling/config.json")
    assert pooling["word_embedding_dimension"] == 32
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_cls_token"]
    assert read("2_Dense/config.json") == {"in_features": 32, "out_features": 32, "bias": True,
                                           "activation_function": "torch.nn.modules.linear.Identity"}
    dense, head = (load_file(faq.folder / name) for name in ("2_Dense/model.safetensors", "head.safetensors"))
    assert set(dense) == {"linear.weight", "linear.bias"}
    np.testing.assert_array_equal(dense["linear.weight"], head["out.weight"])
    assert "2_Dense/model.safetensors" in read("MANIFEST.json")["sha256"]
    assert artifact.load(faq.folder)


# ---- search and mining ---------------------------------------------------------------------------------------------

CORPUS = ["the film was lovely", "a cold room", "THE FILM was lovely", "some music", "it was dull"]


def test_search_finds_the_text_itself_first(faq):
    [hits, others] = search.search(faq.folder, CORPUS, ["the film was lovely", "a cold room"], top=3)
    assert [hit["row"] for hit in hits[:2]] == [0, 2]
    assert (hits[0]["similarity"], len(hits)) == (pytest.approx(1, abs=1e-5), 3)
    assert others[0] == {"row": 1, "text": "a cold room", "similarity": pytest.approx(1, abs=1e-5)}
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)


def test_search_takes_a_pretrained_model_and_prefixes(backbone):
    assert search.search(backbone, CORPUS, [CORPUS[3]], top=1, dimensions=8)[0][0]["row"] == 3
    assert len(search.search(backbone, CORPUS, ["a"], top=99)[0]) == len(CORPUS)
    with pytest.raises(SpecError, match="is 99; these vectors have 32 numbers"):
        search.search(backbone, CORPUS, ["a"], dimensions=99)


def test_search_says_what_is_missing(faq, run, tmp_path):
    with pytest.raises(DataError, match="corpus: has no texts"):
        search.search(faq.folder, [], ["a"])
    with pytest.raises(SpecError, match="not with an embedding"):
        search.search(run, CORPUS, ["a"])
    (tmp_path / "empty.csv").write_text("text\n", "utf-8")
    with pytest.raises(DataError, match="has a header and no row below it"):
        search.texts_of(str(tmp_path / "empty.csv"))


def test_mined_negatives_are_near_misses(backbone):
    rows = [{"text": "film", "text_pair": "the film was lovely"}, {"text": "film", "text_pair": "a film"},
            {"text": "cold room", "text_pair": "a cold room"}, {"text": "dull", "text_pair": "it was dull"}]
    corpus = ["film", "A FILM", "music and story"]
    mined = search.mine(backbone, rows, corpus=corpus, n=2, margin=-3.0)
    vectors = {text: v for texts in [[*(r["text"] for r in rows), *(r["text_pair"] for r in rows), *corpus]]
               for text, v in zip(texts, search.embed(backbone, texts), strict=True)}
    for row in mined:
        assert len(row["negatives"]) == 2
        rest = {"the film was lovely", "a film", "a cold room", "it was dull", "music and story", "film"}
        rest -= {row["text"], row["text_pair"], *(["the film was lovely", "a film"] if row["text"] == "film" else [])}
        best = sorted(rest, key=lambda text: -float(vectors[row["text"]] @ vectors[text]))[:2]
        assert row["negatives"] == best
    for row in search.mine(backbone, rows, corpus=corpus, n=5, margin=0.02):
        own = float(vectors[row["text"]] @ vectors[row["text_pair"]])
        for text in row["negatives"]:
            assert float(vectors[row["text"]] @ vectors[text]) <= own - 0.02 + 1e-6
    with pytest.raises(DataError, match="have no right texts"):
        search.mine(backbone, [{"text": "a"}])


def test_search_and_mine_on_the_command_line(faq, tmp_path):
    tiny.write_csv(tmp_path / "corpus.csv", [{"id": str(i), "answer": text} for i, text in enumerate(CORPUS)])
    (tmp_path / "queries.txt").write_text("some music\nit was dull\n", "utf-8")
    said = CliRunner().invoke(app, ["search", str(faq.folder), str(tmp_path / "corpus.csv"), "--query", "a cold room",
                                    "--queries", str(tmp_path / "queries.txt"), "--top", "1", "--json"])
    found = [json.loads(line) for line in said.stdout.splitlines()]
    assert [(one["query"], one["hits"][0]["row"]) for one in found] == [
        ("a cold room", 1), ("some music", 3), ("it was dull", 4)]
    said = CliRunner().invoke(app, ["search", str(faq.folder), str(tmp_path / "corpus.csv"), "--query", "some music"])
    assert said.stdout.splitlines()[:2] == ["some music", "  1.0000  some music"]

    tiny.write_csv(tmp_path / "pairs.csv", [{"question": r["text"], "answer": r["text_pair"]} for r in pairs(10)])
    out = tmp_path / "mined.jsonl"
    said = CliRunner().invoke(app, ["mine", str(faq.folder), str(tmp_path / "pairs.csv"), "--out", str(out), "--margin",
                                    "-2", "--negatives", "2", "--json"])
    assert json.loads(said.stdout.splitlines()[-1])["n_negatives"] == 20
    rows = data.read_table(str(out), DataSpec(train=str(out)), SentenceSimilarity()).rows
    assert [len(row["negatives"]) for row in rows] == [2] * 10
    assert SentenceSimilarity().learn(rows).metric == "mrr"


def test_one_text_in_two_normal_forms_is_one_candidate():
    rows = [{"text": "q", "text_pair": unicodedata.normalize(form, "é à la carte")} for form in ("NFC", "NFD")]
    assert len(Candidates(rows).texts) == 1
