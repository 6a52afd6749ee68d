"""A doubtful fit is shown as doubtful, and a refused one shows no answer, wherever it is shown."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.cli.runs import summary
from fit.errors import RefusedError
from fit.query.answer import predict
from fit.query.warnings import cross_check_remark
from fit.report.summary_page import report_content
from fit.report.text import fit_text
from fit.results import CrossCheck, Fit, write_fit
from fit.verdict import Note, is_identified, kappa_text
from tests.fit.builders import make_fit

REFUSED = [{"kappa": 1500.0}, {"kappa": float("inf")}, {"status": "ill_conditioned"}]


@pytest.mark.parametrize("changes", REFUSED)
def test_a_refused_fit_shows_no_optimum_anywhere(tmp_path, changes):
    fit = make_fit(**changes)
    assert not is_identified(fit) and fit.verdict.refused
    shown = summary(fit, tmp_path)
    assert "No recommendation" in shown
    assert "ask " not in shown and "parameters on" not in shown
    page = report_content(ScalingLaw.from_fit(fit))
    assert page["refused"] and page["answers"] is None
    assert ["loud", "No recommendation."] in page["summary"]
    write_fit(tmp_path, fit)
    asked = CliRunner().invoke(main, ["query", "1e14", "--fit", str(tmp_path)])
    assert asked.exit_code == 1
    assert asked.stderr.count("\n") == 1
    assert "--force" in asked.stderr
    forced = CliRunner().invoke(
        main, ["query", "1e14", "--fit", str(tmp_path), "--force", "--json"]
    )
    assert json.loads(forced.stdout)["params"]["value"] > 0


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"notes": ()}, "TRUST: the fit converged on"),
        ({"kappa": 400.0, "notes": ()}, "CAREFUL: the law's parameters are barely identified"),
        ({"theta": {**make_fit().theta, "E": 0.0}, "notes": ()}, "CAREFUL: the fitted E"),
        ({"kappa": 1500.0}, "REFUSE: the law's parameters are not identified"),
        ({"status": "max_iterations"}, "REFUSE: the search for the law's parameters"),
        ({"notes": (Note(code="units", severity="serious", message="x. Y."),)}, "REFUSE: x."),
    ],
)
def test_the_verdict_on_a_fit_stands_first_with_its_sentence(changes, verdict):
    fit = make_fit(**changes)
    first = fit_text(fit).splitlines()[2]
    assert first.startswith("  verdict")
    assert verdict in first
    document = fit.document(draws=False)
    assert list(document)[:3] == ["schema", "verdict", "verdict_reason"]
    assert document["verdict"].upper() == verdict.partition(":")[0]
    assert Fit.from_json(fit.to_json()).verdict == fit.verdict


def test_between_the_runs_even_an_unidentified_fit_predicts_with_care():
    fit = make_fit(kappa=1500.0)
    n, d = (fit.range[k].low * 1.5 for k in ("params", "tokens"))
    assert predict(fit, n, d).verdict.verdict == "careful"
    with pytest.raises(RefusedError, match="not identified"):
        predict(fit, n, 10 * fit.range["tokens"].high)
    assert predict(fit, n, 10 * fit.range["tokens"].high, force=True).verdict.refused


def test_condition_numbers_are_short():
    assert kappa_text(make_fit(kappa=61.4)) == "61"
    assert kappa_text(make_fit(kappa=1.3774129747379540e16)) == "1.38e16"


def check(a: float, half: float, disagrees: bool = False) -> CrossCheck:
    ends = (a - half, a + half)
    return CrossCheck(name="isoflop", a=a, a_interval=ends, coefficient=0.0, disagrees=disagrees)


def test_an_interval_that_holds_everything_agrees_with_nothing():
    fit = make_fit()
    assert cross_check_remark(fit, check(0.5, 0.05)) == "agrees with the fit"
    assert cross_check_remark(fit, check(0.5, 0.4)) == "too uncertain to compare"
    assert cross_check_remark(fit, check(0.9, 0.05, disagrees=True)) == "DISAGREES with the fit"
    assert (
        cross_check_remark(make_fit(kappa=5000.0), check(0.5, 0.05)) == "too uncertain to compare"
    )
    only = make_fit(cross_checks=(check(0.5, 0.4),))
    grades = {text: grade for grade, text in report_content(ScalingLaw.from_fit(only))["checks"]}
    assert grades["No other approach could be run on these runs as a cross-check."] == "fair"


def test_checks_without_a_value_keep_their_reason():
    fit = make_fit()
    assert "no value: too few sizes" in fit_text(fit)
    none = dataclasses.replace(fit, cross_checks=())
    assert "approach" not in fit_text(none)
