"""Names: whoever knows transformers, scikit-learn and PyTorch meets no private word. docs/glossary.md has the rest."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import architecture
from architecture import ROOT

HOUSE_WORDS = {"found", "said", "one", "given", "asked"}  # they say how a value came about, not what it is
MAX_HOUSE_WORDS = 10  # in a thousand lines: `one` and `given` are English, too
FIELD_TERMS = {"one_hot"}
EMPTY_NOUNS = {"manager", "handler", "helper", "helpers", "util", "utils", "common", "base", "factory", "engine",
               "processor", "wrapper", "config", "callback"}
OVERRIDES = {"get_route_handler"}  # of FastAPI's class: the name is theirs
OF_TRANSFORMERS = {"config", "base"}  # config.json and base_model: a function may be named after them, no class of ours

FILES = sorted(ROOT.rglob("*.py"))


def trees(folder: str | None = None) -> Iterator[tuple[Path, ast.Module, int]]:
    """(file, its syntax, its lines) of a folder, or of the whole package."""
    for path in FILES:
        if folder in (None, architecture.folder_of(path)):
            text = path.read_text("utf-8")
            yield path, ast.parse(text), len(text.splitlines())


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name that is written or read: of variables, attributes, arguments, functions, classes, imports."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield from name.split(".")


def is_house_word(name: str) -> bool:
    """Whether a name is a house word, or begins or ends with one: `found`, `said_C`, `is_asked`."""
    parts = name.strip("_").split("_")
    return name.strip("_") not in FIELD_TERMS and bool({parts[0], parts[-1]} & HOUSE_WORDS)


def counted(folder: str | None) -> tuple[int, int, str]:
    """(house words, lines, the worst files in words)."""
    words, n_lines = Counter[str](), 0
    for path, tree, n in trees(folder):
        words[str(path.relative_to(ROOT))] = sum(map(is_house_word, identifiers(tree)))
        n_lines += n
    worst = ", ".join(f"{path}: {n}" for path, n in words.most_common(10) if n)
    return words.total(), n_lines, worst


def test_few_house_words():
    for folder in (*architecture.FLOORS, *architecture.PUBLIC):
        n, n_lines, worst = counted(folder)
        assert n_lines
        assert n <= MAX_HOUSE_WORDS * n_lines / 1000, f"{folder}: {n} names in {n_lines} lines; {worst}"
    _, n_lines, _ = counted(None)
    assert n_lines > 10_000


def test_the_count_sees_every_kind_of_name():
    tree = ast.parse("from a import given as b\ndef f(one, x_one, *, asked=0):\n    said_C = self.is_found\n"
                     "    g(found=f'{one}')\nclass Found: ...")
    assert sum(map(is_house_word, identifiers(tree))) == 8
    assert not any(map(is_house_word, ("one_hot", "gone", "foundation", "n_given_rows", "Found")))


def test_no_empty_nouns():
    names = [(path, path.stem, EMPTY_NOUNS) for path in FILES]
    for path, tree, _ in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names.append((path, node.name, EMPTY_NOUNS))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in OVERRIDES:
                names.append((path, node.name, EMPTY_NOUNS - OF_TRANSFORMERS))
    assert len(names) > 1000
    wrong = [f"{path}: {name}" for path, name, banned in names
             if banned & {part.lower() for part in re.findall(r"[A-Z]*[a-z0-9]+|[A-Z]+", name)}]
    assert not wrong, "\n".join(wrong)


def test_modules_go_by_their_own_name():
    """`from ..runs import artifact as artifacts`: import what is needed, or the module as it is called."""
    n_imports = 0
    aliases = []
    for path, tree, _ in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                n_imports += 1
                is_module = (folder / f"{name.name}.py").is_file() or (folder / name.name).is_dir()
                if is_module and name.asname not in (None, name.name):
                    aliases.append(f"{path}:{node.lineno}: {name.name} as {name.asname}")
    assert n_imports > 500
    assert not aliases, "\n".join(aliases)
