"""What a verdict says of checks, of short runs and of losses out of reach."""

import re

import numpy as np
import pandas as pd
import pytest

import isoflop
from fit.note_codes import NOTES
from fit.query.documents import Number
from fit.query.warnings import loss_warnings
from fit.verdict import OF_THE_DESCRIPTION, Note, short_runs_note, what_checks_found

pytestmark = pytest.mark.usefixtures("few_checks")


def note(code: str) -> Note:
    return Note(code=code, severity="info", message="")


def test_a_fit_without_a_fault_says_so_and_one_with_faults_names_them():
    assert what_checks_found([]) == " and no check of it found a fault."
    assert what_checks_found([note("thinned")]) == " and no check of it found a fault."
    found = what_checks_found([note("trend"), note("misfit"), note("trend")])
    told = "parts of the range follow other laws and the residuals bend"
    assert found.startswith(f"; its checks found that {told}, and real forecasts")
    many = what_checks_found(map(note, OF_THE_DESCRIPTION))
    assert many.count(",") == 3 and "and 9 things more" in many
    four = what_checks_found(map(note, ["misfit", "trend", "interaction", "holdout"]))
    assert "and 1 thing more," in four


def test_no_code_of_a_note_stands_in_the_sentence_of_a_trusted_fit():
    for code in OF_THE_DESCRIPTION:
        words = re.findall(r"[a-z_0-9]+", what_checks_found([note(code)]))
        assert not {c for c in NOTES if "_" in c} & set(words)
        assert "(" not in what_checks_found([note(code)])


def test_a_forecast_that_its_shortest_runs_decide_is_doubted_and_others_are_not():
    assert short_runs_note(None, 1e5) == short_runs_note(-1.9, 1e5) == ()
    (found,) = short_runs_note(-3.7, 141e3)
    assert (found.code, found.severity) == ("short_runs", "warning")
    assert "lower by 3.7 half-widths" in found.message
    assert "--where 'tokens > 1.41e+05'" in found.message


def runs(late: float, early: float) -> pd.DataFrame:
    """A sweep whose loss falls with one exponent up to 3e8 tokens and with another beyond."""
    random = np.random.default_rng(0)
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e8, 5), np.geomspace(5e7, 1e10, 6)))
    bend = 0.28 * (d / 3e8) ** -np.where(d < 3e8, early, late)
    loss = 1.7 + 40 / n**0.3 + bend
    loss = loss * np.exp(0.002 * random.standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": d, "loss": loss})


def test_questions_beyond_runs_in_their_first_phase_are_refused_and_within_answered():
    fit = isoflop.fit(runs(late=0.3, early=2.0), resamples=0)
    assert fit.forecast.short_runs < -3
    assert fit.verdict.verdict == "careful"
    top = fit.range["flops"].high
    with pytest.raises(isoflop.ScalingError, match="first phase of learning"):
        isoflop.query(fit, 10 * top)
    assert isoflop.query(fit, 0.9 * top).verdict.verdict == "careful"
    doubted = isoflop.fit(runs(late=0.3, early=1.3), resamples=0)
    assert -3 < doubted.forecast.short_runs < -2
    assert "first phase of learning" in isoflop.query(doubted, 10 * top).verdict.reason
    calm = isoflop.fit(runs(late=0.3, early=0.3), resamples=0)
    assert abs(calm.forecast.short_runs) < 1
    assert isoflop.query(calm, 10 * top).verdict.verdict in ("trust", "careful")


def test_a_loss_below_the_entropy_is_said_to_be_out_of_reach():
    (found,) = loss_warnings(Number(value=0.94, low=0.9, high=0.98), 0.9753)
    assert (found.code, found.severity) == ("below_entropy", "warning")
    assert loss_warnings(Number(value=1.0, low=0.99, high=1.01), 0.9753) == []
    assert loss_warnings(Number(value=0.94, low=0.93, high=0.95), None) == []
