"""Runs of other trackers as a table that can be fitted."""

import csv
import json
import math

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.columns import parse_columns
from fit.data.formats import flatten
from fit.data.readers import load
from fit.data.trackers import (
    LoggedRun,
    build_table,
    read_exports,
    write_table,
)
from fit.errors import QueryError, RecordError
from fit.quantities import parse_units


def logged(name="a", state="finished", config=None, **summary):
    given = {"params": 1e6, "tokens": 2e7, "loss": 3.5, **summary}
    return LoggedRun(
        name=name,
        source=f"me/project/{name}",
        state=state,
        config=config or {"lr": 0.01, "seed": 3},
        summary=given,
    )


def test_a_run_becomes_a_row_that_knows_its_source():
    found = build_table([logged()], {}, {})
    assert found.rows == (
        {"run": "a", "source": "me/project/a", "status": "done", "params": 1000000,
         "tokens": 20000000, "loss": 3.5, "lr": 0.01, "seed": 3},
    )  # fmt: skip


def test_columns_are_found_under_other_keys_at_any_depth():
    run = logged(
        config={"model": {"n": "7", "width": {"value": 64, "desc": None}}, "optim": '{"lr": 0.1}'}
    )
    wanted = "params=model.n width=config.model.width lr=optim.lr nll=summary.loss".split()
    row = build_table([run], parse_columns(wanted), {"params": 1e6}).rows[0]
    assert (row["params"], row["width"], row["lr"], row["nll"]) == (7_000_000, 64, 0.1, 3.5)


def test_what_was_measured_is_taken_from_the_summary_first_and_what_was_set_from_the_config():
    run = logged(config={"loss": "mse", "tokens": 1, "lr": 0.01}, lr=1e-5)
    row = build_table([run], {}, {}).rows[0]
    assert (row["loss"], row["tokens"], row["lr"]) == (3.5, 20_000_000, 0.01)


def test_units_bring_columns_to_raw_counts_and_nats():
    units = parse_units(["params=M", "tokens=1e9", "loss=bits"])
    row = build_table([logged(params=7, tokens=1.5, loss=2.0)], {}, units).rows[0]
    assert (row["params"], row["tokens"]) == (7_000_000, 1_500_000_000)
    assert row["loss"] == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("text", ["width=M", "params=K7", "loss=M", "params=", "tokens=-1", "x"])
def test_an_unknown_unit_is_refused(text):
    with pytest.raises(QueryError, match="--unit is"):
        parse_units([text])


def test_a_unit_given_twice_is_refused():
    with pytest.raises(QueryError, match="twice"):
        parse_units(["params=M", "params=B"])


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (logged("b", state="running"), "it is running"),
        (logged("b", tokens=None), "its tokens is missing"),
        (logged("b", params="many"), "its params is 'many'"),
        (logged("b", tokens=-1), "its tokens is -1"),
        (logged("b", loss=None), "its loss is missing"),
        (logged("b", loss=math.inf), "its loss is inf"),
    ],
)
def test_runs_that_cannot_be_used_are_named_with_the_reason(run, reason):
    found = build_table([logged(), run], {}, {})
    assert [r["run"] for r in found.rows] == ["a"]
    ((name, why),) = found.skipped
    assert name == "b"
    assert reason in why


def test_a_crashed_run_is_a_failed_row_without_a_loss():
    found = build_table([logged(), logged("b", state="crashed", loss=None)], {}, {})
    assert found.rows[1]["status"] == "failed"
    assert found.rows[1]["loss"] is None


def test_runs_of_one_name_are_told_apart():
    twin = LoggedRun(name="a", source="me/project/x9", summary=logged().summary)
    assert [r["run"] for r in build_table([logged(), twin], {}, {}).rows] == ["a (a)", "a (x9)"]


def test_a_missing_column_names_what_there_is():
    run = LoggedRun(name="a", source="p/a", config={"n_params": 1e6}, summary={"val/loss": 3.0})
    with pytest.raises(RecordError, match=r"no run has 'params'.* n_params, val/loss") as caught:
        build_table([run], {}, {})
    assert "--column params=KEY" in str(caught.value)


def test_no_runs_and_no_usable_run_are_errors():
    with pytest.raises(RecordError, match="there are no runs"):
        build_table([], {}, {})
    with pytest.raises(RecordError, match="none of 1 runs can be used: it is running"):
        build_table([logged(state="running")], {}, {})


