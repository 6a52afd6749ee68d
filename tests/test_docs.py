"""The README says what is true: links resolve, commands exist, outputs are those printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.cli import main
from sweep.grid import grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
SHOWN = re.findall(r"^\$ isoflop ([^\n]+)\n(.*?)(?=^\$ |^```)", README, re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[c for c, _ in SHOWN])
def test_commands_of_the_readme_print_what_it_shows(command, output, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = CliRunner().invoke(main, shlex.split(command))
    assert found.exit_code == 0, found.output
    assert found.output.strip() == output.strip()


def test_the_readme_shows_output():
    assert len(SHOWN) >= 2


def test_sweeps_of_the_readme_span_grids_that_can_be_trained():
    commands = re.findall(r"^python -m sweep(?:\.plan)? (?:-m )?([^\n#]+)", README, re.M)
    assert len(commands) >= 4
    for command in commands:
        overrides = shlex.split(command)
        if {"data=text", "train.devices=8"} & set(overrides):
            continue
        assert all(c.refusal is None for c in grid(overrides, multirun=True)), command


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
