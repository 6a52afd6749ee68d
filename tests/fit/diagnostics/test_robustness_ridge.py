"""Flat ridges and simpler laws are said."""

from fit.fitting import FitOptions, fit_table
from fit.laws.families import law
from tests.fit.laws.builders import TRUTH, lawful


def codes(name, theta, **asked):
    table = lawful(law(name), theta, noise=3e-3)
    return {n.code: n for n in fit_table(table, FitOptions(law=name, resamples=0, **asked)).notes}


def test_an_outer_exponent_is_said_to_be_one_or_not():
    bent = codes("outer", TRUTH["outer"])
    plain = codes("outer", (*TRUTH["outer"][:5], 1.0))
    assert "excludes 1" in bent["simpler_law_excluded"].message
    assert "includes 1" in plain["simpler_law"].message


def test_total_params_are_said_to_matter_or_not():
    assert "simpler_law_excluded" in codes("moe", TRUTH["moe"])
    assert "simpler_law" in codes("moe", (*TRUTH["moe"][:5], 0.0))


def test_a_ridge_is_said_where_minima_far_apart_fit_alike():
    # A loss near L1 over runs that hardly repeat: R_D* and R_N* have many minima alike.
    theta = TRUTH["data-constrained"]
    table = lawful(law("data-constrained"), theta, noise=0.1, seed=2)
    hold = tuple(zip(law("data-constrained").parameters[:5], theta, strict=False))
    options = FitOptions(law="data-constrained", loss="huber", delta=1e-3, hold=hold, resamples=0)
    notes = {n.code: n.message for n in fit_table(table, options).notes}
    assert "R_N* from" in notes["flat_ridge"]


def test_no_ridge_is_seen_where_there_is_one_minimum():
    assert "flat_ridge" not in codes("kaplan", TRUTH["kaplan"])
