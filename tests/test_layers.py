"""The floors of the house: imports only go down, none goes round, and help never loads torch."""

import ast
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent / "headstart"

FLOORS = [
    {"types", "errors"},
    {"spec", "metrics", "registry", "heads", "drawing", "sources", "machine", "progress", "trust", "tagging",
     "wording"},
    {"sealed", "runtime", "backbone", "blocks", "memo", "duplicates", "sections", "squad",
     "entities", "skipping"},
    {"data", "report", "batches", "adapters", "ranking", "fusions"},
    {"features", "splits", "prefix"},
    {"tasks", "methods"},
    {"train", "predict", "runfolder", "resolving"},
    {"weights", "learning", "evidence", "graph", "parity"},
    {"artifact"},
    {"extract", "triples", "answers"},
    {"workbench", "exporting"},
    {"compare", "sklearn", "audit", "search", "serve"},
    {"cli"},
]
LEVEL = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module of the first level) of every import of our own in `path`, also inside functions."""
    found = []
    up = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == up:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found += [(node.lineno, name) for name in names if name in LEVEL]
    return found


def test_imports_only_go_down():
    files = [p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ("__init__", "__main__")]
    assert len(files) > 25
    wrong = []
    for path in files:
        me = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert me in LEVEL, f"{path}: put {me} on a floor"
        wrong += [f"{path}:{line}: {me} (floor {LEVEL[me]}) imports {name} (floor {LEVEL[name]})"
                  for line, name in imports(path) if LEVEL[name] >= LEVEL[me] and name != me]
    assert not wrong, "\n".join(wrong)


def loaded_by(code: str) -> set[str]:
    out = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True,
                         text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


def test_checking_a_spec_loads_no_torch():
    code = ("import headstart.spec, headstart.methods, headstart.tasks\n"
            "headstart.spec.resolve(('x', {'data': {'train': 'a.csv'}}))\n"
            "headstart.methods.build({'name': 'fine-tuning'}); headstart.tasks.find('text-classification')")
    assert "headstart.tasks.text_classification" in loaded_by(code)
    assert not {"torch", "transformers", "sklearn"} & loaded_by(code)


def test_help_is_fast_and_loads_no_torch():
    code = ("import sys; sys.argv = ['headstart', '--help']\nfrom headstart.cli import main\n"
            "try: main()\nexcept SystemExit: pass")
    assert not {"torch", "transformers", "sklearn", "numpy"} & loaded_by(code)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.4


def test_import_is_fast():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import headstart"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3
