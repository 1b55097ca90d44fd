"""A run's page: what scores.json and steps.jsonl hold, as HTML, as Markdown, and as a model card.

    write(Path("runs/tickets"))        # report.html and report.md beside scores.json

Nothing is scored here: `sections` decides what to say, and this file prints it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..core.errors import ArtifactError, MissingExtraError
from ..core.files import write_file
from ..core.scores import Scores
from . import drawing
from .parts import Headline, Section, Table
from .run import facts, headline, score_picture, sections, shown
from .wording import clean, printable


def render_html(scores: Scores, steps: Sequence[Mapping[str, Any]], spec_yaml: str) -> str:
    """One self-contained page. Raises MissingExtraError without jinja2."""
    scores = shown(scores)
    return page(headline(scores), facts(scores), sections(scores, clean(steps)), printable(spec_yaml), _kind(scores),
                _footer(scores))


def page(top: Headline, facts: Sequence[tuple[str, str]], sections: Sequence[Section], spec_yaml: str, kind: str,
         footer: str) -> str:
    """The page around any sections; nothing on it is loaded from elsewhere."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("report", "jinja2", "train") from None

    source = Path(__file__).with_name("report.html.jinja").read_text("utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                  lstrip_blocks=True).from_string(source)
    return template.render(headline=top, facts=facts, sections=sections, spec_yaml=spec_yaml, plot_style=drawing.STYLE,
                           kind=kind, footer=footer) + "\n"


def _kind(scores: Scores) -> str:
    return " · ".join(["headstart report", *(name for name in (scores.task, scores.method) if name)])


def _footer(scores: Scores) -> str:
    version = scores.versions.get("headstart", "")
    return f"Written by headstart {version}".rstrip() + " from scores.json and steps.jsonl, which lie beside this page."


def render_markdown(scores: Scores, steps: Sequence[Mapping[str, Any]], spec_yaml: str) -> str:
    """The same page as Markdown."""
    scores = shown(scores)
    body = markdown_page(headline(scores), facts(scores), sections(scores, clean(steps)))
    spec = ["## Spec", _fenced(spec_yaml)] if spec_yaml else []
    return "\n\n".join([body.rstrip(), *spec, _inert(_footer(scores))]) + "\n"


def markdown_page(top: Headline, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The same sections as Markdown; pictures are left out, tables are whole."""
    lines = [f"# {_inert(top.title)}", _inert(top.rest), _inert(top.plain),
             "\n".join(f"- {name}: {_inert(value)}" for name, value in facts)]
    for section in sections:
        lines += [f"## {section.title}", *map(_inert, section.lead), *map(_markdown_table, section.tables)]
    return "\n\n".join(line for line in lines if line) + "\n"


def write_study(verb: str, values: Mapping[str, Any], top: Headline, facts: Sequence[tuple[str, str]],
                sections: Sequence[Section], out: Path) -> None:
    """`values` and the sections made of them as VERB.json, VERB.html and VERB.md in the folder `out`."""
    footer = f"Written by headstart {verb} from {verb}.json, which lies beside this page."
    write_file(out / f"{verb}.json", [json.dumps(values, ensure_ascii=False, indent=1)])
    write_file(out / f"{verb}.html", [page(top, facts, sections, "", f"headstart {verb}", footer)])
    write_file(out / f"{verb}.md", [markdown_page(top, facts, sections)])


def _markdown_table(table: Table) -> str:
    rule = ["---"] * table.n_words + ["---:"] * (len(table.columns) - table.n_words)
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(map(_inert, row)) + " |" for row in rows]
    return "\n".join([f"{_inert(table.caption)}:", "", lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _inert(text: str) -> str:
    """`text` so that Markdown shows it as it is: no markup, no HTML, no links. Escapes only what would act."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    acts = r"(?=[\\`*|~$])|(?<!\w)(?=_)|(?=_(?!\w))|(?=\][(\[:])|(?=://)|(?<=www)(?=\.)"
    at_start = r"^(\d*)(?=[#+.)=-]+(?:\s|$)|>)"
    return re.sub(at_start, r"\1\\", re.sub(acts, r"\\", text))


def _fenced(text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{printable(text).rstrip()}\n{fence}"


def html_summary(scores: Scores) -> str:
    """What a notebook shows for an artifact: verdict, score, and the fitted model beside its baselines. No jinja2."""
    scores = shown(scores)
    top = headline(scores)
    return (f'<div class="headstart-summary" style="max-width: 44rem"><style>{drawing.STYLE}</style>'
            f"<p><strong>{escape(top.title)}</strong></p><p>{escape(top.plain)}</p>{score_picture(scores)}</div>")


def write(folder: Path) -> Path:
    """Write report.html and report.md into `folder` from its scores.json, steps.jsonl (if any) and spec.yaml (if any).

    Returns the path of report.html. Raises ArtifactError when a file cannot be read, ResourceError when one cannot
    be written.
    """
    scores_file = folder / "scores.json"
    scores = Scores.from_json(_json(scores_file, _read(scores_file)), str(scores_file))
    steps_file, spec_file = folder / "steps.jsonl", folder / "spec.yaml"
    lines = _read(steps_file).splitlines() if steps_file.exists() else []
    steps = [_json(f"{steps_file}:{k}", line) for k, line in enumerate(lines, 1) if line.strip()]
    spec_yaml = _read(spec_file) if spec_file.exists() else ""
    write_file(folder / "report.md", [render_markdown(scores, steps, spec_yaml)])
    path = folder / "report.html"
    write_file(path, [render_html(scores, steps, spec_yaml)])
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(str(path), f"cannot be read ({error}); a report is written from it.",
                            "Is this the folder of a finished run? headstart fit writes it.") from None


def _json(where: object, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactError(str(where), f"is not JSON: {error}.", "The file is damaged; fit again.") from None
    if not isinstance(value, dict):
        raise ArtifactError(str(where), "holds no JSON object.", "The file is damaged; fit again.")
    return value
