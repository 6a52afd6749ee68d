"""Tables as people have them, at every door of the command line."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import isoflop
from fit.cli.main import main
from fit.data.columns import parse_columns
from fit.quantities import parse_units
from tests.fit.data.kinds import KINDS, PPL, Kind

pytestmark = pytest.mark.usefixtures("few_checks")

QUICK = ("--no-report", "--json", "--resamples", "20")


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request, tmp_path, monkeypatch) -> Kind:
    """A kind of table, whose file lies in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / request.param.file).write_bytes(request.param.data)
    return request.param


def run(*args: str):
    return CliRunner().invoke(main, list(args))


def check(kind: Kind, document: dict) -> None:
    assert document["runs_used"] == kind.runs
    # 0.1% of noise on 20 runs moves them by so much
    assert document["theta"]["E"] == pytest.approx(kind.theta["E"], abs=0.06)
    assert document["theta"]["alpha"] == pytest.approx(kind.theta["alpha"], abs=0.03)
    assert document["theta"]["beta"] == pytest.approx(kind.theta["beta"], abs=0.06)


def test_a_kind_of_table_is_fitted_with_its_options_and_refused_without(kind):
    result = run("fit", kind.file, *kind.options, *QUICK)
    assert result.exit_code == 0, result.output
    check(kind, json.loads(result.stdout))
    if kind.untold:
        refused = run("fit", kind.file, *QUICK)
        assert refused.exit_code == 1
        named = run("fit", kind.file, *PPL, *QUICK) if "ppl" in kind.untold else refused
        assert kind.untold in named.stderr
        assert named.stderr.count("\n") == 1


def test_a_kind_of_table_is_imported_and_fitted_without_more_options(kind):
    result = run("import", kind.file, "--out", "table.jsonl", *kind.options)
    assert result.exit_code == 0, result.output
    fitted = run("fit", "table.jsonl", *QUICK)
    assert fitted.exit_code == 0, fitted.output
    check(kind, json.loads(fitted.stdout))


def test_a_kind_of_table_is_fitted_from_python(kind):
    pairs = [kind.options[i : i + 2] for i in range(0, len(kind.options), 2)]
    said = {name: [v for k, v in pairs if k == f"--{name}"] for name in ("column", "unit", "where")}
    wide = next((v for k, v in pairs if k == "--wide"), None)
    fit = isoflop.fit(kind.file, wide=wide, resamples=20, **said)
    check(kind, json.loads(fit.to_json()))
    table = isoflop.load(
        kind.file,
        rename=parse_columns(said["column"]),
        units=parse_units(said["unit"]),
        where=said["where"],
        wide=wide,
    )
    assert len(table) == kind.runs


def test_every_door_that_reads_a_table_takes_its_options(kind):
    listing = run("runs", kind.file, *kind.options, "--json")
    assert listing.exit_code == 0, listing.output
    assert json.loads(listing.stdout)["counts"]["done"] == kind.runs
    for command in ("tuning", "skills"):  # the tables are read, and hold neither scans nor skills
        result = run(command, kind.file, *kind.options)
        assert result.exit_code == 1
        assert not any(w in result.stderr for w in ("--column", "--unit", "--where", "Traceback"))


def test_import_says_what_it_drops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"r{i},{1e7 * (i + 1):.0f},1e9,{3.5 - 0.1 * i},d{i},{'ab'[i % 2]}" for i in range(8)]
    text = "\n".join(["run,params,tokens,loss,width,kind", *rows, "r9,,1e9,3,d1,a"])
    (tmp_path / "export.csv").write_text(text)
    result = run("import", "export.csv", "--out", "table.csv", "--where", "kind == 'a'")
    assert "left out: r1, r3, r5 and 1 more run: not kind == 'a'" in result.stderr
    assert "left out: r9: its params is missing" in result.stderr
    assert "column width is left out: it holds text ('d0')" in result.stderr
    assert "4 done; 5 left out" in result.stdout


def test_failed_runs_at_their_last_step_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "run,state,params,tokens,loss,step,max_steps"
    rows = ["a,finished,1e7,1e9,3.5,99,100", "b,crashed,2e7,1e9,3.4,99,100",
            "c,failed,3e7,1e9,3.3,50,100"]  # fmt: skip
    (tmp_path / "export.csv").write_text("\n".join([head, *rows]))
    for options, done in (((), 1), (("--keep-failed",), 2)):
        listing = json.loads(run("runs", "export.csv", *options, "--json").stdout)
        assert listing["counts"]["done"] == done
        result = run("import", "export.csv", "--out", "table.csv", *options)
        assert f"{done} done, {3 - done} failed" in result.stdout
    assert "kept, though the tracker calls them failed: b" in result.stderr


