"""The tutorial walks: every command of it runs and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.doc_commands import WALKED, agrees, shown, walked

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
FIRST, SECOND = TUTORIAL.split("\n## 2. ")


def test_a_page_agrees_with_what_it_shows_and_with_nothing_else():
    assert agrees(["a 1", "...", "c"], ["a 1", "b", "b", "c"])
    assert agrees(["a", "...", "c"], ["a", "c"])
    assert not agrees(["a 1"], ["a 2"])
    assert agrees(["a 1 [2, 3]"], ["a  4 [5, 6]"], masked=True)
    assert not agrees(["a 1 x"], ["a 2 y"], masked=True)
    assert not agrees(["a"], ["a", "b"])
    assert shown("```console\n$ a b\nc\n$ d\n```\n```sh\n$ e\n```\n") == [("a b", ["c"]), ("d", [])]


def follow(text, folder, masked):
    steps = shown(text)
    printed = walked([command for command, _ in steps], folder)
    for (command, lines), found in zip(steps, printed, strict=True):
        if lines:
            assert agrees(lines, found, masked), "\n".join([f"$ {command}", *found])


@pytest.mark.slow
def test_runs_of_another_trainer_become_an_answer_as_the_tutorial_shows(tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    follow(SECOND, tmp_path, masked=False)


@pytest.mark.parametrize("page", WALKED)
def test_a_page_whose_outputs_are_whole_prints_them(page, tmp_path):
    """`make readme` writes them there."""
    follow((ROOT / "docs" / page).read_text(), tmp_path, masked=False)


def test_the_start_pages_python_runs_on_the_table_of_its_commands(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "start.md").read_text()
    (table,) = re.findall(r"<< 'END'\n(.*?)^END", text, re.S | re.M)
    (tmp_path / "runs.csv").write_text(table)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    exec(code, names := {})
    assert names["law"].runs_used == 20


def test_a_here_document_belongs_to_its_command():
    block = "```console\n$ cat > a << 'END'\nb\n$ c\nEND\n$ d\ne\n```\n"
    assert shown(block) == [("cat > a << 'END'\nb\n$ c\nEND", []), ("d", ["e"])]


def test_the_record_of_ones_own_loop_is_left_as_its_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "own-runs.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    exec(code, {})
    assert list(tmp_path.glob("runs/mine/w128-s0/record.json"))


@pytest.mark.slow
def test_a_folder_of_text_becomes_a_scored_forecast_as_the_tutorial_shows(tmp_path):
    follow(FIRST, tmp_path, masked=True)
    assert list((tmp_path / "reports" / "ledger").glob("first.outcome.json"))


def test_the_tutorials_python_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.S | re.M)
    exec(code, {})
    assert re.fullmatch(r"\d+ parameters, loss 1\.00\d\n", capsys.readouterr().out)
