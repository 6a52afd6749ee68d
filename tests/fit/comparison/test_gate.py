"""Whether a change is worth it, from a few sizes and seeds."""

import dataclasses
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.comparison.gate import gate
from fit.data.records import write_record
from fit.data.table import RunTable
from fit.errors import QueryError
from tests.fit.data.builders import record

TWO, FOUR = np.geomspace(1e15, 1e17, 2), np.geomspace(1e15, 1e18, 4)


def runs(budgets, multiplier=1.0, *, noise=None, cost=1.0, growth=0.0):
    """Runs whose loss is that of `multiplier` times their compute, with noise (sizes, seeds)."""
    noise = np.zeros((len(budgets), 1)) if noise is None else noise
    rows = []
    for flops, errors in zip(budgets, noise, strict=True):
        params = math.sqrt(flops / 120)
        better = multiplier * (flops / budgets[0]) ** growth
        loss = 1.7 + 400 / (flops * better) ** 0.15
        for seed, error in enumerate(errors):
            rows.append((params, flops / 6 / params, flops * cost, loss * math.exp(error), seed))
    columns = np.array(rows).T
    return RunTable(
        run=tuple(f"r{i}" for i in range(len(rows))),
        params=columns[0],
        tokens=columns[1],
        flops=columns[2],
        loss=columns[3],
        cluster=np.arange(len(rows)),
        columns={"seed": columns[4]},
        params_convention="as given",
        flops_convention="as given",
    )


@pytest.mark.parametrize("budgets", [TWO, FOUR])
def test_without_noise_the_multiplier_is_found(budgets):
    for true in (0.8, 1.05, 1.3):
        found = gate(runs(budgets), runs(budgets, true), noise=1e-9)
        # A slope between sizes stands in for the law's: good to 1% in all, for such effects.
        assert found.compute.value == pytest.approx(true, rel=0.01)
        assert found.verdict == ("adopt" if true > 1 else "reject")


def test_a_change_that_costs_more_flop_pays_for_them():
    dearer = gate(runs(FOUR), runs(FOUR, 1.3, cost=1.3), noise=0.001)
    assert dearer.compute.value == pytest.approx(1.0, abs=0.02)
    assert dearer.verdict == "open"


def test_a_gain_that_grows_with_size_has_a_trend():
    grows = gate(runs(FOUR), runs(FOUR, 1.05, growth=0.02), noise=1e-6)
    assert grows.trend.value == pytest.approx(10**0.02, rel=0.02)
    assert gate(runs(TWO), runs(TWO, 1.05), noise=1e-6).trend is None


@pytest.mark.parametrize(("sizes", "seeds"), [(TWO, 2), (FOUR, 2), (FOUR, 3)])
def test_intervals_hold_as_often_as_they_say_with_paired_seeds(sizes, seeds):
    rng, held, tries = np.random.default_rng(7), 0, 400
    for _ in range(tries):
        shared = 0.003 * rng.standard_normal((len(sizes), seeds))
        own, other = (shared + 0.001 * rng.standard_normal(shared.shape) for _ in range(2))
        found = gate(runs(sizes, noise=own), runs(sizes, 1.1, noise=other))
        held += found.compute.low <= 1.1 <= found.compute.high
    # 90% of 400, to three binomial standard errors.
    assert abs(held / tries - 0.9) < 3 * math.sqrt(0.09 / tries)


def test_the_seeds_that_it_asks_for_settle_it():
    rng = np.random.default_rng(3)

    def trial(seeds):
        noise = [0.004 * rng.standard_normal((2, seeds)) for _ in range(2)]
        return gate(runs(TWO, noise=noise[0]), runs(TWO, 1.06, noise=noise[1]))

    asked = [f.seeds for f in (trial(4) for _ in range(200)) if f.seeds is not None]
    enough = int(np.median(asked))
    settled = np.mean([trial(enough).verdict == "adopt" for _ in range(200)])
    # At that number the expected half-width equals the effect: about half are settled.
    assert 0.3 < settled < 0.9
    assert np.mean([trial(4 * enough).verdict == "adopt" for _ in range(100)]) > 0.9
    assert gate(runs(TWO), runs(TWO, 1.0001), noise=0.01).seeds is None


