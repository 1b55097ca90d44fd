"""What others would write: the `transformers` Trainer with its defaults, and the plain tutorial loop.

Both load the same weights as headstart does, in fp32, and end with the last weights: they choose nothing by a score.
rows are {"text", "label"}. Each returns (model's answer to texts, timing), the clock starting after `n_warm_up` steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[list[str]], list[str]]
TUTORIAL_LENGTH, TUTORIAL_BATCH, TUTORIAL_LR = 128, 16, 5e-5


def _load(rows: list[dict[str, str]]) -> tuple[Any, Any, list[str]]:
    import torch
    import transformers

    from headstart.models import backbone

    folder = backbone.locate("minilm-l6")
    labels = sorted({row["label"] for row in rows})
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(labels), dtype=torch.float32)
    return tokenizer, model, labels


def _answer(tokenizer: Any, model: Any, labels: list[str]) -> Answer:
    import torch

    @torch.inference_mode()
    def answer(texts: list[str]) -> list[str]:
        model.eval()
        found: list[str] = []
        for at in range(0, len(texts), 32):
            inputs = tokenizer(texts[at : at + 32], padding=True, truncation=True, return_tensors="pt").to(model.device)
            found += [labels[int(k)] for k in model(**inputs).logits.argmax(-1)]
        return found

    return answer


def trainer(rows: list[dict[str, str]], folder: Path, *, n_warm_up: int, epochs: int = 1,
            seed: int = 42, change: Callable[[Any], Any] = lambda model: model,
            began: list[float] | None = None, **settings: Any) -> tuple[Answer, dict[str, Any]]:
    """All of TrainingArguments' defaults but: no checkpoints (they would only cost it time), no reports to screens.

    change: what is done to the model first, such as freezing.  began: gets the clock before and after training.
    settings: other TrainingArguments.
    """
    import datasets
    import torch
    import transformers

    tokenizer, model, labels = _load(rows)
    model = change(model)
    encoded = datasets.Dataset.from_list([{"text": r["text"], "label": labels.index(r["label"])} for r in rows]).map(
        lambda some: tokenizer(some["text"], truncation=True), batched=True, remove_columns=["text"])
    stamps: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():  # it was only handed its steps
                torch.cuda.synchronize()
                stamps[-1] = time.perf_counter()

    arguments = transformers.TrainingArguments(str(folder), num_train_epochs=epochs, seed=seed, save_strategy="no",
                                               report_to="none", disable_tqdm=True, **settings)
    peer = transformers.Trainer(model=model, args=arguments, train_dataset=encoded, processing_class=tokenizer,
                                callbacks=[Clock()])
    began = [] if began is None else began
    began.append(time.perf_counter())
    peer.train()
    began.append(time.perf_counter())
    n_tokens = sum(len(ids) for ids in encoded["input_ids"])
    return _answer(tokenizer, model, labels), _timing(
        stamps, n_warm_up, len(rows), epochs, arguments.per_device_train_batch_size, n_tokens)


def lora(model: Any) -> Any:
    """What peft's own guide for sequence classification says, on all linear layers."""
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=8,
                                                      lora_alpha=16, lora_dropout=0.1))


def setfit(rows: list[dict[str, str]], folder: Path, *, seed: int, **settings: Any) -> Answer:
    """SetFit with its defaults: pairs of texts, one epoch, batches of 16, a logistic regression as head."""
    import datasets
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    from headstart.models import backbone

    body = SentenceTransformer(str(backbone.locate("minilm-l6")), local_files_only=True)
    model = SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=1000))
    arguments = TrainingArguments(str(folder), seed=seed, save_strategy="no", report_to="none",
                                  show_progress_bar=False, **settings)
    labels = sorted({row["label"] for row in rows})
    given = datasets.Dataset.from_list([{"text": r["text"], "label": labels.index(r["label"])} for r in rows])
    Trainer(model=model, args=arguments, train_dataset=given).train()
    return lambda texts: [labels[int(k)] for k in model.predict(texts)]


def tutorial(rows: list[dict[str, str]], folder: Path, *, n_warm_up: int, epochs: int = 1,
             seed: int = 42) -> tuple[Answer, dict[str, Any]]:
    """The loop of countless notebooks."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    tokenizer, model, labels = _load(rows)
    torch.manual_seed(seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    encoded = tokenizer([row["text"] for row in rows], padding="max_length", truncation=True,
                        max_length=TUTORIAL_LENGTH, return_tensors="pt")
    gold = torch.tensor([labels.index(row["label"]) for row in rows])
    loader = DataLoader(TensorDataset(encoded["input_ids"], encoded["attention_mask"], gold), shuffle=True,
                        batch_size=TUTORIAL_BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TUTORIAL_LR)
    n_steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0.0, 1 - n / n_steps))
    stamps = []
    model.train()
    for _ in range(epochs):
        for batch in loader:
            input_ids, attention_mask, label = (tensor.to(model.device) for tensor in batch)
            loss = model(input_ids=input_ids, attention_mask=attention_mask, labels=label).loss
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            stamps.append(time.perf_counter())
    return _answer(tokenizer, model, labels), _timing(
        stamps, n_warm_up, len(rows), epochs, TUTORIAL_BATCH, int(encoded["attention_mask"].sum()))


def _timing(stamps: list[float], n_warm_up: int, n_rows: int, epochs: int, batch: int, n_tokens: int) -> dict[str, Any]:
    """From the end of the last warm-up step to the end of the last step."""
    assert len(stamps) == epochs * math.ceil(n_rows / batch), "every step was stamped, and none was accumulated"
    seconds = stamps[-1] - stamps[n_warm_up - 1]
    timed = epochs * n_rows - n_warm_up * batch
    return {"rows_per_s": timed / seconds, "tokens_per_s": timed * n_tokens / n_rows / seconds, "n_rows": timed,
            "n_steps": len(stamps) - n_warm_up, "seconds": seconds}
