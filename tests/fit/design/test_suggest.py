"""`isoflop suggest` from outside, and what its expectations rest on."""

import dataclasses
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.records import write_record
from fit.design.candidates import SuggestRequest, parse_range
from fit.design.plan_files import planned_jobs
from fit.design.suggest import propose
from fit.errors import PlanError, QueryError
from fit.laws.published import preset
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.listings import proposal_text
from fit.results import Span, write_fit
from fit.verdict import Note
from tests.fit.builders import RECIPE, make_fit, make_points, plain_points
from tests.fit.data.builders import record

TARGET, SPEND = 1e14, 2e13
COOLED = {**RECIPE, "train.cooldown": 0.2}


@pytest.fixture(scope="module")
def proposal():
    return propose(
        SuggestRequest(
            source=ScalingLaw.from_fit(make_fit(recipe=COOLED)),
            flops=TARGET,
            spend=SPEND,
            most_runs=12,
        )
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a fit of a sweep."""
    monkeypatch.chdir(tmp_path)
    fit = make_fit(name="pilot", recipe=COOLED, source={"path": "runs/synthetic"})
    write_fit(tmp_path / "reports" / "pilot", fit)
    write_record(tmp_path / "runs" / "synthetic" / fit.points.run[0], record())
    return tmp_path


def ask(*arguments):
    return CliRunner().invoke(main, ["suggest", *map(str, arguments)])


def test_the_interval_before_is_the_one_a_query_gives(proposal):
    found = answer(Question(source=ScalingLaw.from_fit(make_fit(recipe=COOLED)), flops=TARGET))
    half = math.sqrt(found.params.high / found.params.low)
    assert proposal.before.params_factor == pytest.approx(half, rel=1e-6)
    assert proposal.before.loss_margin == pytest.approx(
        (found.loss.high - found.loss.low) / 2, rel=1e-3
    )


def test_each_part_of_the_spend_narrows_both_intervals(proposal):
    factors = [s.precision.params_factor for s in proposal.steps]
    margins = [s.precision.loss_margin for s in proposal.steps]
    assert [s.share for s in proposal.steps] == [0.25, 0.5, 0.75, 1.0, 1.1]
    assert factors == sorted(factors, reverse=True)
    assert margins == sorted(margins, reverse=True)
    assert factors[0] < proposal.before.params_factor
    assert proposal.after == proposal.steps[3].precision


def test_the_bill_counts_trunks_once_and_stays_within_the_spend(proposal):
    assert proposal.flops_spent <= SPEND
    assert proposal.flops_spent < 0.9 * sum(r.flops for r in proposal.runs)
    assert max(r.flops for r in proposal.runs) <= SPEND / 4 * 1.001


def test_new_trunks_take_seeds_that_the_fitted_runs_have_not():
    points = make_points()
    seeds = np.arange(len(points.run)) % 3.0
    fit = make_fit(
        recipe=COOLED,
        points=dataclasses.replace(points, columns={**points.columns, "seed": seeds}),
    )
    found = propose(
        SuggestRequest(source=ScalingLaw.from_fit(fit), flops=TARGET, spend=SPEND, most_runs=6)
    )
    assert {r.seed for r in found.runs} <= {3, 4, 5}


def test_a_plain_table_and_a_published_law_give_sizes_without_shapes():
    points = plain_points()
    convention = {"params": "as given", "flops": "6nd"}
    fit = make_fit(points=points, convention=convention, cross_checks=())
    for source in (ScalingLaw.from_fit(fit), ScalingLaw.from_preset(preset("hoffmann2022"))):
        found = propose(SuggestRequest(source=source, flops=5e15, spend=1e15, most_runs=8))
        assert all(r.shape is None and r.seed is None for r in found.runs)
        assert found.flops_spent == pytest.approx(sum(6 * r.params * r.tokens for r in found.runs))
        assert planned_jobs(found) == ()


def test_without_runs_there_is_nothing_before_and_few_runs_are_refused():
    source = ScalingLaw.from_preset(preset("besiroglu2024"))
    found = propose(SuggestRequest(source=source, flops=1e22, spend=1e20, most_runs=8))
    assert found.before is None
    assert math.isfinite(found.after.params_factor)
    with pytest.raises(PlanError, match="5 runs are too few for the law 'chinchilla'"):
        propose(SuggestRequest(source=source, flops=1e22, spend=1e20, most_runs=5))


def test_a_target_too_far_beyond_the_runs_is_refused_as_by_a_query(folder):
    refused = ask("pilot", "--flops", "1e21", "--spend", "1e13")
    asked = CliRunner().invoke(main, ["query", "1e21", "--fit", "pilot"])
    assert refused.exit_code == 1 and asked.exit_code == 1 and refused.stdout == ""
    assert asked.stderr.startswith(refused.stderr.strip())  # which has no --force to offer
    assert "beyond the largest budget fitted" in refused.stderr


def test_the_runs_that_a_refused_fit_lacks_are_designed_without_n_star(tmp_path):
    source = ScalingLaw.from_fit(make_fit(kappa=2000.0))
    found = propose(SuggestRequest(source=source, flops=TARGET, spend=SPEND, most_runs=6))
    assert found.runs and (found.params, found.loss, found.before) == (None, None, None)
    assert "kappa 2000" in found.refusal
    text = " ".join(proposal_text(found, tmp_path, None).split())
    assert "no N* and no loss, the fit is refused: the law's parameters are not identified" in text
    assert f"{answer(Question(source=source, flops=TARGET, force=True)).loss.value:.4f}" not in text


def test_runs_are_designed_for_the_noise_that_is_stated():
    source = ScalingLaw.from_preset(preset("besiroglu2024"))
    quiet, loud = (
        propose(SuggestRequest(source=source, flops=1e22, spend=1e20, most_runs=8, noise=x))
        for x in (0.001, 0.01)
    )
    assert loud.after.loss_margin == pytest.approx(10 * quiet.after.loss_margin, rel=0.3)


def test_a_law_in_doubt_is_said_to_be():
    fit = make_fit(notes=(Note(code="misfit", severity="warning", message="bends"),))
    found = propose(
        SuggestRequest(source=ScalingLaw.from_fit(fit), flops=TARGET, spend=SPEND, most_runs=6)
    )
    assert [n.code for n in found.notes] == ["law_in_doubt"]
    assert "misfit" in found.notes[0].message


def test_the_terminal_shows_runs_worth_and_commands_in_80_columns(folder):
    found = ask("reports/pilot", "--flops", TARGET, "--spend", SPEND, "--runs", 12)
    assert found.exit_code == 0, found.output
    assert max(map(len, found.output.splitlines())) <= 80
    assert "10% more spend (" in found.output
    assert "python -m sweep -m +experiment=suggested" in found.output
    plan = folder / "reports" / "pilot" / "suggested"
    jobs = sorted(p.stem for p in (plan / "cell").glob("*.yaml"))
    experiment = (plan / "experiment" / "suggested.yaml").read_text()
    assert jobs and all(job in experiment for job in jobs)
    assert 'name: "synthetic"' in experiment and 'runs_dir: "runs"' in experiment


def test_the_document_is_the_same_as_the_file_and_the_bill_adds_up(folder):
    found = ask("reports/pilot", "--flops", TARGET, "--spend", SPEND, "--runs", 6, "--json")
    document = json.loads(found.output)
    file = folder / "reports" / "pilot" / "suggested" / "proposal.json"
    assert document == json.loads(file.read_text())
    assert document["schema"] == "isoflop.proposal/1"
    assert document["flops_spent"] == pytest.approx(sum(r["flops_spent"] for r in document["runs"]))


def test_a_second_proposal_replaces_the_first(folder):
    for runs in (12, 2):
        ask("reports/pilot", "--flops", TARGET, "--spend", SPEND, "--runs", runs)
    jobs = list((folder / "reports" / "pilot" / "suggested" / "cell").glob("*.yaml"))
    assert 1 <= len(jobs) <= 2


def test_the_same_question_has_the_same_answer(folder):
    arguments = ("--law", "gadre2024", "--flops", 1e21, "--spend", 1e19, "--runs", 8, "--json")
    assert ask(*arguments).output == ask(*arguments).output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--flops", "abc", "--spend", "1e13"], 1, "--flops is 'abc'"),
        (["--flops", "1e14", "--spend", "-1"], 1, "--spend is '-1'"),
        (["--flops", "1e14"], 2, "Missing option '--spend'"),
        (["--flops", "1", "--spend", "1e13"], 1, "less than one parameter or token"),
        (["--flops", "1e14", "--spend", "10"], 1, "no run of at least"),
        (["--flops", "1e14", "--spend", "1e13", "--ratio", "5"], 1, "--ratio is '5'"),
        (["--flops", "1e14", "--spend", "1e13", "--widths", "1.5"], 1, "whole numbers"),
        (["--flops", "1e14", "--spend", "1e13", "--widths", "7"], 1, "no run of at least"),
        (["--flops", "1e14", "--spend", "1e13", "--runs", "0"], 2, "--runs"),
        (["--flops", "1e14", "--spend", "1e13", "--noise", "0"], 2, "--noise"),
        (["--flops", "1e22", "--spend", "1e20", "--law", "nope"], 1, "unknown law 'nope'"),
        (
            ["--flops", "1e22", "--spend", "1e20", "--law", "gadre2024", "--widths", "8"],
            1,
            "shapes",
        ),
        (["reports/none", "--flops", "1e22", "--spend", "1e20"], 1, "cannot read the fit"),
        (["reports/pilot", "--law", "x", "--flops", "1", "--spend", "1"], 2, "not both"),
    ],
)
def test_a_bad_question_is_one_line(folder, arguments, code, words):
    found = ask(*arguments)
    assert found.exit_code == code
    assert words in found.output
    assert "Traceback" not in found.output
    if code == 1:
        assert len(found.output.strip().splitlines()) == 1


def test_ranges_may_leave_an_end_open():
    assert parse_range("10k:", "--params") == Span(low=1e4, high=math.inf)
    assert parse_range(":7B", "--params").high == 7e9
    assert parse_range(None, "--params") is None
    with pytest.raises(QueryError, match="the lower end first"):
        parse_range("9:3", "--params")


def test_a_proposal_without_shapes_says_that_nothing_is_launched(tmp_path):
    source = ScalingLaw.from_preset(preset("besiroglu2024"))
    found = propose(SuggestRequest(source=source, flops=1e22, spend=1e20, most_runs=8))
    assert "nothing to launch" in proposal_text(found, tmp_path, None)


def test_the_bill_of_a_proposal_is_that_of_its_trunks(proposal):
    by_trunk = {}
    for run in proposal.runs:
        by_trunk.setdefault((run.shape, run.seed), []).append(run)
    for runs in by_trunk.values():
        per_token = runs[0].flops / runs[0].tokens
        lengths = [r.tokens for r in runs]
        whole = per_token * (0.2 * sum(lengths) + 0.8 * max(lengths))
        assert sum(r.flops_spent for r in runs) == pytest.approx(whole)
