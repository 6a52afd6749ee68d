"""The notebook of the tutorial runs and shows what is stored in it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.notebooks import TUTORIAL, code_cells, outputs, run_cell, run_cells

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads(TUTORIAL.read_text())


def texts(shown):
    """What a cell shows as text, without its pictures, numbers to three digits."""
    shown = json.dumps([o.get("text") or o["data"]["text/plain"] for o in shown])
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda m: f"{float(m[0]):.3g}", shown)


def test_every_cell_runs_and_shows_what_is_stored(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    shutil.copy(ROOT / "docs" / "export.csv", tmp_path)
    shown = run_cells(NOTEBOOK, tmp_path)
    cells = code_cells(NOTEBOOK)
    assert len(cells) >= 10
    for cell, (printed, value) in zip(cells, shown, strict=True):
        assert texts(cell["outputs"]) == texts(outputs(printed, value)), "".join(cell["source"])
    assert any("image/png" in o.get("data", {}) for c in cells for o in c["outputs"])


def test_a_cell_shows_its_last_expression_and_nothing_else():
    names = {}
    assert run_cell("a = 1\na + 1", names) == ("", 2)
    assert run_cell("print(a)\nb = a", names) == ("1\n", None)
    assert run_cell("a;", names) == ("", None)


def test_links_of_the_notebook_resolve():
    cells = [c for c in NOTEBOOK["cells"] if c["cell_type"] == "markdown"]
    targets = [t for c in cells for t in re.findall(r"\]\(([^)#]+)", "".join(c["source"]))]
    assert len(targets) >= 4
    assert all((TUTORIAL.parent / target).exists() for target in targets)
