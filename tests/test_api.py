"""The Python interface: load, fit, query."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import read_runs
from fit.errors import FitError, QueryError, RecordError
from fit.query.answer import answer
from fit.query.question import Question

ROOT = Path(__file__).parents[1]
REFERENCE = str(ROOT / "reports" / "reference")


def test_load_fit_and_query_are_the_commands(tmp_path):
    table = isoflop.load(str(ROOT / "runs" / "reference"))
    found = isoflop.fit(table, resamples=50)
    committed = isoflop.read_fit(ROOT / "reports" / "reference")
    assert (found.name, len(table)) == ("reference", 56)
    assert found.theta == pytest.approx(committed.theta, rel=1e-6)
    again = isoflop.fit(ROOT / "runs" / "reference", name="other", resamples=50)
    assert (again.name, again.theta) == ("other", found.theta)
    assert isoflop.query(found, 1e13) == answer(
        Question(source=ScalingLaw.from_fit(found), flops=1e13)
    )


def test_query_takes_a_fit_a_folder_a_law_and_the_fields_of_every_door():
    by_folder = isoflop.query(REFERENCE, "1e13")
    assert by_folder.params == isoflop.query(isoflop.read_fit(Path(REFERENCE)), 1e13).params
    assert by_folder.fit_hash is not None
    assert isoflop.query(ScalingLaw.at(Path(REFERENCE)), 1e13) == by_folder
    assert isoflop.query("besiroglu2024", 1e21).params.value == pytest.approx(2.78e9, rel=0.01)
    asked = {"dollars": "1e6", "price": 2, "device": "h100", "mfu": "40%"}
    assert isoflop.query("besiroglu2024", **asked).cost.dollars.value == pytest.approx(1e6)


def test_mistakes_are_scaling_errors():
    with pytest.raises(FitError, match="'nonsense'"):
        isoflop.fit(isoflop.load(ROOT / "runs" / "reference"), nonsense=1)
    with pytest.raises(FitError, match="'nonsense'"):
        isoflop.fit(ROOT / "runs" / "reference", nonsense=1)
    with pytest.raises(QueryError, match="unknown field 'colour'"):
        isoflop.query("besiroglu2024", 1e21, colour="red")
    with pytest.raises(QueryError, match="no budget"):
        isoflop.query("besiroglu2024")
    with pytest.raises(RecordError, match="there is none"):
        isoflop.query("reports/none", 1e21)


@pytest.mark.parametrize("name", ["load", "fit", "query"])
def test_the_three_have_docstrings_with_arguments_and_errors(name):
    text = getattr(isoflop, name).__doc__
    assert "Args:" in text and "Raises:" in text


def test_a_data_frame_gives_the_fit_of_its_table(tmp_path):
    frame = pd.DataFrame(
        [
            {"size": n, "tokens": d, "loss": 1.7 + 120 / n**0.34 + 400 / d**0.36}
            for n in (1e6, 3e6, 1e7, 3e7)
            for d in (2e7, 6e7, 2e8, 6e8)
        ]
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    options = {"column": ["params=size"], "resamples": 0, "where": "tokens > 2e7"}
    by_frame = isoflop.fit(frame, **options)
    by_path = isoflop.fit(tmp_path / "runs.csv", **options)
    assert by_frame.theta == by_path.theta
    assert by_frame.runs_used == 12
    assert by_frame.name == "fit"
    arrow = pytest.importorskip("pyarrow").Table.from_pandas(frame)
    assert isoflop.fit(arrow, **options).theta == by_path.theta
    assert "size" in frame  # the caller's frame is left as it was


def test_run_records_give_the_fit_of_their_folder():
    folder = ROOT / "runs" / "reference"
    records = list(read_runs(folder).records)
    assert isoflop.fit(records, resamples=0).theta == isoflop.fit(folder, resamples=0).theta


@pytest.mark.parametrize("runs", [3, [], [1, 2], None])
def test_what_is_neither_path_nor_table_is_refused_in_one_line(runs):
    with pytest.raises(RecordError, match="a data frame or a list of run records"):
        isoflop.fit(runs)
