"""`--wandb` hands a written report to the tracker that the trainer's package declares."""

import importlib.metadata
import shutil
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.cli.main import main

pytestmark = pytest.mark.usefixtures("few_checks")

ROOT = Path(__file__).parents[3]


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """A report folder, and what a tracker in the entry points was given."""
    calls = []

    class Entry:
        def load(self):
            return lambda folder, project: calls.append((folder, project)) or "somewhere"

    monkeypatch.setattr(
        importlib.metadata, "entry_points",
        lambda group, name: [Entry()] if (group, name) == ("isoflop.trackers", "wandb") else [],
    )  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref").mkdir()
    shutil.copy(ROOT / "reports" / "reference" / "fit.json", tmp_path / "ref")
    return calls


def test_a_fit_is_logged_on_request_and_the_command_says_where(logged):
    table = str(ROOT / "docs" / "export.csv")
    columns = ("params=params_M", "tokens=tokens_seen", "loss=val/loss")
    words = [x for c in columns for x in ("--column", c)] + ["--unit", "params=M"]
    fit = ["fit", table, *words, "--out", "ref", "--no-report"]
    result = CliRunner().invoke(main, [*fit, "--wandb", "me/scaling"])
    assert result.exit_code == 0, result.output
    assert logged == [(Path("ref"), "me/scaling")]
    assert "logged   somewhere" in result.output


def test_without_the_trainer_it_is_one_line_that_says_what_to_install(logged, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("fit.report.render.write_any_report", lambda folder, **_: Made(folder))
    result = CliRunner().invoke(main, ["report", "ref", "--wandb", "scaling"])
    assert result.exit_code == 1
    assert "pip install 'isoflop[sweep]'" in result.stderr
    assert logged == []


class Made:
    """A written report."""

    def __init__(self, folder):
        self.path, self.verdict, self.refusal = folder / "report.pdf", "trust", None


def test_the_declared_tracker_is_a_function_of_the_trainer():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["isoflop.trackers"]["wandb"].partition(":")
    assert callable(getattr(import_module(module), name))