def test_bits_per_byte_are_printed_as_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["compressed"]
    (tmp_path / kind.file).write_bytes(kind.data)
    text = run("fit", kind.file, "--unit", "loss=bpb", "--no-report", "--resamples", "20").stdout
    assert "bits/byte" in text
    assert "nats" not in text
    document = json.loads((tmp_path / "reports" / "runs" / "fit.json").read_text())
    assert document["convention"]["loss"] == "bits/byte"
    assert document["options"]["unit"] == ["loss=bpb"]
    answer = run("query", "1e20", "--fit", "reports/runs")
    assert "bits/byte" in answer.stdout
    assert "nats" not in answer.stdout
    run("fit", kind.file, "--out", "reports/nats", "--no-report", "--resamples", "20")
    refused = run("compare", "reports/runs", "reports/nats", "--force")
    assert "no common unit" in refused.stderr
    sealed = run("query", "1e20", "--fit", "reports/runs", "--seal", "x")
    assert "scored in nats/token" in sealed.stderr


def test_the_unit_of_an_imported_table_stays_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["perplexity"]
    (tmp_path / kind.file).write_bytes(kind.data)
    refused = run("import", kind.file, "--out", "table.csv", *PPL)
    assert refused.exit_code == 1
    assert "--unit loss=ppl" in refused.stderr
    run("import", kind.file, "--out", "table.csv", *PPL, "--unit", "loss=bpb")
    text = run("fit", "table.csv", "--no-report", "--resamples", "20").stdout
    assert "bits/byte" in text
    again = run("fit", "table.csv", "--unit", "loss=ppl", "--no-report")
    assert "contradicts" in again.stderr


def test_perplexities_under_the_name_of_a_loss_are_refused_at_both_doors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head, rows = KINDS["perplexity"].data.decode().split("\n", 1)
    (tmp_path / "runs.csv").write_text("Name,State,params,tokens,loss\n" + rows)
    for args in (("fit", "runs.csv", "--no-report"), ("import", "runs.csv", "--out", "x.csv")):
        result = run(*args)
        assert result.exit_code == 1
        assert "seem to be perplexities" in result.stderr


@pytest.mark.parametrize(("factor", "noted"), [(0.05, True), (1.0, False)])
def test_losses_that_are_too_low_are_noted_until_their_unit_is_said(
    tmp_path, monkeypatch, factor, noted
):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["compressed"]
    (tmp_path / kind.file).write_bytes(kind.data)
    table = isoflop.load(kind.file, units={"loss": factor})
    for unit, expected in (("", noted), ("nats", False)):
        fit = isoflop.fit(dataclasses.replace(table, loss_unit=unit), resamples=0)
        low = [n for n in fit.notes if n.code == "loss_units" and "lower than" in n.message]
        assert bool(low) == expected
        assert all(n.severity == "serious" for n in low)


def test_conditions_on_records_may_be_repeated():
    records = Path(__file__).parents[3] / "runs" / "reference"
    listing = run("runs", str(records), "--where", "width >= 32", "--where", "width < 64", "--json")
    widths = {row["width"] for row in json.loads(listing.stdout)["runs"]}
    assert widths and all(32 <= w < 64 for w in widths)


def test_units_given_from_python_are_checked(tmp_path):
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e7,1e9,3.5\n")
    for units in ({"loss": "dB"}, {"width": "M"}, {"params": -1.0}):
        with pytest.raises(isoflop.ScalingError, match="--unit is"):
            isoflop.load(tmp_path / "runs.csv", units=units)
    assert isoflop.load(tmp_path / "runs.csv", units={"params": "k"}).params[0] == 1e10


def test_the_unit_stays_with_runs_that_are_written_as_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["compressed"]
    (tmp_path / kind.file).write_bytes(kind.data)
    run("runs", kind.file, "--unit", "loss=bpb", "--csv", "again.csv")
    assert isoflop.load("again.csv").loss_unit == "bpb"
    run("runs", kind.file, "--csv", "plain.csv")
    assert isoflop.load("plain.csv").loss_unit == ""


def test_gate_reads_tables_of_other_names_and_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, gain in (("base", 1.0), ("change", 0.98)):
        rows = [
            f"{n},{d},{gain * (1.7 + 400 / (n * 1e6) ** 0.34 + 400 / (d * 1e9) ** 0.28)}"
            for n in (10, 30, 100)
            for d in (1, 3, 10)
        ]
        Path(f"{name}.csv").write_text("\n".join(["N,billions,loss", *rows]))
    assert "--column params=YOURS" in run("gate", "base.csv", "change.csv").stderr
    names = ("--column", "params=N", "--column", "tokens=billions")
    units = ("--unit", "params=M", "--unit", "tokens=B")
    found = run("gate", "base.csv", "change.csv", *names, *units, "--noise", "0.001")
    assert found.exit_code == 0, found.output
    assert "ADOPT" in found.stdout
