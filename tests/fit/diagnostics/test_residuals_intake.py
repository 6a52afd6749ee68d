"""What went in: other units, other data, other losses, each named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.data import readers, records
from fit.data.records import DataInfo
from fit.diagnostics.residuals import intake_notes
from fit.fitting import FitOptions, fit_table
from tests.fit.data.builders import record
from tests.fit.test_fitting import table

pytestmark = pytest.mark.usefixtures("few_checks")

QUICK = FitOptions(resamples=0)


def told(runs) -> dict[str, str]:
    return {n.code: n.message for n in intake_notes(runs)}


def with_column(name, values):
    return dataclasses.replace(table(), columns={name: np.asarray(values)})


def test_a_clean_table_has_nothing_to_be_told():
    assert told(table()) == {}
    assert told(with_column("vocab", np.full(30, 50304))) == {}


def test_swapped_columns_are_asked_about():
    runs = table()
    swapped = dataclasses.replace(runs, params=runs.tokens, tokens=runs.params)
    (note,) = [n for n in intake_notes(swapped) if n.code == "columns"]
    assert note.severity == "warning"
    assert "are the columns swapped?" in note.message


@pytest.mark.parametrize(("name", "unit"), [("params", 1e6), ("params", 1e3), ("tokens", 1e9)])
def test_some_rows_in_another_unit_are_counted(name, unit):
    runs = table(np.geomspace(1e8, 1e9, 30), np.geomspace(1e10, 3e11, 30)[::-1])
    values = getattr(runs, name).copy()
    values[:4] /= unit
    mixed = dataclasses.replace(runs, **{name: values, "flops": 6 * runs.params * runs.tokens})
    notes = [n.message for n in intake_notes(mixed) if n.code == "units"]
    assert any(f"{name} jump from" in m and "of 30 rows" in m for m in notes)


@pytest.mark.parametrize("name", ["dataset", "tokenizer", "vocab", "data"])
def test_a_table_of_several_data_sets_or_tokenizers_is_called_serious(name):
    values = np.array(["c4", "oscar", "pile"] * 10) if name != "vocab" else [32000, 50304] * 15
    fit = fit_table(with_column(name, values), QUICK)
    (note,) = [n for n in fit.notes if n.code == "mixed_data"]
    assert note.severity == "serious"
    assert f"different {name}" in note.message


def test_records_of_one_data_set_chosen_by_where_are_not_mixed(tmp_path):
    other = DataInfo(name="other", hash="sha256:1")
    grid = [(w, t) for w in (16, 24, 32, 48) for t in (250_000, 500_000, 1_000_000)]
    for width, tokens in grid:
        records.write_record(tmp_path / f"a{width}-{tokens}", record(width, tokens))
        mixed = record(width, tokens, run=f"b{width}-{tokens}", data=other, trunk=f"b{width}")
        records.write_record(tmp_path / mixed.run, mixed)
    assert "mixed_data" in told(readers.load(tmp_path))
    chosen = readers.load(tmp_path, where="data == 'stories'")
    assert "mixed_data" not in told(chosen)
    assert chosen.data is not None and chosen.data.entropy == 1.7
    assert len(chosen) == len(chosen.dropped) == 12


def test_perplexities_and_bits_given_as_loss_are_recognised():
    perplexities = dataclasses.replace(table(), loss=np.exp(table().loss))
    assert "perplexities" in told(perplexities)["loss_units"]
    in_bits = dataclasses.replace(
        with_column("perplexity", np.exp(table().loss)), loss=table().loss / np.log(2)
    )
    assert "base-2 logarithm" in told(in_bits)["loss_units"]
    assert told(with_column("perplexity", np.exp(table().loss))) == {}


def test_losses_above_that_of_equal_probabilities_are_counted():
    loss = table().loss.copy()
    loss[:2] = 7.0
    runs = dataclasses.replace(with_column("vocab", np.full(30, 512)), loss=loss)
    assert "2 of 30 losses exceed 6.24 nats" in told(runs)["loss_units"]
