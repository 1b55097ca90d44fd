"""Run as a script, in a process of its own: does this tokenizer cut odd texts into pieces in bounded time and memory?

stdin: a JSON list of a tokenizer.json and of texts. It ends with 0, with what is wrong on the last line of stderr, or
by its limits.
"""

from __future__ import annotations

import json
import resource
import sys

CPU_S, MEMORY_BYTES = 1, 2**31
MAX_GROWTH = 32  # pieces a character; Unicode's normal forms make 18 of one


def main() -> None:
    """Read stdin, cut each text, say what is wrong."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tokenizers import Tokenizer

    described, texts = json.load(sys.stdin)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(described))
        for text in texts:
            normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
            n_pieces = len(tokenizer.encode(text, add_special_tokens=False))
            if max(n_pieces, len(normalized)) > MAX_GROWTH * len(text):
                sys.exit(f"it makes more than {MAX_GROWTH} characters of one")
    except Exception as reason:  # noqa: BLE001 - whatever the library raises is the answer
        sys.exit(str(reason).strip() or type(reason).__name__)
    # A panic of the library ends in a traceback, whose last line says what it was.


if __name__ == "__main__":
    main()
