"""The floors of the house: imports only go down, none goes round, and help never loads torch."""

import subprocess
import sys
import time

import architecture
import pytest
from architecture import FLOORS, PUBLIC, ROOT, folder_of


def test_every_file_stands_on_a_floor():
    files = list(ROOT.rglob("*.py"))
    assert len(files) > 80
    assert {folder_of(path) for path in files} == {*FLOORS, *PUBLIC}


def test_imports_only_go_down():
    found = list(architecture.imports())
    assert len(found) > 200
    wrong = [f"{path}:{line}: {folder_of(path)} imports {name}, which does not stand below it"
             for path, line, name in found if folder_of(path) not in PUBLIC
             and FLOORS.index(name) > FLOORS.index(folder_of(path))]
    assert not wrong, "\n".join(wrong)


def loaded_by(code: str) -> set[str]:
    out = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True,
                         text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


def test_checking_a_spec_loads_no_torch():
    code = ("import headstart.core.spec, headstart.methods, headstart.tasks\n"
            "headstart.core.spec.resolve_layers(('x', {'data': {'train': 'a.csv'}}))\n"
            "headstart.methods.build({'name': 'fine-tuning'}); headstart.tasks.find('text-classification')")
    assert "headstart.tasks.text_classification" in loaded_by(code)
    assert not {"torch", "transformers", "sklearn"} & loaded_by(code)


def test_help_loads_no_torch():
    code = ("import sys; sys.argv = ['headstart', '--help']\nfrom headstart.cli import main\n"
            "try: main()\nexcept SystemExit: pass")
    assert not {"torch", "transformers", "sklearn", "numpy"} & loaded_by(code)


@pytest.mark.timing
def test_help_is_fast():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.4


@pytest.mark.timing
def test_import_is_fast():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import headstart"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3
