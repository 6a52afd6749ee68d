"""The fit command around the fitting itself, which is stood in for."""

import dataclasses
import json
import sys

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.report.text import _entropy_rows
from fit.results import read_fit
from tests.fit.builders import make_fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command hands on."""

    name: str
    law: str
    loss: str
    delta: float | None
    interval: str
    level: float
    discrepancy: str
    entropy: str
    prior: tuple[str, ...]
    resamples: int
    seed: int
    weight: str | None


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A folder with a table; what was asked of the fit is kept."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{n},{d},{3 - n / 1e7}" for n in (1e6, 2e6) for d in (1e7, 2e7, 4e7)]
    (tmp_path / "table.csv").write_text("\n".join(["n_params,tokens,loss", *rows]) + "\n")
    kept = {}

    def fit_table(table, options, reading):
        kept.update(table=table, options=options)
        return make_fit(name=options.name, options={**make_fit().options, **reading})

    monkeypatch.setattr("fit.fitting.FitOptions", Options)
    monkeypatch.setattr("fit.fitting.fit_table", fit_table)
    return kept


def run(*args):
    return CliRunner().invoke(main, ["fit", "table.csv", "--column", "params=n_params", *args])


def test_the_report_folder_is_named_after_the_runs(asked, tmp_path):
    result = run("--no-report")
    assert result.exit_code == 0, result.output
    assert read_fit(tmp_path / "reports" / "table").name == "table"
    assert "ask      isoflop query 8.46e13 --fit reports/table" in result.stdout


def test_options_reach_the_fit_and_the_document(asked, tmp_path):
    given = "--law tied --loss huber --delta 1e-3 --interval pairs --level 0.8 --resamples 50"
    result = run("--no-report", "--out", "out/x", "--seed", "3", "--where", "tokens > 1e7",
                 *given.split())  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked["options"] == Options(
        name="x",
        law="tied",
        loss="huber",
        delta=1e-3,
        interval="pairs",
        level=0.8,
        discrepancy="learned",
        entropy="estimated",
        prior=(),
        resamples=50,
        seed=3,
        weight=None,
    )
    assert len(asked["table"]) == 4
    assert read_fit(tmp_path / "out" / "x").options["where"] == "tokens > 1e7"


def test_the_fit_is_printed_with_what_it_rests_on(asked):
    out = run("--no-report").stdout
    for part in (
        "L = E + A/N^alpha + B/D^beta",
        "converged, kappa 61",
        "90% confidence (hc3)",
        "known entropy         1.0900  fitted E +0.0100 from it; inside its interval",
        "approach 2        isoFLOP: a = 0.49 [0.4, 0.58], agrees with the fit",
        "approach 1        envelope: no value: too few sizes",
        "holdout",
        "counted as        N total, C 6nd: a = 0.440, D/N = 14.0",
        "warning           run w16-d2 lies off the law",
        "At 8.46e13 FLOP (×10.0 the largest budget): 581k [",
    ):
        assert part in out
    assert max(map(len, out.splitlines())) <= 80


def test_an_entropy_just_outside_the_interval_is_not_printed_as_its_end():
    fit = make_fit()
    low, high = fit.interval.bounds["E"]
    data = {**fit.data, "entropy": low - 2.4e-5}
    first, second = _entropy_rows(dataclasses.replace(fit, data=data))
    assert first.endswith("from it; outside its interval")
    assert second.strip() == "by 2e-05; of sweeps that follow the law, 10% miss by chance"
    assert max(map(len, (first, second))) <= 80
    (inside,) = _entropy_rows(dataclasses.replace(fit, data={**fit.data, "entropy": high}))
    assert inside.endswith("inside its interval")


@pytest.mark.usefixtures("few_figures")
def test_json_is_the_fit_without_its_draws_and_nothing_else(asked):
    result = run("--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "isoflop.fit/1"
    assert "draws" not in document
    assert "report.pdf" in result.stderr


@pytest.mark.usefixtures("few_figures")
def test_a_report_is_written_unless_refused(asked, tmp_path):
    assert "report   reports/table/report.pdf" in run().stdout
    (tmp_path / "reports" / "table" / "report.pdf").unlink()
    assert "report.pdf" not in run("--no-report").stdout
    assert not (tmp_path / "reports" / "table" / "report.pdf").exists()


def test_without_the_report_extra_the_fit_is_kept(asked, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    result = run()
    assert result.exit_code == 1
    assert "isoflop[report]" in result.stderr
    assert read_fit(tmp_path / "reports" / "table").name == "table"


def test_an_unidentified_fit_is_printed_without_a_first_answer(asked, monkeypatch):
    blind = make_fit(kappa=2000.0)
    monkeypatch.setattr("fit.fitting.fit_table", lambda *_: blind)
    result = run("--no-report")
    assert result.exit_code == 0
    assert "kappa 2000" in result.stdout
    assert "parameters on" not in result.stdout


@pytest.mark.parametrize("out", ["table.csv/x", "table.csv"])
def test_a_folder_that_cannot_be_written_is_one_line(asked, out):
    result = run("--no-report", "--out", out)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert result.stderr.count("\n") == 1