def test_of_a_grid_one_ratio_of_tokens_to_params_is_compared():
    def grid(multiplier):
        parts = [runs(FOUR * k**2, multiplier) for k in (0.5, 1.0, 2.0)]
        tokens = [part.tokens * k for part, k in zip(parts, (0.5, 1.0, 2.0), strict=True)]
        joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("flops", "loss")}
        return dataclasses.replace(
            parts[0],
            run=tuple(f"r{i}" for i in range(12)),
            params=np.tile(parts[1].params, 3),
            tokens=np.concatenate(tokens),
            cluster=np.arange(12),
            columns={"seed": np.zeros(12)},
            **joined,
        )

    found = gate(grid(1.0), grid(1.2), noise=1e-6)
    alone = gate(runs(FOUR), runs(FOUR, 1.2), noise=1e-6)
    assert [r.flops for r in found.rows] == pytest.approx([r.flops for r in alone.rows])
    assert found.compute.value == pytest.approx(alone.compute.value)


def test_times_and_prices_make_the_multiplier_of_seconds_and_dollars():
    base, change = runs(FOUR), runs(FOUR, 1.2)
    seconds = (base.flops / 1e12, 1.5 * change.flops / 1e12)
    found = gate(base, change, seconds=seconds, prices=(3.0, 1.0), noise=1e-6)
    assert found.seconds.value == pytest.approx(found.compute.value / 1.5)
    assert found.dollars.value == pytest.approx(found.compute.value / 1.5 * 3)
    assert gate(base, change, noise=1e-6).seconds is None


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (runs(TWO), runs(TWO, 1.1), "every size has one seed"),
        (runs(TWO[:1]), runs(TWO[:1]), "one size shows no slope"),
        (runs(TWO), runs(FOUR), "the base has 2 sizes and the change 4"),
        (runs(TWO), runs(TWO * 3), "less than two sizes with runs of the same length"),
        (runs(TWO, growth=-2.0), runs(TWO), "does not fall with compute"),
    ],
)
def test_runs_that_cannot_tell_are_refused(base, change, words):
    with pytest.raises(QueryError, match=words):
        gate(base, change, noise=None if "seed" in words else 0.002)


def test_the_command_reads_tables_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name, multiplier in (("base", 1.0), ("change", 1.3)):
        table = runs(FOUR, multiplier, noise=0.0005 * rng.standard_normal((4, 2)))
        lines = ["params,tokens,flops,loss,seed,seconds"]
        columns = (table.params, table.tokens, table.flops, table.loss, table.columns["seed"])
        lines += [",".join(map(repr, map(float, row))) + ",5" for row in zip(*columns, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(main, ["gate", "base.csv", "change.csv", "--price", "$2"])
    assert result.exit_code == 0, result.output
    assert "ADOPT: the change is worth it" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    args = ["gate", "base.csv", "change.csv", "--price", "$2", "--json"]
    document = json.loads(CliRunner().invoke(main, args).stdout)
    assert document["schema"] == "isoflop.gate/1" and len(document["rows"]) == 4
    assert document["seconds"]["value"] == pytest.approx(document["dollars"]["value"])
    several = ["gate", "base.csv", "change.csv", *(["--price", "2"] * 3)]
    assert "--price is given 3 times" in CliRunner().invoke(main, several).stderr
    for name in ("one", "two"):
        for width in (16, 32):
            for seed in (0, 1):
                fields = {"seed": seed, "run": f"w{width}-s{seed}", "tokens_per_second": 1e5}
                fields["loss"] = 4.0 - width / 100 - 0.001 * seed * (name == "two")
                write_record(tmp_path / name / f"{width}-{seed}", record(width=width, **fields))
    shown = CliRunner().invoke(main, ["gate", "one", "two"])
    assert shown.exit_code == 0, shown.output
    assert "  seconds           " in shown.stdout
    assert "Four sizes would show" in " ".join(shown.stdout.split())
