"""The package as three functions: load, fit, query."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fit
from fit.errors import FitError, QueryError, RecordError
from fit.query import Question, answer
from fit.source import Source

ROOT = Path(__file__).parents[2]
REFERENCE = str(ROOT / "reports" / "reference")


def test_load_fit_and_query_are_the_commands(tmp_path):
    table = fit.load(str(ROOT / "runs" / "reference"))
    found = fit.fit(table, resamples=50)
    committed = fit.read_fit(ROOT / "reports" / "reference")
    assert (found.name, len(table)) == ("reference", 40)
    assert found.theta == pytest.approx(committed.theta, rel=1e-6)
    again = fit.fit(ROOT / "runs" / "reference", name="other", resamples=50)
    assert (again.name, again.theta) == ("other", found.theta)
    assert fit.query(found, 1e13) == answer(Question(source=Source.from_fit(found), flops=1e13))


def test_query_takes_a_fit_a_folder_a_law_and_the_fields_of_every_door():
    by_folder = fit.query(REFERENCE, "1e13")
    assert by_folder.params == fit.query(fit.read_fit(Path(REFERENCE)), 1e13).params
    assert by_folder.fit_hash is not None
    assert fit.query(Source.at(Path(REFERENCE)), 1e13) == by_folder
    assert fit.query("besiroglu2024", 1e21).params.value == pytest.approx(2.78e9, rel=0.01)
    asked = {"dollars": "1e6", "price": 2, "device": "h100", "mfu": "40%"}
    assert fit.query("besiroglu2024", **asked).cost.dollars.value == pytest.approx(1e6)


def test_the_module_of_a_query_stays_a_module():
    code = (
        "import fit\nfirst = fit.query\nfrom fit.query import answer, query\n"
        "import fit.query as m\n"
        "assert first is query and m.answer is answer and callable(fit.query)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_mistakes_are_scaling_errors():
    with pytest.raises(FitError, match="'nonsense'"):
        fit.fit(fit.load(ROOT / "runs" / "reference"), nonsense=1)
    with pytest.raises(FitError, match="'nonsense'"):
        fit.fit(ROOT / "runs" / "reference", nonsense=1)
    with pytest.raises(QueryError, match="unknown field 'colour'"):
        fit.query("besiroglu2024", 1e21, colour="red")
    with pytest.raises(QueryError, match="no budget"):
        fit.query("besiroglu2024")
    with pytest.raises(RecordError, match="there is none"):
        fit.query("reports/none", 1e21)


@pytest.mark.parametrize("name", ["load", "fit", "query"])
def test_the_three_have_docstrings_with_arguments_and_errors(name):
    text = getattr(fit, name).__doc__ if name != "query" else fit.query.query.__doc__
    assert "Args:" in text and "Raises:" in text
