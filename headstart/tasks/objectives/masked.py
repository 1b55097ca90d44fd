"""masked: words are hidden, and the model says which they were (whole words, BERT's way of hiding).

Source  Devlin et al. 2019, "BERT"; whole words: their release of May 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from ...core.errors import SpecError
from ...core.reader import ChatFormat, Reader
from ...core.values import IGNORE, Batch, Row, Window, collate
from .objective import PREDICTS, Objective

MASKS = ("[MASK]", "<mask>")
HIDDEN, RANDOM = 0.8, 0.1  # shares of the chosen words that the mask hides, and that other tokens stand for
NO_WORD = -1
MIN_WORDS = 3  # of a window: of fewer nothing tells the hidden one


@dataclass(frozen=True)
class MaskedLanguage(Objective):
    """share: of each window's words that are asked for. mask_id, text_ids: the reader's; text_ids are for words
    that are exchanged.
    """

    name: ClassVar = "masked"
    options: ClassVar = ("share",)

    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mask_id: int = -1
    text_ids: tuple[int, ...] = ()

    def fitted_to(self, reader: Reader, chat_format: Callable[[], ChatFormat | None]) -> Self:
        ids = [i for mask in MASKS if (i := reader.token_id(mask)) is not None]
        if not ids:
            raise SpecError("--objective", '"masked" needs a backbone whose tokenizer has a mask token '
                            f"({', '.join(MASKS)}); this one has none.", "Use --objective causal, or contrastive, or "
                            "another backbone.")
        texts = [i for i, text in enumerate(reader.token_texts) if text.strip()]
        return replace(self, mask_id=ids[0], text_ids=tuple(texts))

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        """All of the text, window after window; those of fewer than MIN_WORDS words are left out."""
        windows = []
        for piece in reader.read_windows(row["text"]):
            words = [NO_WORD if word is None else word for word in piece.words_T]
            if len(set(words) - {NO_WORD}) >= MIN_WORDS:
                windows.append(Window(i, piece.inputs, {"words": words}))
        return windows

    def corrupt(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Hide words of each window, as drawn from `rng`."""
        words_BT, ids_BT = batch.target["words"], batch.inputs["input_ids"].copy()
        labels_BT = np.full_like(ids_BT, IGNORE)
        for words_T, ids_T, labels_T in zip(words_BT, ids_BT, labels_BT, strict=True):
            words = np.unique(words_T[words_T >= 0])
            chosen = rng.choice(words, max(1, round(self.share * len(words))), replace=False)
            luck = rng.random(len(chosen))
            is_chosen_T = np.isin(words_T, chosen)
            labels_T[is_chosen_T] = ids_T[is_chosen_T]
            ids_T[np.isin(words_T, chosen[luck < HIDDEN])] = self.mask_id
            is_random_T = np.isin(words_T, chosen[(luck >= HIDDEN) & (luck < HIDDEN + RANDOM)])
            ids_T[is_random_T] = rng.choice(self.text_ids, int(is_random_T.sum()))
        inputs = {**batch.inputs, "input_ids": ids_BT, PREDICTS: (labels_BT != IGNORE).astype(np.int64)}
        return replace(batch, inputs=inputs, target={"labels": labels_BT})

    def for_test(self, window: Window, pad_id: int, seed: tuple[int, ...]) -> Window:
        names: dict[str, Sequence[list[int]]] = {name: [value] for name, value in window.inputs.items()}
        batch = self.corrupt(collate(names, {"words": [window.target["words"]]}, pad_id), np.random.default_rng(seed))
        inputs = {name: batch.inputs[name][0] for name in (*window.inputs, PREDICTS)}
        return replace(window, inputs=inputs, target={"labels": batch.target["labels"][0]})
