"""Learning-rate scans: the best rate of each size, and the note where one rule fails."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.table import RunTable
from fit.diagnostics.scans import rate_scans, tuning_notes
from fit.errors import FitError

RATES = np.array([0.0015, 0.003, 0.006, 0.012, 0.024])


def scan_table(shift=0.0, noise=0.001, seed=0, rates=RATES, bend=0.01, best=0.006, seeds=1):
    """Three sizes whose best rate moves by `shift` in ln for each doubling of width."""
    random = np.random.default_rng(seed)
    rows = []
    for k, width in enumerate((16, 32, 64)):
        for rate in np.repeat(rates, seeds):
            off = np.log(rate / best) - k * shift
            loss = 1.1 - 0.05 * k + bend * off**2 + noise * random.standard_normal()
            rows.append((1e4 * 3**k, 1e6, loss, rate * 32 / width, width, 2))
    params, tokens, loss, lr, width, depth = np.array(rows).T
    return RunTable(
        run=tuple(f"r{i}" for i in range(len(rows))),
        params=params,
        tokens=tokens,
        flops=6 * params * tokens,
        loss=loss,
        cluster=np.arange(len(rows)),
        columns={"lr": lr, "width": width, "depth": depth},
        recipe={"train.base_width": 32},
    )


def test_without_noise_the_best_rate_is_found_in_the_rules_unit():
    scans = rate_scans(scan_table(noise=0.0))
    assert [s.width for s in scans] == [16, 32, 64]
    assert [s.rate for s in scans] == pytest.approx([0.006] * 3, rel=1e-6)
    assert [s.loss for s in scans] == pytest.approx([1.1, 1.05, 1.0])
    assert [s.cost for s in scans] == pytest.approx([0.0] * 3, abs=1e-9)


def test_what_the_smallest_sizes_rate_costs_follows_its_parabola():
    scans = rate_scans(scan_table(shift=0.4, noise=0.0))
    assert [s.cost for s in scans] == pytest.approx([0.0, 0.01 * 0.4**2, 0.01 * 0.8**2], abs=1e-9)


def test_intervals_of_the_best_rate_cover():
    held = [
        s.low <= 0.006 <= s.high
        for seed in range(300)
        for s in rate_scans(scan_table(noise=0.0005, seed=seed))
        if s.found == "inside"
    ]
    assert len(held) == 900
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_the_note_comes_where_the_rate_moves_and_rarely_where_it_does_not():
    moving = [list(tuning_notes(scan_table(shift=0.6, noise=0.0005, seed=s))) for s in range(50)]
    still = [list(tuning_notes(scan_table(seed=s))) for s in range(200)]
    assert all(len(notes) == 1 and notes[0].code == "tuning" for notes in moving)
    assert sum(map(len, still)) <= 6


def test_a_best_rate_at_the_edge_has_no_interval_and_says_so():
    low, *_ = rate_scans(scan_table(best=0.0005))
    high, *_ = rate_scans(scan_table(best=0.1))
    assert (low.found, high.found) == ("low edge", "high edge")
    assert (low.low, low.high, low.cost) == (0.0, np.inf, None)


def test_three_rates_without_replicates_have_no_interval_but_a_best():
    scan, *_ = rate_scans(scan_table(rates=RATES[1:4]))
    assert scan.found == "inside"
    assert (scan.low, scan.high) == (0.0, np.inf)


def test_seeds_narrow_the_interval():
    one, *_ = rate_scans(scan_table(seeds=1))
    four, *_ = rate_scans(scan_table(seeds=4))
    assert np.log(four.high / four.low) < 0.75 * np.log(one.high / one.low)


def test_a_table_without_a_scan_is_refused_in_one_line_and_noted_by_nobody():
    table = scan_table(rates=RATES[:2])
    with pytest.raises(FitError, match="no size that was trained at 3 learning rates"):
        rate_scans(table)
    assert not list(tuning_notes(table))


def test_the_command_prints_a_table_that_fits_and_the_same_document(tmp_path):
    table = scan_table(shift=0.5)
    names = ("params", "tokens", "loss", "lr", "width", "depth")
    columns = [table.column(n) for n in names]
    rows = [",".join(f"{v:.9g}" for v in row) for row in zip(*columns, strict=True)]
    file = tmp_path / "scan.csv"
    file.write_text("\n".join([",".join(names), *rows]))
    shown = CliRunner().invoke(main, ["tuning", str(file)])
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines()[:8])) <= 80
    document = json.loads(CliRunner().invoke(main, ["tuning", str(file), "--json"]).output)
    assert document["schema"] == "isoflop.tuning/1"
    assert [s["width"] for s in document["scans"]] == [16, 32, 64]
    refused = CliRunner().invoke(main, ["tuning", str(file), "--where", "lr < 0.001"])
    assert refused.exit_code == 1
