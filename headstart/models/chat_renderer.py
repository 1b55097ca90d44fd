"""Run as a script, in a process of its own: what does a chat template, which is a program, write around messages?

stdin: a JSON object: "template", "tokens" (special tokens by name) and "chats", a list of [messages, whether a reply
is to come]. stdout: a JSON list, of each chat the text or what is wrong. It ends with 0, or by its limits.
"""

from __future__ import annotations

import json
import resource
import sys

CPU_S, MEMORY_BYTES = 2, 2**30  # beside what the libraries took


def main() -> None:
    """Read stdin, render each chat, write stdout."""
    from transformers.utils.chat_template_utils import render_jinja_template

    request = json.load(sys.stdin)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime) + 1 + CPU_S
    with open("/proc/self/statm", encoding="ascii") as file:
        n_bytes = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    for kind, limit in ((resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_AS, n_bytes), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, limit))
    answers = []
    for messages, is_open in request["chats"]:
        try:
            rendered = render_jinja_template([messages], chat_template=request["template"],
                                             add_generation_prompt=is_open, **request["tokens"])
            text = rendered[0] if isinstance(rendered, tuple) else rendered
            answers.append({"text": str(text[0])})
        except Exception as reason:  # noqa: BLE001 - a template may raise whatever it likes
            answers.append({"error": str(reason).strip() or type(reason).__name__})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
