"""Texts as vectors that lie near each other where the texts mean the same: search, FAQ retrieval, paraphrases.

The answer to one text is {"embedding": [D numbers of norm one]}; to a pair {"similarity": cosine}. After training on
pairs without scores the answer to a pair also has "embeddings", those of its texts in order, as ranking needs them.

Three kinds of rows, told apart by their columns:

    text, text_pair, score       how alike two texts are: a number of any range, or two words such as similar, different
    text, text_pair              a query and the right text for it; the other right texts of a batch are wrong for it
    text, text_pair, negatives   the same with texts that are known to be wrong

The head is one linear map, the identity at first: an untrained model gives the vectors of the pretrained one.

Shape suffixes: B windows in a batch (one a text), D width, A rows in a batch, C candidates (different texts), N rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from ...core import metrics
from ...core.cells import finite_number
from ...core.errors import DataError, SpecError, shorten
from ...core.reader import Reader
from ...core.task import LARGEST, N_MISTAKES_SHOWN, Architecture, Columns, Head, Task, flaw_of_text
from ...core.values import MemberLogits, Prediction, Row, Window
from ...data.duplicates import canonical
from ...features import tfidf
from .ranking import Candidates, negatives_of

if TYPE_CHECKING:
    import torch

QUERY, RIGHT, WRONG = range(3)  # what a window holds
WORDS = {**dict.fromkeys(("similar", "same", "duplicate", "paraphrase", "equivalent", "yes", "true"), 1.0),
         **dict.fromkeys(("different", "dissimilar", "not similar", "not duplicate", "not paraphrase",
                          "not equivalent", "no", "false"), 0.0)}


@dataclass(frozen=True)
class SentenceSimilarity(Task):
    """How alike texts are, by the cosine of their vectors.

    objective:  multiple-negatives (cross entropy over a batch's right texts and negatives), cosine (squared error of
                the cosine) or cosent (the order of cosines); auto: cosine where rows have scores, else the first.
    scale:      what cosines are multiplied by in multiple-negatives and cosent: the inverse temperature.
    matryoshka: sizes of prefixes of the vector that are to serve alone; the loss is the sum over them and the whole.
    has_scores: whether rows say how alike their texts are.
    low, high:  the ends of the range of scores, which cosine takes for 0 and 1.
    """

    name: ClassVar = "sentence-similarity"
    columns: ClassVar = Columns(
        {"text": "a string that is not empty"},
        {"text_pair": "the text it is compared with, or the right one for it: a string, not empty",
         "score": 'a number, or one of two words such as "similar" and "different"',
         "negatives": "a text that is wrong for it, or a list of them"},
        ("score",),
        {"text": ("text_a", "sentence1", "sentence_1", "question1", "question", "query", "anchor", "premise",
                  "sentence", "问题"),
         "text_pair": ("text_b", "sentence2", "sentence_2", "question2", "answer", "positive", "passage", "document",
                       "hypothesis", "答案"),
         "score": ("similarity", "similarity_score", "label", "is_duplicate", "分数"),
         "negatives": ("negative", "hard_negative", "hard_negatives")},
        (frozenset(("text", "text_pair", "negatives")), frozenset(("query", "positive")),
         frozenset(("anchor", "positive"))))
    options: ClassVar = ("objective", "scale", "matryoshka")
    keeps_rows_whole: ClassVar = True
    compares_rows: ClassVar = True
    needs_windows: ClassVar = False
    baseline_titles: ClassVar = {"tf-idf-cosine": "the cosine of TF-IDF vectors"}
    examples: ClassVar = (
        {"text": "The staff was kind.", "text_pair": "The staff was warm and kind.", "score": 5.0},
        {"text": "We found the hotel quite loud.", "text_pair": "It was a loud hotel.", "score": 4},
        {"text": "房间很干净。", "text_pair": "服务也好，房间很吵。", "score": "2.5"},
        {"text": "The phone was broken today.", "text_pair": "Some music and a lovely story.", "score": 0.5},
    )

    objective: Literal["auto", "multiple-negatives", "cosine", "cosent"] = "auto"
    scale: Annotated[float, Field(gt=0, le=1000)] = 20.0
    matryoshka: tuple[Annotated[int, Field(ge=1)], ...] = ()
    has_scores: bool = True
    low: float = 0.0
    high: float = 1.0

    @property
    def metric(self) -> str:
        """Which one it is follows from the train rows."""
        return "spearman" if self.has_scores else "mrr"

    @property
    def defaults(self) -> dict[str, Any]:
        # The losses compare the rows of a batch: with few of them there is little to compare. Sentence encoders are
        # near their goal already, and higher rates make them forget.
        return {"train": {"tokens_per_batch": 2048, "lr": 2e-5}}

    def check(self, row: Row) -> str | None:
        for column in ("text", "text_pair"):
            if flaw := flaw_of_text(column, row.get(column, "-")):
                return flaw
        if "score" in row and _score(row["score"]) is None:
            return (f'"score" is {shorten(row["score"])}; it must be a number within {LARGEST:,.0f} of 0, or one of: '
                    + ", ".join(WORDS))
        if "negatives" not in row:
            return None
        negatives = row["negatives"]
        if not isinstance(negatives, str | list | tuple):
            return f'"negatives" is {shorten(negatives)}; it must be a string or a list of strings'
        for text in negatives_of(row):
            if not isinstance(text, str) or not text.strip():
                return f'"negatives" holds {shorten(text)}; each must be a string that is not empty'
        if negatives and "score" in row:
            return '"negatives" stands beside a "score"; rows have the one or the other'
        if negatives and "text_pair" not in row:
            return '"negatives" stands alone; a row with wrong texts needs the right one, "text_pair", too'
        return None

    def learn(self, rows: Sequence[Row]) -> Self:
        n_single, n_scored = sum("text_pair" not in row for row in rows), sum("score" in row for row in rows)
        if n_single:
            raise DataError("text_pair", f"{n_single:,} of {len(rows):,} rows have no second text; training needs one "
                            "in every row.", "Say which column it is: --set data.columns.text_pair=NAME")
        if 0 < n_scored < len(rows):
            raise DataError("score", f"{n_scored:,} of {len(rows):,} rows have a score; all must have one, or none.",
                            "Split the file, or remove the column.")
        contrasted = self.objective in ("auto", "multiple-negatives")
        if n_scored and self.objective == "multiple-negatives":
            raise DataError("task.objective", '"multiple-negatives" takes each second text for the right one, but the '
                            "rows have scores.", "Use cosine or cosent, or keep the alike rows and remove the column.")
        if not n_scored:
            if not contrasted:
                raise DataError("task.objective", f'"{self.objective}" needs rows with a "score".',
                                "Use multiple-negatives, or say which column it is: --set data.columns.score=NAME")
            if len({canonical(row["text_pair"]) for row in rows}) < 2 and not any(map(negatives_of, rows)):
                raise DataError("text_pair", f"all {len(rows):,} rows have the same second text and no negatives; "
                                "there is nothing to tell apart.", "Is this the right column?")
            return replace(self, has_scores=False, low=0.0, high=1.0)
        scores = [_gold(row) for row in rows]
        if min(scores) == max(scores):
            raise DataError("score", f"all rows have the score {scores[0]:g}; there is nothing to learn.",
                            "Is this the right column? --set data.columns.score=NAME")
        # A sample need not hold both ends of its scale: 0 is one where nothing is less, 1 where nothing is more.
        return replace(self, has_scores=True, low=min(0.0, *scores), high=max(1.0, *scores))

    def flaw_of_learned(self) -> str | None:
        return None if self.low < self.high else f"low and high are {self.low} and {self.high}"

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        flaws = []
        for i, row in enumerate(rows):
            if "text_pair" not in row:
                flaws.append((i, 'has no "text_pair", and the train rows are pairs'))
            elif ("score" in row) != self.has_scores:
                flaws.append((i, 'has no "score", and the train rows have one' if self.has_scores else
                             'has a "score", and the train rows have none'))
        return flaws

    def text(self, row: Row) -> str:
        return "\n".join(str(row[column]) for column in ("text", "text_pair") if column in row)

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        """One window a text: the first, its pair, its negatives."""
        texts = [row["text"], *([row["text_pair"]] if "text_pair" in row else []), *negatives_of(row)]
        windows = []
        for place, (text, (inputs, n_cut)) in enumerate(zip(texts, reader.read_all(texts), strict=True)):
            target: dict[str, Any] = {}
            if len(texts) > 1 and self.has_scores == ("score" in row):
                target = {"row": i, "role": min(place, WRONG), "key": _key(text)}
                if self.has_scores:
                    target["score"] = (_gold(row) - self.low) / (self.high - self.low)
            windows.append(Window(i, inputs, target, {"n_cut_tokens": n_cut}))
        return windows

    @property
    def head(self) -> Head:
        return Head("pooled", 0)

    def check_backbone(self, architecture: Architecture, width: int) -> None:
        super().check_backbone(architecture, width)
        if any(size > width for size in self.matryoshka):
            raise SpecError("task.matryoshka", f"has {max(self.matryoshka)}, but a vector has {width} numbers.",
                            f"Choose sizes up to {width}.")

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """scores_AC: scaled cosines of texts and candidates; gold_A: the number of each text's right one.

        Candidates are the different second texts and negatives of the batch. Where rows have scores, a second text is
        right in the upper half of their range. What is known to be right for a text, and the text itself, is no wrong
        candidate for it.
        """
        import torch

        first, second = _pairs(target)
        if "score" in target:
            is_right = target["score"][first] >= 0.5
            first, second = first[is_right], second[is_right]
        others = torch.nonzero(target["role"] > QUERY)[:, 0]
        keys_C, place = torch.unique(target["key"][others], return_inverse=True)
        first_of_C = place.new_full((len(keys_C),), len(others)).scatter_reduce(
            0, place, torch.arange(len(others), device=place.device), "amin")
        gold_A = torch.searchsorted(keys_C, target["key"][second])
        query_A = target["key"][first]
        scores_AC = self.scale * _unit(logits[first]) @ _unit(logits[others[first_of_C]]).T
        gold_AC = torch.nn.functional.one_hot(gold_A, len(keys_C)).to(scores_AC.dtype)
        known_AC = (query_A[:, None] == query_A[None, :]).to(scores_AC.dtype) @ gold_AC
        spared_AC = ((known_AC > 0) | (query_A[:, None] == keys_C[None, :])) & (gold_AC == 0)
        return scores_AC.masked_fill(spared_AC, -2 * self.scale), gold_A

    def compared(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """Where rows have scores the cosine of each, [A, 1]; else its likeness to each candidate."""
        if not self.has_scores:
            return self.aligned(logits, target)[0]
        first, second = _pairs(target)
        return (_unit(logits[first]) * _unit(logits[second])).sum(-1, keepdim=True)

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        """Of length one, so that several teachers' side by side have the mean of their cosines."""
        return np.asarray(logits / np.maximum(np.linalg.norm(logits, axis=-1, keepdims=True), 1e-12))

    def placeholder(self, row: Row) -> Row:
        return {**row, "score": self.low} if self.has_scores else row

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """The objective as (sum, count of rows), summed over the prefixes and the whole vector.

        Nothing is smoothed: smoothing is for labels, and a batch's candidates are none.
        Source  Henderson et al. 2017, "Efficient Natural Language Response Suggestion" (multiple negatives); Su 2022,
                "CoSENT"; Kusupati et al. 2022, "Matryoshka Representation Learning".
        """
        sizes = dict.fromkeys((*self.matryoshka, logits.shape[-1]))
        losses = [self._loss_of(logits[:, :size].float(), target) for size in sizes]
        return sum(losses[1:], losses[0]), (target["role"] == QUERY).sum()

    def _loss_of(self, vectors_BD: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        import torch

        if not self.has_scores:
            return torch.nn.functional.cross_entropy(*self.aligned(vectors_BD, target), reduction="sum")
        first, second = _pairs(target)
        cosine_A = (_unit(vectors_BD[first]) * _unit(vectors_BD[second])).sum(-1)
        gold_A = target["score"][first]
        if self.objective != "cosent":
            return (cosine_A - gold_A).square().sum()
        # Every pair of rows whose order is known: the one that is less alike must not have the greater cosine.
        excess = (self.scale * (cosine_A[None, :] - cosine_A[:, None]))[gold_A[:, None] > gold_A[None, :]]
        return len(gold_A) * torch.logsumexp(torch.cat([excess.new_zeros(1), excess]), 0)

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        vectors_BD = np.stack(logits).astype(np.float64)
        vectors_BD /= np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)
        listed = [[round(x, 6) for x in vector] for vector in vectors_BD.tolist()]
        if len(listed) == 1:
            return {"embedding": listed[0]}
        similarity = {"similarity": round(float(vectors_BD[0] @ vectors_BD[1]), 6)}
        return similarity if self.has_scores else {**similarity, "embeddings": listed}

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        """The mean of the cosines; vectors one behind the other, so that their cosine is that mean."""
        answers = [member.answer(row) for member in members]
        shares_M = np.sqrt(weights_M)

        def behind(vectors: Sequence[Sequence[float]]) -> list[float]:
            return [round(x, 6) for x in np.concatenate([share * np.asarray(vector) for share, vector
                                                         in zip(shares_M, vectors, strict=True)]).tolist()]

        if "embedding" in answers[0]:
            return {"embedding": behind([answer["embedding"] for answer in answers])}
        blended: Prediction = {"similarity": round(float(weights_M @ [a["similarity"] for a in answers]), 6)}
        if "embeddings" in answers[0]:
            blended["embeddings"] = list(map(behind, zip(*(a["embeddings"] for a in answers), strict=True)))
        return blended

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 2]: the gold score and the cosine. Without scores [N]: the rank of each row's right text, from 1, among
        all second texts and negatives of `rows`."""
        if self.has_scores:
            pairs = [(_gold(r), p["similarity"]) for p, r in zip(predictions, rows, strict=True)]
            return np.array(pairs).reshape(-1, 2)
        return self._ranked(predictions, rows)[0]

    def _ranked(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> tuple[np.ndarray, list[int]]:
        """The rank of each right text, and the number of the candidate that came first."""
        if predictions and "rank" in predictions[0]:  # a baseline, whose vectors are too long to be listed
            return np.array([p["rank"] for p in predictions]), [p["best"] for p in predictions]
        corpus = Candidates(rows)
        queries_ND = np.array([p["embeddings"][0] for p in predictions], np.float32)
        corpus_CD = np.array([predictions[i]["embeddings"][place] for i, place in corpus.places], np.float32)
        return corpus.ranks(lambda chosen: queries_ND[chosen] @ corpus_CD.T)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        if self.has_scores:
            gold_N, cosine_N = outcomes[:, 0], outcomes[:, 1]
            return {"spearman": metrics.rank_correlation(gold_N, cosine_N),
                    "pearson": metrics.correlation(gold_N, cosine_N)}
        gains_N = np.where(outcomes <= 10, 1 / np.log2(1 + outcomes), 0)  # of one right text the ideal is 1
        return {"mrr": float((1 / outcomes).mean()), "ndcg_at_10": float(gains_N.mean()),
                **{f"recall_at_{k}": float((outcomes <= k).mean()) for k in (1, 5, 10)}}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:

        texts = [text for row in train for text in (row["text"], row["text_pair"])]
        kinds = tfidf.kinds(texts)

        def answered(rows: Sequence[Row], name: str) -> list[Prediction]:
            first, corpus = [row["text"] for row in rows], Candidates(rows)
            others = first, [row["text_pair"] for row in rows] if self.has_scores else corpus.texts
            _, first_ND, second_CD = tfidf.tf_idf(texts, *others, kind=kinds[name])
            if self.has_scores:
                cosine_N = np.asarray(first_ND.multiply(second_CD).sum(1)).ravel()
                return [{"similarity": round(float(cosine), 6)} for cosine in cosine_N]
            ranks = corpus.ranks(lambda chosen: (first_ND[chosen] @ second_CD.T).toarray())
            return [{"rank": float(rank), "best": best} for rank, best in zip(*ranks, strict=True)]

        drawn = np.random.default_rng(seed).permutation(len(train))[: tfidf.MAX_CHOOSING_ROWS]
        tried = [train[i] for i in np.sort(drawn)]
        of_kind = {name: self.score(self.outcomes(answered(tried, name), tried))[self.metric] for name in kinds}
        yield "tf-idf-cosine", answered(test, max(of_kind, key=of_kind.__getitem__))

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        if self.has_scores:
            pairs_N2 = self.outcomes(predictions, rows)
            place_N2 = np.argsort(np.argsort(pairs_N2, axis=0, kind="stable"), axis=0)
            apart_N = np.abs(place_N2[:, 0] - place_N2[:, 1])  # how many rows stand between the two ranks
            return {"mistakes": [{
                "text": self.text(rows[i]), "label": f"{pairs_N2[i, 0]:g}", "predicted": f"{pairs_N2[i, 1]:.3f}"}
                for i in map(int, np.argsort(-apart_N, kind="stable")[:N_MISTAKES_SHOWN])]}
        corpus = Candidates(rows)
        ranks_N, best_N = self._ranked(predictions, rows)
        wrong = [i for i in map(int, np.argsort(-ranks_N, kind="stable")) if ranks_N[i] > 1][:N_MISTAKES_SHOWN]
        return {"n_candidates": len(corpus.texts), "mistakes": [{
            "text": rows[i]["text"], "label": rows[i]["text_pair"], "predicted": corpus.texts[best_N[i]],
            "rank": int(ranks_N[i])} for i in wrong]}

    def extra_files(self, folder: Path, output: torch.nn.Linear, pooling: str, reader: Reader) -> None:
        """What sentence-transformers reads: the vectors that it gives are those of `decode`."""
        from safetensors.torch import save_file

        kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
        modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for i, (kind, path) in enumerate(kinds.items())]
        pooled = {f"pooling_mode_{mode}": ours == pooling for mode, ours in (
            ("cls_token", "first"), ("mean_tokens", "mean"), ("max_tokens", "max"), ("mean_sqrt_len_tokens", ""))}
        for name, values in {
            "modules.json": modules, "sentence_bert_config.json": {"max_seq_length": reader.max_tokens,
                                                                   "do_lower_case": False},
            "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None,
                                                  "similarity_fn_name": "cosine"},
            "1_Pooling/config.json": {"word_embedding_dimension": output.in_features, **pooled},
            "2_Dense/config.json": {"in_features": output.in_features, "out_features": output.out_features,
                                    "bias": True, "activation_function": "torch.nn.modules.linear.Identity"},
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(values, indent=1), "utf-8")
        save_file({f"linear.{name}": p.detach().contiguous() for name, p in output.named_parameters()},
                  folder / "2_Dense" / "model.safetensors")


def _unit(vectors_BD: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(vectors_BD.float(), dim=-1)


def _pairs(target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the windows that hold first texts, and of those that hold their second ones."""
    import torch

    first = torch.nonzero(target["role"] == QUERY)[:, 0]
    second = torch.nonzero(target["role"] == RIGHT)[:, 0]
    place = (target["row"][second][None, :] == target["row"][first][:, None]).int().argmax(1)
    return first, second[place]


def _score(value: Any) -> float | None:
    """How alike two texts are; None for what is no number and no word that says it."""
    if isinstance(value, str):
        word = " ".join(value.replace("_", " ").casefold().split())
        if word in WORDS:
            return WORDS[word]
    number = float(value) if isinstance(value, bool) else finite_number(value)
    return number if number is not None and abs(number) <= LARGEST else None


def _gold(row: Row) -> float:
    """The score of a row that was checked."""
    return _score(row["score"]) or 0.0


def _key(text: str) -> int:
    """A number of 32 bits for what a text says: equal texts have equal ones."""
    return int.from_bytes(hashlib.blake2b(canonical(text).encode("utf-8", "surrogatepass"), digest_size=4).digest(),
                          "little", signed=True)
