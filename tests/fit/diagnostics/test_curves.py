"""Checks of the recipe from training curves, on simulated sweeps of known behaviour."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fit.data.records import read_curve, window_means
from fit.diagnostics.curves import CurveChecks, collapse, cooldowns, normalised_lines, transients
from fit.diagnostics.notes import curve_notes
from fit.fitting import FitOptions, fit_table
from tests.fit.diagnostics.curve_builders import SIZES, E, sweep

SHORT = (500_000, 1_000_000)


def smallest_is_off(size, share):
    """The smallest size falls more steeply along its trunk than the others."""
    return 0.03 * (size == SIZES[0]) * np.clip(1 - share, 0, 1)


@pytest.mark.parametrize(
    ("sizes", "seeds"),
    [
        pytest.param(SIZES, 2, marks=pytest.mark.slow, id="5x2"),
        pytest.param(SIZES[:3], 2, id="3x2"),
        pytest.param(SIZES[::2], 3, marks=pytest.mark.slow, id="3x3"),
    ],
)
def test_sizes_that_share_one_curve_raise_no_more_alarms_than_the_level(sizes, seeds):
    found = [collapse(*sweep(k, sizes=sizes, seeds=seeds, lengths=SHORT)) for k in range(30)]
    chances = np.array([f.probability for f in found])
    assert (chances < 0.05).sum() <= 5  # 1.5 of 30 expected, 6 or more in .3% of such tests
    assert sum(f.fails for f in found) <= 2  # .3 expected, 3 or more in .4%
    assert np.median([f.noise for f in found]) == pytest.approx(5e-4, abs=2e-4)


def test_a_recipe_that_is_off_at_the_smallest_size_is_caught_and_the_size_named():
    found = [collapse(*sweep(k, lengths=SHORT, off=smallest_is_off)) for k in range(20)]
    assert sum(f.fails for f in found) >= 18
    assert sum(f.farthest == SIZES[0] for f in found) >= 18
    assert np.median([f.without for f in found]) > 0.05
    (note,) = list(curve_notes(CurveChecks(collapse=found[0])))
    assert note.code == "collapse" and "14.1k parameters lie farthest off" in note.message
    assert "+experiment=lr" in note.message


def test_the_offsets_of_the_normalisation_are_recovered():
    found = [collapse(*sweep(k, noise=2e-4)) for k in range(10)]
    trunk = [f.offsets[0] for f in found]  # of an additive law: minus infinity
    assert all(c is None or c < -0.5 for c in trunk)
    cooled = [f.offsets[1] for f in found]  # what the rate costs goes with L(T) - c; simulated .9
    assert np.median(cooled) == pytest.approx(0.87, abs=0.05)


def test_one_seed_gives_a_discrepancy_and_no_test():
    found = collapse(*sweep(1, seeds=1, lengths=SHORT))
    assert found.discrepancy > 0
    assert found.noise is None and found.probability is None and not found.fails


def test_two_sizes_are_not_compared():
    assert collapse(*sweep(1, sizes=SIZES[:2], lengths=SHORT)) is None


def test_seeds_at_the_corners_alone_are_enough_for_a_test():
    table, curves = sweep(3, seeds=3, sizes=SIZES)
    corner = np.isin(table.params, (SIZES[0], SIZES[-1])) & np.isin(table.tokens, (5e5, 4e6))
    keep = np.flatnonzero((table.column("seed") == 0) | corner)
    found = collapse(table.take(keep), {k: curves[i] for k, i in enumerate(keep)})
    assert found.lengths == (5e5, 4e6) and found.probability is not None
    assert len(found.sizes) == 5 and not found.fails


def test_a_ladder_is_compared_at_equal_shares_of_its_runs():
    table, curves = sweep(2, noise=1e-4, batch_noise=0.0)
    length = dict(zip(SIZES, (5e5, 1e6, 1e6, 2e6, 4e6), strict=True))
    keep = np.flatnonzero([t == length[n] for n, t in zip(table.params, table.tokens, strict=True)])
    keep = keep[table.params[keep] != SIZES[2]]
    found = collapse(table.take(keep), {k: curves[i] for k, i in enumerate(keep)})
    assert found.lengths == () and len(found.sizes) == 4


def test_lines_of_a_report_lie_on_one_curve_where_sizes_collapse():
    table, curves = sweep(4, noise=1e-5, lengths=SHORT)
    lines = normalised_lines(table, curves, collapse(table, curves))
    falls = np.array([line["fall"] for line in lines if line["tokens"] == SHORT[0]])
    assert falls.shape == (5, 20)
    late = np.array(lines[0]["share"]) > 0.3
    assert (falls.std(axis=0)[late] < 5e-4).all()
    assert falls.mean(axis=0)[-1] < -0.02  # the cooldown's gain


def test_a_cooldown_that_follows_the_rate_is_no_cause_for_a_note():
    for k in range(20):
        found = cooldowns(*sweep(k, lag=0.05))
        assert [c.tokens for c in found] == [5e5, 1e6, 2e6]  # 4M has no longer run on its trunk
        assert not any(c.too_short for c in found)
        assert found[0].left == pytest.approx(0.025, abs=0.02)


def test_a_cooldown_shorter_than_the_lag_of_the_loss_is_caught_and_its_remainder_measured():
    for k in range(20):
        found = cooldowns(*sweep(k, lag=1.0))
        assert found[0].too_short
        assert found[0].lag == pytest.approx(1.0, rel=0.3)  # 100k tokens of 100k
        assert found[0].left == pytest.approx(0.53, abs=0.08)
        assert found[2].left < found[1].left < found[0].left
    (note,) = list(curve_notes(CurveChecks(cooldowns=found)))
    assert note.code == "undercooled" and "train.cooldown" in note.message


def test_a_warm_up_of_a_third_of_a_run_is_noted_and_one_of_a_fiftieth_is_not():
    table, curves = sweep(1, warmup=10_000)
    assert transients(table, curves, E) == ()
    table, curves = sweep(1, warmup=150_000)
    found = transients(table, curves, E)
    assert {t["run"].split("-")[1] for t in found} == {"d500000"}  # .3 of .5M, .15 of 1M
    assert found[0]["warmup"] == pytest.approx(0.3, abs=0.03)
    assert "warm-up takes" in next(iter(curve_notes(CurveChecks(transients=found)))).message


def test_a_trunk_that_still_falls_faster_than_any_law_is_noted():
    def fast(size, share):
        return 3.0 * np.exp(-share / 0.15) * (size == SIZES[-1])

    table, curves = sweep(1, off=fast, lengths=(500_000,))
    found = transients(table, curves, E)
    assert found and all(t["run"].startswith(f"n{SIZES[-1]}") for t in found)
    assert found[0]["fast_fall"] > 0.3
    assert "faster than 1/tokens" in next(iter(curve_notes(CurveChecks(transients=found)))).message


def test_a_folder_with_curves_gets_the_checks_and_one_without_none(tmp_path):
    table, curves = sweep(5, off=smallest_is_off)
    for i, curve in curves.items():
        folder = tmp_path / table.run[i]
        folder.mkdir()
        lines = [",".join(f"{v:.6g}" for v in row) for row in curve]  # as the trainer writes it
        (folder / "curve.csv").write_text("\n".join(["tokens,loss,lr,norm", *lines]) + "\n")
    folders = tuple(str(tmp_path / run) for run in table.run)
    quick = FitOptions(resamples=0)
    fit = fit_table(dataclasses.replace(table, folders=folders), quick)
    assert "collapse" in {n.code for n in fit.notes}
    assert fit.curves["collapse"]["farthest"] == SIZES[0] and len(fit.curves["lines"]) == 20
    assert type(fit).from_json(fit.to_json()).curves == fit.document()["curves"]
    plain = fit_table(table, quick)
    assert plain.curves == {} and plain.theta == fit.theta


@pytest.mark.parametrize(
    "text", ["", "tokens\n", "a,b,c,d\n1,2,x,4\n", "a,b,c,d\n2,1,1,1\n1,1,1,1\n", "a,b\n1,2\n"]
)
def test_a_curve_that_cannot_be_read_is_left_out(tmp_path, text):
    assert read_curve(str(tmp_path)) is None
    (tmp_path / "curve.csv").write_text(text)
    assert read_curve(str(tmp_path)) is None


def test_windows_average_rows_by_their_tokens():
    curve = np.array([[10, 3.0, 1, 1], [30, 2.0, 1, 1], [40, 1.0, 1, 1]])
    assert window_means(curve, np.array([0, 10, 40])).tolist() == [3.0, pytest.approx(5 / 3)]
    assert np.isnan(window_means(curve, np.array([0, 20, 50]))[1])
