"""`bench writing`: greedy decoding beside transformers.generate with its cache of keys and values.

The same weights in one process, prompts of 65 tokens (abstracts in the model's chat format, cut at their end), 64 new
tokens each, no token ends a text; the two take turns. Tokens per second of new ones, the prompts' reading included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl, understanding

NAMES = ("decoding",)
N_PROMPT, N_NEW, N_ROUNDS = 65, 64, 5
SIZES = (1, 8)


def cells(quick: bool) -> list[Cell]:
    return [{"name": "decoding", "n_texts": n, "n_new": 8 if quick else N_NEW, "rounds": 1 if quick else N_ROUNDS}
            for n in SIZES]


def measure(name: str, n_texts: int, n_new: int, rounds: int) -> dict[str, Any]:
    systems = both(n_texts, n_new)
    for generate in systems.values():
        generate()
    seconds: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
    texts = {}
    for i in range(rounds):
        for system, generate in list(systems.items())[:: 1 - 2 * (i % 2)]:
            began, cpu = time.perf_counter(), time.process_time()
            texts[system] = generate()
            seconds[system].append((time.perf_counter() - began, time.process_time() - cpu))
    ours, theirs = texts.values()
    n = n_texts * n_new
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / n_texts
    return {"tokens_per_s": {system: [n / wall for wall, _ in pairs] for system, pairs in seconds.items()},
            "tokens_per_cpu_s": {system: [n / cpu for _, cpu in pairs] for system, pairs in seconds.items()},
            "same_texts": same}


def both(n_texts: int, n_new: int) -> dict[str, Callable[[], list[list[int]]]]:
    """What writes the texts, by system."""
    import numpy as np
    import torch
    import transformers

    from headstart import tasks
    from headstart.core.decoding import write
    from headstart.core.generation import Generation
    from headstart.models import precision
    from headstart.models.backbone import build_model, load_backbone
    from headstart.models.stepping import TorchStepper

    folder = str(understanding.MODELS / "smollm2-135m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": "Summarize:\n\n" + row["document"]}],
                                             return_dict=False)[:N_PROMPT]
               for row, _ in zip(read_jsonl(DATA / "scitldr" / "test.jsonl"), range(n_texts), strict=False)]
    ids_BT = np.array(prompts)
    inputs = {"input_ids": ids_BT, "attention_mask": np.ones_like(ids_BT)}
    task = tasks.build({"name": "summarization"})
    model, cpu = build_model(load_backbone(folder, 512, 0), task, "mean", 0, 0.0), torch.device("cpu")
    precision.put_in(model, "fp32", cpu, None)
    stepper, how = TorchStepper(model, cpu), Generation(max_new_tokens=n_new)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}

    def ours() -> list[list[int]]:
        return [list(text.ids) for text in write(stepper, inputs, how, ends=(), limits_B=[n_new] * n_texts)]

    @torch.inference_mode()
    def theirs() -> list[list[int]]:
        ids = peer.generate(**tensors, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, use_cache=True,
                            eos_token_id=None, pad_token_id=0)
        return [line[N_PROMPT:] for line in ids.tolist()]

    return {"headstart": ours, "transformers.generate": theirs}


def table(runs: Sequence[Run]) -> str:
    rows = []
    for run in of(runs, name="decoding"):
        ours, theirs = (median(rates) for rates in run.result["tokens_per_cpu_s"].values())
        wall, wall_theirs = (median(rates) for rates in run.result["tokens_per_s"].values())
        rows.append([run.cell["n_texts"], f"**{ours:.1f}**", f"{theirs:.1f}", f"{ours / theirs:.3f}", f"{wall:.1f}",
                     f"{wall_theirs:.1f}", f"{run.result['same_texts']:.0%}", ">= 1", met(ours >= theirs)])
    if not rows:
        return ""
    about = ("**Decoding**, greedy, medians of the rounds; `python -m bench writing --only decoding`. "
             + (__doc__ or "").partition("\n\n")[2].strip())
    header = ["prompts at once", "headstart, tokens/s of a processor", "transformers.generate", "ratio",
              "headstart, tokens/s", "transformers.generate, tokens/s", "same texts", "demanded", "met"]
    return f"{about}\n\n{markdown(header, rows)}"
