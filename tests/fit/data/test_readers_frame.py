"""Other people's tables: names met halfway, cells that mean something else refused by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fit import files
from fit.data import readers, records
from fit.errors import RecordError
from tests.fit.data.builders import record


def cells() -> pd.DataFrame:
    n, d = np.meshgrid([1e6, 2e6, 4e6], [1e8, 2e8])
    loss = 2.0 + 0.1 * np.arange(6)
    return pd.DataFrame({"params": n.ravel(), "tokens": d.ravel(), "loss": loss})


def read(tmp_path: Path, frame: pd.DataFrame, name: str = "runs.csv", **options):
    frame.to_csv(tmp_path / name, index=False, **options.pop("csv", {}))
    return readers.load(tmp_path / name, **options)


@pytest.mark.parametrize(
    "names",
    [
        ["Params", "Tokens", "LOSS"],
        [" params", "tokens ", " Loss "],
        ["PARAMS", "TOKENS", "loss"],
    ],
)
def test_capitals_and_blanks_in_names_do_not_matter(tmp_path, names):
    table = read(tmp_path, cells().set_axis(names, axis=1))
    assert table.params.tolist() == cells().params.tolist()
    assert table.loss.tolist() == pytest.approx(cells().loss.tolist())


def test_two_columns_that_differ_by_dress_alone_are_a_question(tmp_path):
    with pytest.raises(RecordError, match="Loss and LOSS; one column loss is needed"):
        read(tmp_path, cells().assign(LOSS=1.0).rename(columns={"loss": "Loss"}))
    assert read(tmp_path, cells().assign(Loss=1.0)).loss[0] == 2.0


@pytest.mark.parametrize("csv", [{"sep": ";"}, {"sep": "\t"}, {"sep": ";", "decimal": ","}])
def test_other_separators_are_read(tmp_path, csv):
    assert read(tmp_path, cells(), csv=csv).loss[1] == pytest.approx(2.1)


def test_a_suffix_in_capitals_is_read(tmp_path):
    assert len(read(tmp_path, cells(), "RUNS.CSV")) == 6


def test_a_renamed_column_takes_the_place_of_ours(tmp_path):
    table = read(tmp_path, cells().assign(mine=5.0), rename={"loss": "mine"})
    assert set(table.loss) == {5.0}
    with pytest.raises(RecordError, match="no column yours as --column loss=yours says; it has"):
        read(tmp_path, cells(), rename={"loss": "yours"})


@pytest.mark.parametrize("absent", ["params", "tokens"])
def test_a_table_with_budgets_may_leave_params_or_tokens_out(tmp_path, absent):
    full = cells().assign(flops=lambda t: 6 * t.params * t.tokens)
    table = read(tmp_path, full.drop(columns=absent))
    assert table.column(absent) == pytest.approx(full[absent].to_numpy(), rel=1e-12)
    assert table.flops_convention == "6nd"


@pytest.mark.parametrize(
    ("name", "cure"),
    [("loss_bits", "ln 2"), ("val/bpb", "ln 2"), ("Perplexity", "logarithm"), ("ppl", "logarithm")],
)
def test_losses_that_are_not_in_nats_are_refused_with_their_conversion(tmp_path, name, cure):
    table = cells().rename(columns={"loss": name})
    with pytest.raises(RecordError, match=cure):
        read(tmp_path, table)
    with pytest.raises(RecordError, match=cure):
        read(tmp_path, table, rename={"loss": name})


def test_flops_that_wrapped_around_are_refused(tmp_path):
    n = np.array([1e9, 2e9, 3e9, 4e9], dtype=np.int64)
    d = np.array([2e10, 4e10, 3e11, 2e11], dtype=np.int64)
    with np.errstate(over="ignore"):
        wrapped = 6 * n * d
    table = pd.DataFrame({"params": n, "tokens": d, "loss": 2.0, "flops": wrapped})
    assert (wrapped > 0).any() and (wrapped < 0).any()
    with pytest.raises(RecordError, match="overflow of 64-bit integers"):
        read(tmp_path, table)
    with pytest.raises(RecordError, match="overflow of 64-bit integers"):
        read(tmp_path, table[table.flops > 0])
    whole = read(tmp_path, table.drop(columns="flops"))
    assert whole.flops.max() == pytest.approx(6 * 3e9 * 3e11)


def test_counts_in_whole_numbers_near_their_limit_do_not_overflow(tmp_path):
    n = np.array([2, 5, 9], dtype=np.int64) * 10**17
    table = read(tmp_path, pd.DataFrame({"params": n, "tokens": n[::-1], "loss": [2.0, 2.1, 2.2]}))
    assert table.flops == pytest.approx(6.0 * n.astype(float) * n[::-1].astype(float))


def test_conventions_and_renamings_that_mean_nothing_are_refused(tmp_path):
    records.write_record(tmp_path / "runs" / "a", record())
    with pytest.raises(RecordError, match="--params total recount run records"):
        read(tmp_path, cells(), params="total")
    with pytest.raises(RecordError, match="is for tables"):
        readers.load(tmp_path / "runs", rename={"params": "n"})


def test_a_folder_of_unreadable_records_says_what_was_found(tmp_path):
    for name in "ab":
        files.write_atomically(tmp_path / name / "record.json", '{"schema": "isoflo')
    with pytest.raises(RecordError, match="2 records and none can be read: a/record.json: not a"):
        readers.load(tmp_path)


def test_records_can_be_chosen_by_data_sweep_and_seed(tmp_path):
    for i, sweep in enumerate(["one", "two", "two"]):
        records.write_record(tmp_path / str(i), record(run=str(i), sweep=sweep, seed=i))
    assert len(readers.load(tmp_path, where="sweep == 'two' and seed > 1")) == 1
    assert len(readers.load(tmp_path, where="data == 'stories'")) == 3
    assert readers.load(tmp_path, cluster="sweep").cluster.tolist() == [0, 1, 1]