def test_nesting_in_strings_is_opened_and_what_is_no_nesting_stays():
    flat = flatten({"a": {"b": {}, "c": "{'d': 1}"}, "e": "{not json", "f": [1, 2]})
    assert flat == {"a.b": {}, "a.c.d": 1, "e": "{not json", "f": [1, 2]}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_table_can_be_fitted(tmp_path, suffix):
    runs = [logged(str(i), params=1e6 * (i + 1)) for i in range(3)]
    runs.append(logged("x", state="failed", loss=None))
    path = tmp_path / f"runs.{suffix}"
    write_table(path, build_table(runs, {}, {}).rows)
    table = load(path)
    assert table.params.tolist() == [1e6, 2e6, 3e6]
    assert table.column("seed").tolist() == [3, 3, 3]
    assert [d.run for d in table.dropped] == ["x"]
    assert list(table.columns["source"])[0] == "me/project/0"


def test_names_that_a_spreadsheet_would_compute_are_escaped_and_read_back(tmp_path):
    names = ["=cmd(1)", "+1", "-x", "@a", "\tx", "plain"]
    path = tmp_path / "runs.csv"
    runs = [logged(n, params=1e6 * (i + 1)) for i, n in enumerate(names)]
    write_table(path, build_table(runs, {}, {}).rows)
    first = [line.split(",")[0] for line in path.read_text().splitlines()]
    assert first == ["run", "'=cmd(1)", "'+1", "'-x", "'@a", "'\tx", "plain"]
    assert list(load(path).run) == names
    assert [r.name for r in read_exports([path])] == names


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"a \.csv or \.jsonl is needed"):
        write_table(tmp_path / "runs.xlsx", build_table([logged()], {}, {}).rows)


EXPORT = [
    {"Name": "wise-sun-1", "State": "finished", "ID": "ab12", "Runtime": "62", "Tags": "",
     "model.n_params": "124439808", "optim": '{"lr": 0.0006}', "seed": "1", "_step": "4767",
     "_runtime": "61.5", "train/tokens": "2500000000", "val/loss": "3.284"},
    {"Name": "wise-sun-2", "State": "crashed", "ID": "cd34", "Runtime": "9", "Tags": "x,y",
     "model.n_params": "354823168", "optim": '{"lr": 0.0003}', "seed": "1", "_step": "12",
     "_runtime": "8.1", "train/tokens": "6291456", "val/loss": ""},
]  # fmt: skip
KEYS = ["params=model.n_params", "tokens=train/tokens", "loss=val/loss", "lr=optim.lr"]


@pytest.fixture
def export(tmp_path, monkeypatch):
    """A run table as W&B's page exports it."""
    monkeypatch.chdir(tmp_path)
    with open("export.csv", "w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(EXPORT[0]))
        writer.writeheader()
        writer.writerows(EXPORT)
    return tmp_path / "export.csv"


def test_an_exported_run_table_is_read(export):
    rows = build_table(read_exports([export]), parse_columns(KEYS), {}).rows
    assert rows[0] == {
        "run": "wise-sun-1", "source": "export.csv/ab12", "status": "done", "params": 124439808,
        "tokens": 2500000000, "loss": 3.284, "lr": 0.0006, "seed": 1,
    }  # fmt: skip
    assert rows[1]["status"] == "failed"


def test_an_export_with_whole_configs_in_its_cells_is_read(tmp_path):
    cells = {
        "name": "a",
        "config": str({"n_params": 7, "model": {"width": 64}}),
        "summary": json.dumps({"loss": 3.0, "tokens": 5e9, "_step": 10}),
    }
    with open(tmp_path / "runs.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(cells))
        writer.writeheader()
        writer.writerow(cells)
    columns = {"params": "n_params", "width": "model.width"}
    row = build_table(read_exports([tmp_path / "runs.csv"]), columns, {"params": 1e6}).rows[0]
    assert (row["params"], row["width"], row["loss"]) == (7_000_000, 64, 3.0)


def test_the_command_writes_the_table_and_says_what_was_left_out(export):
    EXPORTED = [x for k in KEYS for x in ("--column", k)]
    found = CliRunner().invoke(main, ["import", "export.csv", "--out", "runs.csv", *EXPORTED])
    assert found.exit_code == 0, found.output
    assert "1 done, 1 failed" in found.stdout
    assert "isoflop fit runs.csv" in found.stdout
    assert load(export.parent / "runs.csv").loss.tolist() == [3.284]
    assert max(map(len, found.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["export.csv", "--out", "runs.csv"], "no run has 'params'"),
        (["nothing.csv", "--out", "runs.csv"], "cannot read nothing.csv"),
        (["me/project", "--out", "runs.csv"], "python -m sweep.fetch wandb me/project"),
        (["export.csv", "--out", "r.csv", "--unit", "width=M"], "--unit is 'width=M'"),
    ],
)
def test_what_cannot_be_imported_is_one_line(export, args, message):
    found = CliRunner().invoke(main, ["import", *args])
    assert found.exit_code == 1
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
