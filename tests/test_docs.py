"""The documents do what they say: every block of code is run, every output compared, every file named exists."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["docs/follow-a-row.md", "docs/add-a-task.md"]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_print_what_the_page_says(page, tmp_path, backbone):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    names = {"FOLDER": str(tmp_path), "MODEL": str(backbone)}
    n_compared = 0
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec", dont_inherit=True), names)
        expected = re.findall(r"^# -> (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == expected, block
        n_compared += len(expected)
    assert n_compared >= 8


def test_the_tree_in_the_readme_is_the_tree():
    tree = (ROOT / "README.md").read_text("utf-8").rpartition("## The tree")[2]
    named = set(re.findall(r"^  (\w[\w/]*\.py|\w+/)", tree, re.MULTILINE))
    there = {p.name + ("/" if p.is_dir() else "") for p in (ROOT / "headstart").iterdir()
             if (p.suffix == ".py" or any(p.glob("*.py"))) and not p.name.startswith("__")}
    assert len(there) > 12
    assert named == there


def test_the_picture_of_the_folders_is_the_code():
    assert architecture.PAGE.read_text("utf-8") == architecture.page(), "run make docs"


def test_the_page_of_methods_is_the_cards():
    from headstart import methods

    assert (ROOT / "docs" / "methods.md").read_text("utf-8") == methods.reference(), "run make docs"


def test_links_lead_somewhere():
    n = 0
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
            n += 1
    assert n >= 5


def test_the_changelog_names_this_version():
    import headstart

    assert f"## {headstart.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_serving_image_has_the_versions_that_are_tested_each_by_its_hash():
    tested = set(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    locked = re.findall(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n?)+)",
                        (ROOT / "deploy" / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    assert len(locked) > 20
    assert {(name.lower().replace("_", "-"), version) for name, version, _ in locked} <= {
        (name.lower().replace("_", "-"), version) for name, version in tested}, "run make lock"
