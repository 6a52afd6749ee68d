"""Disk: atomic writes, hostile folders, tables with every kind of bad cell."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fit import files, results
from fit.data import readers, records
from fit.errors import RecordError
from tests.fit.data.builders import record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for width in (16, 32, 48):
        records.write_record(tmp_path / "runs" / f"w{width}", record(width))
    return tmp_path / "runs"


def frame() -> pd.DataFrame:
    n, d = np.meshgrid([1e6, 2e6, 4e6], [1e8, 2e8])
    return pd.DataFrame({"params": n.ravel(), "tokens": d.ravel(), "loss": 3.0})


def test_records_are_found_wherever_they_lie(runs):
    records.write_record(runs / "deep" / "er", record(64))
    records.write_record(runs / ".trash" / "old", record(96))
    assert sorted(r.width for r in records.read_runs(runs).records) == [16, 32, 48, 64]


@pytest.mark.parametrize("name", ["a b", "new\nline", "ünï", "quote'\"", "[x]{y}"])
def test_odd_folder_names_are_read(runs, name):
    records.write_record(runs / name, record(64))
    assert len(records.read_runs(runs).records) == 4


@pytest.mark.parametrize(
    "content",
    ["", "{", record().to_json()[:200], '{"schema": "isoflop.record/9"}', "{}", "\x00\xff", "null"],
)
def test_a_bad_record_is_named_and_skipped(runs, content):
    bad = runs / "bad"
    bad.mkdir()
    (bad / "record.json").write_bytes(content.encode("latin-1"))
    found = records.read_runs(runs)
    assert len(found.records) == 3
    assert [s.run for s in found.skipped] == ["bad/record.json"]
    table = readers.load(runs)
    assert [d.run for d in table.dropped] == ["bad/record.json"]


def test_a_missing_or_empty_folder_is_one_clear_line(tmp_path):
    with pytest.raises(RecordError, match="no folder"):
        records.read_runs(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="Launch a sweep"):
        readers.load(tmp_path)
    with pytest.raises(RecordError, match="does not exist; a folder of runs or a table"):
        readers.load(tmp_path / "nowhere")


def test_a_reader_sees_the_old_or_the_new_document_never_half(tmp_path):
    path = tmp_path / "document"
    files.write_atomically(path, "a" * 100_000)
    seen = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            text = path.read_text()
            seen.add((len(text), text[0], text[-1]))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(200):
        files.write_atomically(path, "ab"[i % 2] * 100_000)
    stop.set()
    reader.join()
    assert seen <= {(100_000, c, c) for c in "ab"}
    assert os.listdir(tmp_path) == ["document"]


def test_what_cannot_be_written_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RecordError, match="cannot write"):
        files.write_atomically(path / "below", "new")
    assert path.read_text() == "old"


def test_a_full_disk_is_said_in_one_line_and_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_is_read_in_every_format(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    write = {
        ".csv": lambda: frame().to_csv(path, index=False),
        ".parquet": lambda: frame().to_parquet(path),
        ".jsonl": lambda: frame().to_json(path, orient="records", lines=True),
    }
    write[suffix]()
    table = readers.load(path)
    assert len(table) == 6
    assert table.flops_convention == "6nd"
    assert table.flops.tolist() == (6 * table.params * table.tokens).tolist()


def test_a_new_format_of_tables_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(readers.TABLE_READERS, ".tab", lambda path: pd.read_csv(path, sep="|"))
    frame().to_csv(tmp_path / "runs.tab", sep="|", index=False)
    assert len(readers.load(tmp_path / "runs.tab")) == 6
    (tmp_path / "runs.dat").touch()
    with pytest.raises(RecordError, match=r"neither a folder .*\.json, \.tab"):
        readers.load(tmp_path / "runs.dat")
    with pytest.raises(RecordError, match="spreadsheet"):
        readers.load(tmp_path / "runs.xlsx")


def test_a_table_keeps_its_own_flops_and_further_columns(tmp_path):
    path = tmp_path / "runs.csv"
    frame().assign(flops=1e15, lr=0.1, run="x").to_csv(path, index=False)
    table = readers.load(path)
    assert table.flops_convention == "as given"
    assert set(table.flops) == {1e15}
    assert set(table.column("lr")) == {0.1}


def test_columns_can_be_renamed_and_clustered(tmp_path):
    path = tmp_path / "runs.csv"
    frame().rename(columns={"params": "n_params"}).assign(group=list("aabbcc")).to_csv(path)
    table = readers.load(path, rename={"params": "n_params"}, cluster="group")
    assert table.cluster.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(RecordError, match="--column params=YOURS"):
        readers.load(path)
    with pytest.raises(RecordError, match="no column shape"):
        readers.load(path, rename={"params": "n_params"}, cluster="shape")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("params", "many"),
        ("params", -1),
        ("tokens", 0),
        ("loss", -0.1),
        ("tokens", "inf"),
        ("params", ""),
        ("loss", "low"),
    ],
)
def test_cells_that_are_not_positive_numbers_are_named_with_their_row(tmp_path, column, value):
    path = tmp_path / "runs.csv"
    table = frame().astype(object)
    table.loc[3, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(RecordError, match=f"row 4: {column}"):
        readers.load(path)


def test_a_missing_loss_is_let_through_for_the_fit_to_drop(tmp_path):
    path = tmp_path / "runs.csv"
    table = frame()
    table.loc[2, "loss"] = np.nan
    table.to_csv(path, index=False)
    assert np.isnan(readers.load(path).loss[2])


@pytest.mark.parametrize("name", ["bad.csv", "bad.parquet", "bad.jsonl"])
def test_a_file_that_is_no_table_is_said_so(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00\x01\x02{" * 30)
    with pytest.raises(RecordError):
        readers.load(path)


def test_where_keeps_matching_runs_and_lists_the_rest(runs):
    table = readers.load(runs, where="width >= 32 and loss < 100")
    assert len(table) == 2
    assert table.dropped[0].reason == "not width >= 32 and loss < 100"
    for bad in ("loss <", "nothing > 1", "loss + 1", "__import__('os')"):
        with pytest.raises(RecordError, match="--where"):
            readers.load(runs, where=bad)


def test_the_newest_fit_is_named_and_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="no fit under"):
        results.newest_fit()
    for i, name in enumerate(["old", "new"]):
        files.write_atomically(Path("reports", name, "fit.json"), "{}")
        os.utime(Path("reports", name, "fit.json"), (i, i))
    assert results.newest_fit().name == "new"


def test_a_fit_is_found_by_its_name_and_a_path_with_a_fit_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("reports/mine/fit.json", "reports/example/fit.json", "fit.json", "one.json"):
        files.write_atomically(Path(path), "{}")
    Path("mine").mkdir()
    named = Path("reports/mine/fit.json")
    assert all(results.fit_file(path) == named for path in ("mine", "reports/mine", named))
    assert results.report_folder(Path("mine")) == Path("reports/mine")
    files.write_atomically(Path("mine/fit.json"), "{}")
    assert results.fit_file("mine") == Path("mine/fit.json")
    assert results.fit_file("one.json") == Path("one.json")
    assert results.fit_file(".") == Path("fit.json")
    assert results.fit_file("example") == results.EXAMPLE, "the package's own keeps its name"
    assert results.report_folder(Path("example")) == Path("reports/example")
    for nothing in ("..", ".hidden", "other", "runs/mine", ""):
        with pytest.raises(RecordError, match=r"there is none; fits in reports/: example, mine\."):
            results.read_fit(nothing if nothing else "none")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"schema": "isoflop.fit/1"}'])
def test_a_corrupt_fit_is_named(tmp_path, content):
    (tmp_path / "fit.json").write_text(content)
    with pytest.raises(RecordError, match="fit.json"):
        results.read_fit(tmp_path)


def test_rows_that_failed_or_diverged_and_copies_of_rows_are_no_evidence(tmp_path):
    path = tmp_path / "runs.csv"
    table = frame().assign(loss=[3.0, 3.1, 3.2, 3.3, 3.4, 3.5], status="done")
    table.loc[1, "status"], table.loc[4, "status"] = "failed", "diverged"
    pd.concat([table, table]).to_csv(path, index=False)
    found = readers.load(path)
    assert len(found) == 4
    assert sorted({d.reason for d in found.dropped}) == [
        "copy of an earlier row",
        "diverged",
        "failed",
    ]
    table.assign(status="banana").to_csv(path, index=False)
    with pytest.raises(RecordError, match="known are done"):
        readers.load(path)


def test_one_identity_counts_once_however_often_it_was_copied(runs):
    records.write_record(runs / "copy" / "w16", record(16))
    assert len(readers.load(runs)) == 3


def test_a_fit_without_its_parameters_is_refused(tmp_path):
    from tests.fit.builders import make_fit

    text = make_fit().to_json()
    path = tmp_path / "fit.json"
    path.write_text(text)
    assert results.read_fit(tmp_path).status
    damaged = json.loads(text)
    damaged["theta"]["alpha"] = None
    path.write_text(json.dumps(damaged))
    with pytest.raises(RecordError, match="not a complete fit document"):
        results.read_fit(tmp_path)
