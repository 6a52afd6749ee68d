"""The law of the best learning rate or batch over N, D and depth, and what a rule costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.records import DataInfo, read_runs
from fit.data.table import RunTable
from fit.diagnostics.scans import JointProblem, find_scans, loss_rise
from fit.diagnostics.tuning import fit_tuning, tuning_notes
from fit.errors import FitError

FACTORS = 2.0 ** np.arange(-2, 3)
ENTROPY = 0.9753
LENGTHS = (2.5e5, 4e6)


def scans(
    p=0.0, q=-0.1, r=0.0, *, noise=5e-4, seed=0, skew=0.3, bend=4e-3, factors=FACTORS,
    widths=(64, 16), depths=(4, 1), lengths=LENGTHS, shift=0.0, column="lr",
):  # fmt: skip
    """A scan of five values in each cell; ln(best) = shift + p ln N + q ln D + r ln depth."""
    random, rows = np.random.default_rng(seed), []
    for width in widths:
        for depth in depths:
            params = 12 * width**2 * depth + 497 * width
            for tokens in lengths:
                best = shift + p * np.log(params / 3e4) + q * np.log(tokens / 1e6)
                for factor in factors:
                    z = np.log(factor) - best - r * np.log(depth / 2)
                    rise = 2 * (np.expm1(skew * z) - skew * z) / skew**2 if skew else z**2
                    loss = ENTROPY + 0.05 * (params / 3e4) ** -0.4 + 0.05 * (tokens / 1e6) ** -0.45
                    loss += bend * rise + noise * random.standard_normal()
                    value = 0.006 * factor * 32 / width if column == "lr" else 1024 * factor
                    rows.append((params, tokens, loss, value, width, depth))
    params, tokens, loss, value, width, depth = np.array(rows).T
    return RunTable(
        run=tuple(f"r{i}" for i in range(len(rows))),
        params=params,
        tokens=tokens,
        flops=6 * params * tokens,
        loss=loss,
        cluster=np.arange(len(rows)),
        columns={column: value, "width": width, "depth": depth},
        recipe={"train.base_width": 32},
        data=DataInfo(name="stories", hash="h", entropy=ENTROPY),
    )


def exponents(found):
    return {e.name: e for e in found.exponents}


def test_without_noise_the_law_the_skew_and_the_costs_are_recovered():
    table = scans(p=0.1, q=-0.15, r=0.2, noise=0.0)
    found = fit_tuning(table)
    law = exponents(found)
    moved = [law[k].exponent.value - law[k].rule for k in ("params", "tokens", "depth")]
    assert moved == pytest.approx([0.1, -0.15, 0.2], abs=1e-6)  # beyond the rule in width
    assert found.skew == pytest.approx(0.3, abs=1e-5)
    losses = [table.loss[list(s.rows)].min() for s in found.setting.scans]
    assert all(c.loss <= least + 1e-12 for c, least in zip(found.cells, losses, strict=True))
    for cell, scan in zip(found.cells, found.setting.scans, strict=True):
        middle = table.loss[
            [i for i in scan.rows if abs(find_scans(table).values[i] - 0.006) < 1e-9]
        ]
        assert cell.excess.value == pytest.approx(middle[0] - cell.loss, abs=1e-9)


@pytest.mark.slow
def test_intervals_of_the_exponents_and_of_each_best_value_cover():
    held, cells = [], []
    for seed in range(100):
        found = fit_tuning(scans(seed=seed))
        law = exponents(found)
        d, n = law["tokens"].exponent, law["params"]
        held.append((d.low <= -0.1 <= d.high, n.exponent.low <= n.rule <= n.exponent.high))
        true = 0.006 * (found.setting.scans[0].tokens / 1e6) ** -0.1
        cells.append(found.cells[0].best.low <= true <= found.cells[0].best.high)
    # 2 standard deviations of a share of 100
    assert np.mean(held, axis=0) == pytest.approx([0.9, 0.9], abs=0.06)
    assert np.mean(cells) == pytest.approx(0.9, abs=0.06)


def test_the_gradient_of_the_joint_curve_is_that_of_its_values():
    z, skew, step = np.array([-1.2, -1e-7, 0.3, 2.0]), 0.4, 1e-6
    from fit.diagnostics.scans import _slope

    difference = (loss_rise(z + step, skew) - loss_rise(z - step, skew)) / (2 * step)
    assert _slope(z, skew) == pytest.approx(difference, abs=1e-8)
    assert loss_rise(z, 0.0) == pytest.approx(z**2)


@pytest.mark.slow
def test_a_joint_regression_knows_the_exponent_better_than_separate_vertices():
    # by a quarter at this noise; at a tenth of it both are as good
    joint, apart = [], []
    for seed in range(50):
        table = scans(seed=seed, noise=2e-3)
        joint.append(exponents(fit_tuning(table))["tokens"].exponent.value)
        cells = find_scans(table).scans
        design = np.stack([np.ones(8), np.log([c.params for c in cells])], 1)
        design = np.column_stack([design, np.log([c.tokens for c in cells])])
        design = np.column_stack([design, np.log([c.depth for c in cells])])
        apart.append(np.linalg.lstsq(design, np.log([c.best for c in cells]), rcond=None)[0][2])
    assert np.std(joint) < 0.9 * np.std(apart)
    assert abs(np.mean(joint) + 0.1) < 3 * np.std(joint) / np.sqrt(50)


@pytest.mark.slow
def test_the_test_of_the_law_is_of_its_size():
    tables = [scans(seed=s, q=0.0) for s in range(150)]
    assert np.mean([fit_tuning(t).lack < 0.05 for t in tables]) < 0.09


def test_the_test_of_the_law_finds_a_kink():
    kinked = scans(q=0.0, lengths=(2.5e5, 1e6, 4e6))
    loss = kinked.loss.copy()
    middle = kinked.tokens == 1e6
    x = np.log(kinked.column("lr") * kinked.column("width") / 32 / 0.006)
    loss[middle] += 4e-3 * ((x[middle] - 0.8) ** 2 - x[middle] ** 2)
    found = fit_tuning(dataclasses.replace(kinked, loss=loss))
    assert found.lack < 1e-3
    # half of .8 on each side of a straight line: the interval must allow for it
    assert (
        np.ptp([exponents(found)["tokens"].exponent.low, exponents(found)["tokens"].exponent.high])
        > 0.1
    )


def test_the_rule_is_judged_at_ten_and_a_hundred_times_the_horizon():
    fine, wrong = fit_tuning(scans(q=0.0, noise=1e-4)), fit_tuning(scans(q=-0.3, noise=1e-4))
    by_times = [{(c.times_params, c.times_tokens): c for c in f.checks} for f in (fine, wrong)]
    assert {c.verdict for c in by_times[0].values()} == {"safe"}
    assert by_times[1][1, 100].verdict == "not safe"
    off = by_times[1][1, 100].off
    # ln(rule/best) = .3 ln(4e8 / 1e6) at the largest size
    assert off.low <= 0.3 * np.log(400) <= off.high


def test_an_excess_that_grows_with_d_is_a_trend_and_lowers_beta():
    found = fit_tuning(scans(q=-0.3, shift=-0.4, noise=1e-4))
    trends, shifts = dict(found.trends), dict(found.shifts)
    assert trends["tokens"].low > 0
    assert shifts["beta"].high < 0 and shifts["a"].high < 0
    level = dict(fit_tuning(scans(q=0.0, noise=5e-4)).trends)
    assert all(t.low <= 0 <= t.high for t in level.values())


def test_shifts_of_the_exponents_are_those_of_a_refit_without_the_costs():
    found = fit_tuning(scans(q=-0.2, noise=0.0))
    n, d = (np.log([getattr(s, k) for s in found.setting.scans]) for k in ("params", "tokens"))

    def fitted(losses):
        from scipy.optimize import least_squares

        def model(t):
            return np.log(ENTROPY + np.exp(t[0] - t[1] * (n - 10)) + np.exp(t[2] - t[3] * (d - 14)))

        return least_squares(lambda t: model(t) - np.log(losses), [-3, 0.4, -3, 0.4]).x[[1, 3]]

    best = np.array([c.loss for c in found.cells])
    change = fitted(best + [c.excess.value for c in found.cells]) - fitted(best)
    shifts = dict(found.shifts)
    # first order: a fifth of the change
    assert [shifts["alpha"].value, shifts["beta"].value] == pytest.approx(change, rel=0.2, abs=2e-3)


def test_what_one_length_or_edges_leave_open_is_said():
    one = fit_tuning(scans(lengths=(1e6,)))
    assert "tokens" not in exponents(one)
    assert any("how the best moves with D" in text for text in one.undetermined)
    assert not any(c.times_tokens > 1 for c in one.checks)
    edge = fit_tuning(scans(shift=3.0))
    assert edge.exponents == () and edge.checks == ()
    assert any("8 of 8 scans have their best at an edge" in text for text in edge.undetermined)
    with pytest.raises(FitError, match="3 learning rates"):
        fit_tuning(scans(factors=FACTORS[:2]))
    with pytest.raises(FitError, match="a positive number is needed"):
        fit_tuning(scans(), rule=-1.0)
    three = fit_tuning(scans(factors=FACTORS[1:4]))
    assert any("rises faster above" in text for text in three.undetermined)


def test_a_decay_along_the_trunk_is_the_rules_own_exponent():
    table = scans(q=0.0, noise=1e-4)
    decaying = {**table.recipe, "train.lr_decay_from": 2e5, "train.lr_decay_power": 0.15}
    law = exponents(fit_tuning(dataclasses.replace(table, recipe=decaying)))["tokens"]
    assert law.rule == pytest.approx(-0.15, abs=1e-9)
    assert law.exponent.low <= -0.15 <= law.exponent.high and law.chance > 0.01


def test_batches_have_a_law_and_a_critical_batch():
    table = scans(q=0.3, r=0.0, noise=1e-4, column="batch_tokens", skew=0.0)
    found = fit_tuning(table, "batch")
    law = exponents(found)["tokens"]
    assert law.exponent.low <= 0.3 <= law.exponent.high
    scan, cell = found.setting.scans[0], found.cells[0]
    other = found.cells[1]
    worth = (cell.loss - other.loss) / np.log(found.setting.scans[1].tokens / scan.tokens)
    expected = cell.best.value * np.exp(np.sqrt(worth * np.log(1.2) / 4e-3))
    assert cell.critical_batch.value == pytest.approx(expected, rel=0.02)


def test_records_that_differ_in_a_number_of_the_recipe_can_be_scanned():
    base = next(r for r in read_runs(Path("runs/reference")).records if r.status == "done")
    decays = (0.03, 0.1, 0.3, 1.0)
    records = [
        dataclasses.replace(
            base,
            run=f"r{i}-{tokens}",
            tokens=tokens,
            tokens_seen=tokens,
            loss=1.0 + 1e-3 * np.log(decay / 0.2) ** 2,
            recipe={**base.recipe, "train.weight_decay": decay},
        )
        for i, decay in enumerate(decays)
        for tokens in (250_000, 4_000_000)
    ]
    table = RunTable.from_records(records)
    assert "train.lr" not in table.columns  # the same in all runs
    scan, *_ = find_scans(table, "train.weight_decay").scans
    assert scan.best == pytest.approx(0.2, rel=1e-6)


def test_lengths_that_differ_by_a_step_are_one_scan():
    table = scans(lengths=(1e6,))
    tokens = table.tokens * (1 + 0.002 * np.arange(len(table)) % 0.01)
    assert len(find_scans(dataclasses.replace(table, tokens=tokens)).scans) == 4


def test_a_seeds_own_level_does_not_widen_the_fit():
    one, two = scans(seed=1), scans(seed=2)
    both = RunTable(
        run=tuple(f"r{i}" for i in range(80)),
        **{
            k: np.concatenate([getattr(one, k), getattr(two, k)])
            for k in ("params", "tokens", "flops")
        },
        loss=np.concatenate([one.loss, two.loss + 0.01]),
        cluster=np.arange(80),
        columns={
            **{k: np.concatenate([v, v]) for k, v in one.columns.items()},
            "seed": np.repeat([0.0, 1.0], 40),
        },
        recipe=one.recipe,
    )
    assert fit_tuning(both).noise < 1e-3
    assert JointProblem(both, find_scans(both), np.zeros((8, 0))).counts.tolist() == [5] * 16


def test_the_note_comes_where_the_rule_is_wrong_and_rarely_where_it_is_not():
    moving = [list(tuning_notes(scans(q=-0.3, seed=s))) for s in range(6)]
    still = [list(tuning_notes(scans(q=0.0, seed=s))) for s in range(34)]
    assert all(len(notes) == 1 and notes[0].code == "tuning" for notes in moving)
    assert "D^-0.3" in moving[0][0].message and "the rule has" in moving[0][0].message
    assert sum(map(len, still)) <= 1


def test_the_command_prints_tables_that_fit_and_the_same_document(tmp_path):
    file = tmp_path / "scan.csv"
    for name, table in (("all", scans(noise=2e-3)), ("edge", scans(shift=3.0))):
        names = ("params", "tokens", "loss", "lr", "width", "depth")
        columns = [table.column(n) for n in names]
        rows = [",".join(f"{v:.9g}" for v in row) for row in zip(*columns, strict=True)]
        file.write_text("\n".join([",".join(names), *rows]))
        shown = CliRunner().invoke(main, ["tuning", str(file)])
        assert shown.exit_code == 0, shown.output
        assert max(map(len, shown.output.splitlines())) <= 80, name
        document = json.loads(CliRunner().invoke(main, ["tuning", str(file), "--json"]).output)
        assert document["schema"] == "isoflop.tuning/2"
        assert len(document["scans"]) == 8
    refused = CliRunner().invoke(main, ["tuning", str(file), "--where", "lr < 0.001"])
    assert refused.exit_code == 1
    unknown = CliRunner().invoke(main, ["tuning", str(file), "--law", "momentum"])
    assert unknown.exit_code == 1 and len(unknown.stderr.splitlines()) == 1
