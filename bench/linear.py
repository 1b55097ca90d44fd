"""the baseline without pretrained knowledge: what it was, and as cross-validation chooses it

"Before": TF-IDF of words and pairs of words (characters in Chinese) with logistic regression of one strength, of pairs
the two texts as one; for scores of pairs a line through the cosine of their TF-IDF vectors; for entities the most
frequent tag of each word. "Now": words or characters or both, the strength, and how far the texts of a pair overlap,
chosen by cross-validation on train rows; for entities a linear tagger that reads a word and its neighbors.

Both are fitted on the same drawn train rows, and both answer the same test rows. CPU seconds are of the process. Where
"fit" stands, headstart's default fit on the same train rows was measured beside them, baselines not counted.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown, met, read_jsonl, write_jsonl

SETS = {  # name -> its task and its test rows
    **dict.fromkeys(("uci_sentiment_sentences", "trec", "financial_phrasebank_50agree", "chnsenticorp_htl", "banking77",
                     "mrpc", "amazon_multidomain_sentiment"), ("text-classification", "test")),
    **dict.fromkeys(("sst2", "twitter_financial_news", "rte"), ("text-classification", "validation")),
    "stsb": ("text-regression", "test"), "semeval2010_task8": ("relation-extraction", "test"),
    "copa": ("multiple-choice", "test"), "commonsense_qa": ("multiple-choice", "validation"),
    "conll2003": ("token-classification", "test"), "multi_label": ("multi-label-classification", "test")}
N_TRAIN, N_TEST = 3_000, 1_000
N_FIT = 1_000
FITTED = ("uci_sentiment_sentences", "trec", "mrpc", "conll2003")
PAIR = {"text_a": "text", "text_b": "text_pair"}  # as these sets write it, and as the task reads it
LARGEST_SHARE = 0.1  # of the fit's CPU seconds


def cells(quick: bool) -> list[Cell]:
    compared = [{"name": name, "n": 100 if quick else N_TRAIN, "seed": 0} for name in SETS]
    fitted = [{"name": name, "n": 100 if quick else N_FIT, "fit": True, "seed": 0} for name in FITTED]
    return compared + (fitted[:1] if quick else fitted)


def measure(name: str, n: int, seed: int, fit: bool = False) -> dict[str, Any]:
    from headstart import tasks

    kind, part = SETS[name]
    train, test = (random.Random(seed).sample(rows, min(most, len(rows))) for rows, most in (
        (rows_of(name, "train"), n), (rows_of(name, part), N_TEST)))
    task = tasks.build({"name": kind}).learn(train)
    test = [row for row in test if not task.check_gold([row])]
    began = time.process_time()
    before = score_of(task, BEFORE[kind](task, train, test), test)
    between = time.process_time()
    *_, (_, answers) = task.baselines(train, train[: n // 10], test, seed)
    now, ended = score_of(task, answers, test), time.process_time()
    return {"metric": task.metric, "n_train": len(train), "n_test": len(test), "before": before, "now": now,
            "before_cpu_s": between - began, "now_cpu_s": ended - between,
            **({"fit_cpu_s": fit_seconds(kind, train, test, seed)} if fit else {})}


def rows_of(name: str, part: str) -> list[dict[str, Any]]:
    """The rows as the task reads them, without columns that it does not know."""
    if name == "multi_label":  # TREC's coarse and fine classes, and whether a number is in the question
        return [{"text": row["text"], "labels": sorted({row["label"], row["fine_label"], *(
            ["number"] if any(c.isdigit() for c in row["text"]) else [])})} for row in read_jsonl(
                DATA / "trec" / f"{part}.jsonl")]
    columns = ("text", "label", "score", "relation", "head_span", "tail_span", "question", "choices", "tokens", "tags")
    return [{PAIR.get(column, column): value for column, value in row.items() if column in (*columns, *PAIR)}
            for row in read_jsonl(DATA / name / f"{part}.jsonl")]


def score_of(task: Any, answers: Sequence[Any], rows: Sequence[Any]) -> float:
    return float(task.score(task.outcomes(answers, rows))[task.metric])


def logistic_regression(texts: Sequence[str], gold_N: Any, others: Sequence[str]) -> Any:
    from sklearn.linear_model import LogisticRegression

    from headstart.features.tfidf import tf_idf

    features, of_others = tf_idf(texts, others)
    regression = LogisticRegression(C=10.0, max_iter=2_000, tol=1e-5).fit(features, gold_N)
    return regression.predict_proba(of_others), list(regression.classes_)


def one_label(task: Any, train: Sequence[Any], test: Sequence[Any]) -> list[Any]:
    import numpy as np

    gold = np.array([task.stratum(row) for row in train])
    shares, labels = logistic_regression([task.text(row) for row in train], gold, [task.text(row) for row in test])
    of_label = np.zeros((len(test), len(task.labels)))
    of_label[:, [task.labels.index(label) for label in labels]] = shares
    return [task.answer(shares_K) for shares_K in of_label]


def many_labels(task: Any, train: Sequence[Any], test: Sequence[Any]) -> list[Any]:
    import numpy as np

    texts, others = ([row["text"] for row in rows] for rows in (train, test))
    shares = []
    for label in task.labels:
        has = np.array([label in row["labels"] for row in train])
        shares.append(logistic_regression(texts, has, others)[0][:, 1] if not has.all() else np.ones(len(test)))
    return [task.answer(shares_K) for shares_K in np.stack(shares, 1)]


def number(task: Any, train: Sequence[Any], test: Sequence[Any]) -> list[Any]:
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from headstart.features.tfidf import tf_idf

    texts = [[row[column] for row in rows] for rows in (train, test) for column in ("text", "text_pair")]
    _, *sides = tf_idf(texts[0] + texts[1], *texts)
    cosines = [np.asarray(a.multiply(b).sum(1)) for a, b in (sides[:2], sides[2:])]
    line = LinearRegression().fit(cosines[0], [float(row["score"]) for row in train])
    return [task.answer(score) for score in line.predict(cosines[1])]


def choice(task: Any, train: Sequence[Any], test: Sequence[Any]) -> list[Any]:
    import numpy as np

    texts, others = ([f"{row['question']}\n{text}" for row in rows for text in row["choices"]]
                     for rows in (train, test))
    gold = [k == row["label"] for row in train for k, _ in enumerate(row["choices"])]
    right = logistic_regression(texts, gold, others)[0][:, 1]
    ends = np.cumsum([len(row["choices"]) for row in test])[:-1]
    return [task.answer(row, shares) for row, shares in zip(test, np.split(right, ends), strict=True)]


def usual_tags(task: Any, train: Sequence[Any], test: Sequence[Any]) -> list[Any]:
    return list(next(answers for name, answers in task.baselines(train, [], test, 0) if name == "majority-tag"))


BEFORE: dict[str, Callable[[Any, Sequence[Any], Sequence[Any]], list[Any]]] = {
    "text-classification": one_label, "relation-extraction": one_label, "text-regression": number,
    "multiple-choice": choice, "token-classification": usual_tags, "multi-label-classification": many_labels}


def fit_seconds(kind: str, train: Sequence[Any], test: Sequence[Any], seed: int) -> float:
    import headstart

    with tempfile.TemporaryDirectory() as folder:
        paths = write_jsonl(Path(folder), train=train, test=test)
        began = sum(os.times()[:4])
        headstart.fit({"data": paths, "task": {"name": kind}, "seed": seed, "cache": "off",
                       "evaluate": {"baselines": False}}, out=Path(folder) / "run")
        return sum(os.times()[:4]) - began


def table(runs: Sequence[Run]) -> str:
    lines, shares = [], []
    for run in runs:
        result = run.result
        line = [run.cell["name"], SETS[run.cell["name"]][0], f"{result['n_train']:,}", f"{result['n_test']:,}",
                result["metric"], f"{result['before']:.4f}", f"{result['now']:.4f}",
                f"{100 * (result['now'] - result['before']):+.1f}"]
        if "fit_cpu_s" in result:
            share = result["now_cpu_s"] / result["fit_cpu_s"]
            shares.append([*line[:3], f"{result['now_cpu_s']:.1f}", f"{result['fit_cpu_s']:.0f}", f"{share:.1%}",
                           met(share <= LARGEST_SHARE)])
        else:
            lines.append([*line, f"{result['before_cpu_s']:.1f}", f"{result['now_cpu_s']:.1f}"])
    parts = [markdown(["data", "task", "train rows", "test rows", "metric", "before", "now", "points", "CPU s: before",
                       "now"], lines)] if lines else []
    if shares:
        parts.append(markdown(["data", "task", "train rows", "baselines, CPU s", "fit", "share", "at most a tenth"],
                              shares))
    return "\n\n".join(parts)
