"""Whatever a notebook passes, a mistake is a ScalingError of one message and nothing else."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoflop

pytestmark = pytest.mark.usefixtures("few_checks")

ROOT = Path(__file__).parents[2]
HOSTILE = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        1j,
        "",
        "x",
        "nan",
        "1e999",
        b"x",
    ),
    *([], [None], {}, {"a": 1}, (), set(), object(), print, datetime.date(2026, 1, 1)),
    *(np.array([]), np.array([[1, 2], [3, 4]]), np.array("x"), np.float64("nan"), pd.NaT),
    *("\0", "../x", "9" * 5000, Path("nowhere"), pd.Series([1, 2]), pd.DataFrame()),
]
COLUMNS = {
    "params": [1e6, 3e6, 1e7, 3e7] * 4,
    "tokens": np.repeat([2e7, 6e7, 2e8, 6e8], 4),
    "loss": [3.5, 3.1, 2.9, 2.8, 3.2, 2.9, 2.7, 2.6, 3.1, 2.8, 2.5, 2.4, 3.0, 2.7, 2.4, 2.3],
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def law():
    return isoflop.read_fit(ROOT / "reports" / "reference")


def refused_or_done(function, *args, **options):
    """Anything but a ScalingError escapes and fails the test."""
    try:
        return function(*args, **options)
    except isoflop.ScalingError as error:
        assert str(error).strip()
        return None


EACH = pytest.mark.parametrize("value", HOSTILE, ids=lambda v: f"{type(v).__name__}-{str(v)[:8]!r}")


@EACH
def test_a_hostile_value_as_runs(value):
    assert refused_or_done(isoflop.fit, value) is None
    assert refused_or_done(isoflop.load, value) is None


@EACH
def test_a_hostile_value_as_a_law(value, law):
    assert refused_or_done(isoflop.query, value, 1e13) is None
    assert refused_or_done(isoflop.predict, value, 1e5, 1e7) is None
    assert refused_or_done(isoflop.predict_many, value, 1e5, 1e7) is None
    assert refused_or_done(isoflop.read_fit, value) is None


@EACH
def test_a_hostile_value_as_a_budget_or_a_limit(value, law):
    refused_or_done(isoflop.query, law, value)
    for field in ("dollars", "loss", "max_params", "memory", "device", "unique_tokens", "mfu"):
        refused_or_done(isoflop.query, law, 1e13, **{field: value})


@EACH
def test_a_hostile_value_as_a_count(value, law):
    refused_or_done(isoflop.predict, law, value, 1e7)
    refused_or_done(law.predict, 5e4, value)
    refused_or_done(law.predict, [5e4, value], 1e7)
    refused_or_done(law.predict, 5e4, 1e7, unique_tokens=value)
    refused_or_done(isoflop.predict, law, 5e4, 1e7, unique_tokens=value)
    refused_or_done(law.predict, 5e4, 1e7, width=value)


@EACH
def test_a_hostile_value_as_axes_kind_and_path(value, law, tmp_path):
    if value is not None:
        assert refused_or_done(law.plot, value) is None
    assert refused_or_done(law.plot, kind=value) is None
    refused_or_done(law.save, value)


@pytest.mark.slow
@EACH
def test_a_hostile_value_as_an_option_of_a_fit(value):
    for option in (
        *("law", "loss", "interval", "discrepancy", "entropy", "level", "delta", "resamples"),
        *("seed", "weight", "prior", "hold", "column", "unit", "where", "wide", "cluster"),
        *("params", "flops", "heldout", "base", "keep_failed", "name"),
    ):
        refused_or_done(isoflop.fit, COLUMNS, **{"resamples": 0, option: value})


@EACH
def test_a_hostile_value_as_an_option_of_a_table(value):
    for option in (
        *("rename", "units", "where", "wide", "cluster", "params", "flops", "heldout"),
        *("target", "keep_failed"),
    ):
        refused_or_done(isoflop.load, pd.DataFrame(COLUMNS), **{option: value})


@EACH
def test_a_hostile_value_as_a_setting_of_a_record(value):
    settings = {"params": 1e6, "tokens": 1e7}
    for name in ("params", "tokens", "flops", "params_embedding", "seed", "lr", "batch_tokens"):
        refused_or_done(isoflop.record, "runs", "r", **(settings | {name: value}))
    for name in ("trunk", "data", "unique_tokens", "recipe", "width", "wideness"):
        refused_or_done(isoflop.record, "runs", "r", **(settings | {name: value}))
    refused_or_done(isoflop.record, value, "r", **settings)
    refused_or_done(isoflop.record, "runs", value, **settings)


@pytest.mark.slow
@EACH
def test_a_hostile_value_as_a_cell_of_each_column(value):
    for column in COLUMNS:
        cells = [*list(COLUMNS[column])[:-1], value]
        refused_or_done(isoflop.fit, {**COLUMNS, column: cells}, resamples=0)
        refused_or_done(isoflop.fit, {**COLUMNS, column: value}, resamples=0)


def test_frames_without_what_is_needed_are_refused():
    frame = pd.DataFrame(COLUMNS)
    for columns in itertools.combinations(COLUMNS, 1):
        assert refused_or_done(isoflop.fit, frame.drop(columns=list(columns))) is None
    uneven = {**COLUMNS, "loss": COLUMNS["loss"][:-1]}
    twice = pd.concat([frame, frame[["loss"]]], axis=1)
    for runs in (frame.iloc[:0], frame.iloc[:2], uneven, twice, frame.astype(str) + "x", -frame):
        assert refused_or_done(isoflop.fit, runs) is None


def test_a_field_or_an_option_that_is_not_known_is_refused(law):
    for call in (
        lambda: isoflop.query(law, 1e13, colour="red"),
        lambda: isoflop.fit(COLUMNS, colour="red"),
        lambda: law.predict(1e5, 1e7, colour=1),
    ):
        assert refused_or_done(call) is None
