"""The command line, from outside."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.records import RunRecord, write_record
from fit.query.answer import answer, predict
from fit.query.question import Question
from fit.report.figures import FIGURES
from fit.results import read_fit, write_fit
from tests.fit.builders import make_fit
from tests.fit.data.builders import record

ROOT = Path(__file__).parents[3]


def write_tables(folder):
    """Tables of runs that follow a law, whole and in part."""
    rows = []
    rng = np.random.default_rng(3)
    for n in (1e6, 3e6, 1e7, 3e7, 1e8, 3e8):
        for d in (2e7, 6e7, 2e8, 6e8, 2e9, 6e9):
            loss = 1.7 + 120 / n**0.34 + 400 / d**0.36
            rows.append((n, d, loss * (1 + 0.001 * rng.standard_normal())))
    parts = {
        "good": rows,
        "one_size": [r for r in rows if r[0] == 1e7],
        "one_length": [r for r in rows if r[1] == 2e8],
        "few": rows[2:4] + rows[8:10],
        "same": rows[:1] * 20,
        "unfinished": [(n, d, math.nan) for n, d, _ in rows],
    }
    for name, part in parts.items():
        text = "\n".join(["params,tokens,loss", *(f"{n},{d},{loss}" for n, d, loss in part)])
        (folder / f"{name}.csv").write_text(text + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with one fit, a sweep of a few runs and some bad input."""
    monkeypatch.chdir(tmp_path)
    write_fit(tmp_path / "reports" / "pilot", make_fit(name="pilot"))
    write_fit(tmp_path / "reports" / "blind", make_fit(name="blind", kappa=2000.0))
    os.utime(tmp_path / "reports" / "blind" / "fit.json", (1, 1))
    for width in (16, 32):
        write_record(tmp_path / "runs" / "pilot" / f"w{width}", record(width=width))
    failed = RunRecord.from_json(record().to_json())
    fields = {"status": "failed", "reason": "out of\nmemory", "loss": None, "tokens_seen": None}
    write_record(tmp_path / "runs" / "pilot" / "bad", record(run="bad", **fields))
    assert failed.status == "done"
    (tmp_path / "runs" / "pilot" / "half").mkdir()
    (tmp_path / "runs" / "pilot" / "half" / "record.json").write_text('{"schema": "isofl')
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "reports" / "corrupt").mkdir()
    (tmp_path / "reports" / "corrupt" / "fit.json").write_text('{"schema": "isoflop.fit/1", "la')
    os.utime(tmp_path / "reports" / "corrupt" / "fit.json", (1, 1))
    (tmp_path / "short.csv").write_text("params,loss\n1e6,3\n")
    (tmp_path / "words.csv").write_text("params,tokens,loss\n1e6,many,3\n")
    (tmp_path / "below.csv").write_text("params,tokens,loss\n-1e6,1e9,3\n")
    (tmp_path / "notes.txt").write_text("hello")
    write_tables(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_the_exported_names_are_seventeen_and_can_be_loaded_before_use():
    assert len(isoflop.__all__) == 17
    assert sorted(isoflop.__all__) == dir(isoflop)
    assert isoflop.predict is predict
    with pytest.raises(AttributeError, match="nothing"):
        isoflop.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["query", "1e14"], "parameters        630k ["),
        (["query", "1e14"], "perplexity        "),
        (["query", "1e21", "--law", "besiroglu2024"], "perplexity        "),
        (["query", "1e14", "--fit", "reports/pilot"], "by pilot (chinchilla; N matmul, C exact)"),
        (["query", "1e14", "--fit", "reports/pilot/fit.json"], "by pilot"),
        (["query", "1e21", "--law", "besiroglu2024"], "parameters        2.78B"),
        (["query", "1e11", "--fit", "reports/blind", "--force"], "serious"),
        (["query", "1e20", "--force"], "serious           Run a budget in between first"),
        (["query", "1e20", "--force"], "verdict           REFUSE: the budget lies"),
        (["query", "5e13"], "verdict           CAREFUL: run"),
        (["predict", "--params", "7B", "--tokens", "1.4T", "--law", "hoffmann2022"], "2.0217"),
        (["predict", "--params", "500k", "--tokens", "1e7"], "90% prediction"),
        (["laws"], "besiroglu2024"),
        (["runs", "runs/pilot"], "2 done, 1 failed, 1 unreadable"),
        (["runs", "runs/pilot"], "failed: bad: out of memory"),
        (["--help"], "query"),
        (["fit", "--help"], "--resamples"),
        (["--version"], "version"),
    ],
)
def test_good_commands_print_the_answer_and_end_well(folder, args, expected):
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert expected in result.stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["query", "1e50"], "is believed"),
        (["query", "1e14", "--min-params", "2M", "--max-params", "1M"], "conflict"),
        (
            ["query", "1e14", "--min-params", "200k", "--max-params", "201k", "--config"],
            "no shape of the ladder near this size is within the limits",
        ),
        (["query", "5"], "less than one parameter or token"),
        (["query", "1e14", "--fit", "reports/none"], "reports/none"),
        (["query", "1e14", "--fit", "reports/corrupt"], "not a JSON document"),
        (["query", "1e14", "--fit", "reports/blind"], "--force"),
        (["query", "1e18", "--law", "besiroglu2024", "--config"], "no shapes to launch"),
        (["runs", "runs/none"], "runs/none"),
        (["runs", "runs/empty"], "no run records"),
        (["runs", "notes.txt"], "neither a folder of runs nor a table"),
        (["runs", "short.csv"], "no column tokens"),
        (["runs", "runs/pilot", "--csv", "notes.txt/x.csv"], "cannot write"),
        (["report", "reports/none"], "cannot read"),
        (["report", "reports/corrupt"], "not a JSON document"),
        (["fit", "runs/none"], "runs/none"),
        (["fit", "runs/empty"], "no run records"),
        (["fit", "short.csv"], "no column tokens"),
        (["fit", "words.csv"], "tokens is 'many'"),
        (["fit", "below.csv"], "row 1: params is"),
        (["fit", "one_size.csv"], "one value of sizes"),
        (["fit", "one_length.csv"], "one value of lengths"),
        (["fit", "few.csv"], "needs 6 distinct"),
        (["fit", "same.csv"], "needs 6 distinct"),
        (["fit", "unfinished.csv"], "needs 6 distinct"),
        (["fit", "runs/pilot", "--where", "loss <"], "--where"),
        (["fit", "runs/pilot", "--cluster", "moon"], "no column 'moon'"),
        (["fit", "runs/pilot", "--unit", "params=M"], "is for tables"),
        (["fit", "good.csv", "--unit", "width=M"], "--unit is 'width=M'"),
        (["compare", "reports/none", "reports/pilot"], "cannot read the fit reports/none"),
        (["compare", "reports/pilot", "reports/blind"], "--force"),
        (["compare", "reports/pilot", "besiroglu2024"], "Which data set is better"),
    ],
)
def test_users_mistakes_are_one_line_and_exit_code_one(folder, args, expected):
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_of_a_long_reason_of_dropped_runs_the_beginning_is_told(folder):
    gone = {"status": "failed", "loss": None, "tokens_seen": None}
    failed = replace(record(16, 300_000), reason="CUDA out of memory.\n" * 40, **gone)
    write_record(folder / "runs/broken" / failed.run, failed)
    result = run("fit", "runs/broken")
    assert "after dropping 1 run (failed: CUDA out of memory. CUDA" in result.stderr
    assert len(result.stderr) < 300


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["query"], "no budget was given; exactly one of FLOPS (flops), --dollars,"),
        (["query", "0"], "budget is '0'"),
        (["query", "-1"], "budget is '-1'"),
        (["query", "-.5"], "budget is '-.5'"),
        (["query", "abc"], "budget is 'abc'; a positive finite number is needed, such as 1e21"),
        (["query", "1e400"], "budget is '1e400'"),
        (["query", "nan"], "budget is 'nan'"),
        (["query", "-inf"], "budget is '-inf'"),
        (["query", "1e14", "--loss", "2"], "the budget is given 2 times, as --flops and --loss"),
        (["query", "1e14", "--memory", "8 apples"], "memory is '8 apples'"),
        (["query", "--dollars", "5"], "--dollars was given without --device"),
        (["query", "7B"], "counts parameters or tokens; a number of FLOP is needed, such as 7e9"),
        (["query", "1e14", "--law", "nobody1999"], "besiroglu2024"),
        (["query", "1e14", "--fit", "reports/pilot", "--law", "besiroglu2024"], "not both"),
        (["query", "1e14", "--config", "--json"], "not both"),
        (["query", "1e14", "--nonsense"], "--nonsense"),
        (["predict", "--params", "7B"], "--tokens"),
        (["predict", "--params", "-1", "--tokens", "1e9"], "params is '-1'"),
        (["predict", "--params", "1e9", "--tokens", "zero"], "tokens is 'zero'"),
        (["fit", "short.csv", "--column", "tokens"], "'tokens' is no assignment"),
        (["fit", "good.csv", "--law", "cubic"], "'cubic' is not known; choose one of chinchilla"),
        (["fit", "good.csv", "--loss", "l7"], "adaptive, huber"),
        (["fit", "good.csv", "--interval", "wide"], "hc3, pairs"),
        (["fit", "good.csv", "--level", "90"], "0<x<1"),
        (["fit", "good.csv", "--level", "high"], "'high' is not a valid float"),
        (["fit", "good.csv", "--resamples", "-3"], "x>=0"),
        (["fit", "good.csv", "--seed", "-1"], "x>=0"),
        (["fit", "runs/pilot", "--params", "all"], "matmul, total, body"),
        (["compare", "reports/pilot"], "Missing argument 'B'"),
        (["compare", "reports/pilot", "reports/pilot", "--flops", "7B"], "counts parameters"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(folder, args, expected):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert expected in " ".join(result.stderr.split())


@pytest.mark.parametrize("interval", ["hc3", "pairs"])
def test_a_table_becomes_a_fit_and_an_answer(folder, interval):
    options = ["--no-report", "--interval", interval, "--resamples", "200"]
    fitted = run("fit", "good.csv", *options)
    assert fitted.exit_code == 0, fitted.output
    result = read_fit(folder / "reports" / "good")
    assert result.theta["alpha"] == pytest.approx(0.34, abs=0.05)
    asked = json.loads(run("query", "1e19", "--fit", "reports/good", "--json").stdout)
    # the optimum of the law that the runs were made from, under C = 6 N D
    assert asked["params"]["value"] == pytest.approx(3.880e8, rel=0.1)
    assert asked["params"]["low"] < asked["params"]["value"] < asked["params"]["high"]
    assert asked["convention"]["flops"] == "6nd"


def test_units_of_a_table_make_the_same_fit(folder):
    rows = [line.split(",") for line in (folder / "good.csv").read_text().splitlines()[1:]]
    text = "\n".join(f"{float(n) / 1e6},{float(d) / 1e9},{loss}" for n, d, loss in rows)
    (folder / "small.csv").write_text("params,tokens,loss\n" + text + "\n")
    options = ["--no-report", "--resamples", "0", "--json"]
    units = ["--unit", "params=M", "--unit", "tokens=1e9"]
    raw, scaled = run("fit", "good.csv", *options), run("fit", "small.csv", *units, *options)
    assert scaled.exit_code == 0, scaled.output
    theta = [json.loads(result.stdout)["theta"] for result in (raw, scaled)]
    assert theta[1] == pytest.approx(theta[0], rel=1e-6)
    assert json.loads(scaled.stdout)["range"]["flops"] == pytest.approx(
        json.loads(raw.stdout)["range"]["flops"]
    )


def test_a_loss_in_bits_is_taken_with_its_unit(folder):
    rows = [line.split(",") for line in (folder / "good.csv").read_text().splitlines()[1:]]
    text = "\n".join(f"{n},{d},{float(loss) / math.log(2)}" for n, d, loss in rows)
    (folder / "bits.csv").write_text("params,tokens,loss_bits\n" + text + "\n")
    options = ["--no-report", "--resamples", "0", "--json", "--column", "loss=loss_bits"]
    assert "in bits" in run("fit", "bits.csv", *options).stderr
    result = json.loads(run("fit", "bits.csv", *options, "--unit", "loss=bits").stdout)
    assert result["theta"]["E"] == pytest.approx(1.7, rel=0.05)


def test_two_fits_are_compared_in_text_and_json(folder):
    shown = run("compare", "reports/pilot", "reports/pilot", "--flops", "1e14")
    assert shown.exit_code == 0, shown.output
    assert "1e14" in shown.stdout
    assert "×1.00" in shown.stdout
    assert "a fit cannot be repeated" in " ".join(shown.stdout.split())
    document = json.loads(run("compare", "reports/pilot", "reports/pilot", "--json").stdout)
    assert document["schema"] == "isoflop.compare/1"
    assert document["rows"][0]["multiplier"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    "args",
    [
        ["query", "1e14", "--fit", "{fit}", "--json"],
        ["query", "1e14", "--fit", "{fit}", "--config"],
        ["predict", "--params", "1e6", "--tokens", "1e9", "--fit", "{fit}"],
        ["compare", "{fit}", "{fit}", "--flops", "1e14"],
        ["suggest", "{fit}", "--flops", "1e15", "--spend", "1e13"],
        ["fit", "good.csv", "--no-report", "--json", "--base", "{fit}", "--law", "data_repeat"],
        ["report", "{fit}", "--format", "nothing"],
    ],
)
def test_a_fit_is_asked_by_its_name_as_by_its_folder(folder, args):
    by_name, by_folder = (
        run(*(arg.format(fit=fit) for arg in args)) for fit in ("pilot", "reports/pilot")
    )
    assert by_name.exit_code == by_folder.exit_code
    assert by_name.output.replace("--fit pilot", "--fit reports/pilot") == by_folder.output


def test_a_published_law_is_asked_by_its_name_and_a_folder_of_runs_hides_no_fit(folder):
    asked = [run("query", "1e21", *how, "besiroglu2024").stdout for how in (["--fit"], ["--law"])]
    assert asked[0] == asked[1] != ""
    (folder / "pilot").mkdir()  # a folder without a fit
    assert run("query", "1e14", "--fit", "pilot").exit_code == 0
    assert "fits in reports/: blind, corrupt, pilot." in run("query", "1", "--fit", "no").stderr


def test_without_any_fit_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("query", "1e14")
    assert result.exit_code == 1
    assert "isoflop fit" in result.stderr
    assert "--fit example" in result.stderr


def test_json_is_the_document_and_nothing_else(folder):
    source = ScalingLaw.at(Path("reports/pilot"))
    asked = json.loads(run("query", "1e14", "--json").stdout)
    assert asked == answer(Question(source=source, flops=1e14)).document()
    given = json.loads(run("predict", "--params", "1M", "--tokens", "2e7", "--json").stdout)
    assert given == predict(source, 1e6, 2e7).document()
    laws = json.loads(run("laws", "--json").stdout)
    assert {"hoffmann2022", "besiroglu2024"} <= {p["name"] for p in laws["laws"]}
    runs = json.loads(run("runs", "runs/pilot", "--json").stdout)
    ended = {"done": 2, "failed": 1, "diverged": 0, "unreadable": 1}
    assert runs["counts"] == {**ended, "running": 0, "missing": 0}


def test_text_fits_eighty_columns(folder):
    long = "wide-and-deep-" * 6
    reason = "CUDA out of memory while allocating a very large buffer for attention " * 2
    fields = {"status": "failed", "loss": None, "tokens_seen": None, "reason": reason}
    write_record(folder / "runs" / "long" / "a", record(run=long + "a"))
    write_record(folder / "runs" / "long" / "b", record(run=long + "b", **fields))
    write_fit(folder / "reports" / long, make_fit(name=long))
    for args in (
        ["query", "8e15"],
        ["query", "1e20", "--force"],
        ["query", "1e14", "--fit", f"reports/{long}"],
        ["query", "1e22", "--law", "hoffmann2022"],
        ["predict", "--params", "1M", "--tokens", "1e9", "--fit", f"reports/{long}"],
        ["compare", f"reports/{long}", "reports/pilot"],
        ["compare", "hoffmann2022", "besiroglu2024"],
        ["runs", "runs/long"],
        ["laws"],
    ):
        result = run(*args)
        assert result.exit_code == 0, result.output
        over = [line for line in result.stdout.splitlines() if len(line) > 80]
        # a command that is to be copied keeps its path whole
        assert all(line.endswith(f"--fit reports/{long} \\") for line in over), over
    listed = run("runs", "runs/long").stdout
    assert listed.splitlines()[1].split()[0].startswith("wide-and-deep")
    assert {line.split()[0][-1] for line in listed.splitlines()[1:3]} == {"a", "b"}


def test_a_budget_below_the_runs_is_not_called_inside_them(folder):
    assert "fitted: below the smallest" in run("query", "1e9").stdout
    assert "inside the runs" in run("query", "1e12").stdout


def test_the_band_of_good_sizes_is_left_out_far_beyond_the_runs(folder):
    assert "within one run's noise" in run("query", "1e14").stdout
    assert "just as good" not in run("query", "1e20", "--force").stdout
    assert "just as good" not in run("query", "1e20", "--law", "besiroglu2024").stdout


def test_the_overrides_are_quoted_for_xargs(folder):
    out = run("query", "1e14", "--config").stdout
    words = subprocess.run(
        ["xargs", "-n", "1", "printf", "%s\\n"], input=out, capture_output=True, text=True
    ).stdout.splitlines()
    source = ScalingLaw.at(Path("reports/pilot"))
    assert tuple(words) == answer(Question(source=source, flops=1e14)).config
    assert "data.pattern='**/*.txt,**/*.md'" in words


def test_limits_are_asked_and_asked_again(folder):
    limits = ["--max-params", "200k", "--memory", "1MB", "--device", "1e12", "--price", "2"]
    shown = run("query", "1e14", *limits)
    assert shown.exit_code == 0, shown.output
    assert "binds             max params 200k" in shown.stdout
    assert "does not bind     memory 1.00MB" in shown.stdout
    assert "device-hours" in shown.stdout
    command = " ".join(shown.stdout.replace("\\\n", " ").split())
    assert " ".join(limits) + " --config > launch.txt && xargs" in command
    document = json.loads(run("query", "1e14", *limits, "--json").stdout)
    config = run("query", "1e14", *limits, "--config").stdout
    assert f"model.width={document['shape']['width']}" in config
    assert document["shape"]["params"] <= 2e5


def test_all_columns_of_the_runs_go_to_a_table(folder):
    assert run("runs", "runs/pilot", "--csv", "out/all.csv").exit_code == 0
    with open("out/all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["status"] for r in rows] == ["failed", "done", "done"]
    assert {"params_body", "data.name", "recipe.train.lr", "reason"} <= rows[0].keys()
    assert float(rows[2]["loss"]) == record(width=32).loss


def test_names_that_a_spreadsheet_would_compute_are_escaped_in_the_csv_of_runs(folder):
    names = ["=cmd(1)", "+1", "-x", "@a"]
    rows = [f"{name},{i + 1}e6,2e7,3.5" for i, name in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["run,params,tokens,loss", *rows]) + "\n")
    assert run("runs", "table.csv", "--csv", "out.csv").exit_code == 0
    written = [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()[1:]]
    assert written == [f"'{name}" for name in names]
    listed = json.loads(run("runs", "out.csv", "--json").stdout)["runs"]
    assert [row["run"] for row in listed] == names


def test_a_worker_reports_errors_as_json(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment["ISOFLOP_WORKER_BYTES"] = str(4 << 30)
    for arguments, field, message in (
        (["fit", "short.csv"], None, "no column tokens"),
        (["fit", "good.csv", "--law", "cubic"], "law", "'cubic' is not known"),
    ):
        command = [sys.executable, "-m", "fit", *arguments]
        out = subprocess.run(command, capture_output=True, text=True, env=environment)
        error = json.loads(out.stderr)
        assert out.returncode == 1 and error["field"] == field
        assert message in error["message"] and "--help" not in error["message"]


def test_a_table_of_runs_is_listed_too(folder):
    (folder / "table.csv").write_text("run,params,tokens,loss\na,1e6,2e7,3.5\nb,2e6,2e7,\n")
    result = run("runs", "table.csv")
    assert "1 done, 1 failed" in result.stdout
    assert "1.2e14" in result.stdout


@pytest.mark.usefixtures("few_figures")
def test_report_writes_the_pdf_and_names_it(folder):
    for args in (["pilot"], ["reports/pilot", "--out", "elsewhere"]):
        result = run("report", *args)
        assert result.exit_code == 0, result.output
        assert Path(result.stdout.strip()).read_bytes().startswith(b"%PDF")
        assert result.stdout.startswith(args[-1] if len(args) > 1 else "reports/pilot")
    twice = run("report", "pilot", "--out", "x", "--wandb", "p")
    assert twice.exit_code == 2 and "leave --out out" in twice.stderr


def test_a_query_loads_no_heavy_library(folder):
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom fit.cli.main import main\n"
        "result = CliRunner().invoke(main, ['query', '1e14', '--json'])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'scipy', 'pandas', 'matplotlib', 'typst', 'sweep'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=environment)  # fmt: skip
    assert out.stdout.strip() == "[]", out.stderr


def test_what_fits_a_law_is_loaded_without_scipy():
    code = "import sys, fit.fitting; print(sorted({'scipy', 'pandas'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=environment)  # fmt: skip
    assert out.stdout.strip() == "[]", out.stderr


def test_a_full_disk_behind_stdout_is_one_line(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "fit", "query", "1e14"]
    with open("/dev/full", "w") as full:
        out = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert out.returncode == 1
    assert out.stderr.decode().splitlines()[0].startswith("isoflop: [Errno 28] No space left")
    assert b"Traceback" not in out.stderr


@pytest.mark.parametrize("target", [pytest.param("fsync", marks=pytest.mark.slow), "replace"])
def test_a_full_disk_leaves_the_old_report_whole(folder, monkeypatch, target):
    few = {name: FIGURES[name] for name in ("tokens", "fit")}  # what is drawn is not at stake
    monkeypatch.setattr("fit.report.figures.FIGURES", few)
    assert run("report", "reports/pilot").exit_code == 0
    before = sorted((p, p.read_bytes()) for p in folder.rglob("reports/pilot/**/*") if p.is_file())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, target, full)
    result = run("report", "reports/pilot")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1
    after = sorted((p, p.read_bytes()) for p in folder.rglob("reports/pilot/**/*") if p.is_file())
    assert before == after


def test_python_m_fit_is_the_same_command(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "fit", "query", "zero"]
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert out.returncode == 2
    assert "budget is 'zero'" in out.stderr
    assert "Traceback" not in out.stderr
