"""The whole line, as a user walks it: sweep, fit, report, query, launch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GRID = [
    "model.width=8,16,24,32",
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=16384",
    "train.tokens=[5e4,1e5,2e5,4e5]",
    "train.batch_tokens=256",
    "tracking=none",
]


def call(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_an_empty_folder_to_an_answer_that_launches(tmp_path):
    call("sweep", "-m", *GRID, f"runs_dir={tmp_path}", "name=line")
    fit = json.loads(
        call("fit", "fit", str(tmp_path / "line"), "--out", str(tmp_path / "r"), "--json")
    )
    assert fit["runs_used"] == 16
    assert fit["holdout"] is not None
    assert {note["severity"] for note in fit["notes"]} <= {"info", "warning", "serious"}
    assert (tmp_path / "r" / "report.pdf").read_bytes().startswith(b"%PDF")
    force = [] if fit["kappa"] < 1000 else ["--force"]
    budget = str(fit["range"]["flops"][1])
    asked = ["fit", "query", budget, "--fit", str(tmp_path / "r"), *force]
    answer = json.loads(call(*asked, "--json"))
    assert answer["reach"] == pytest.approx(1.0)
    planned = call("sweep.plan", *answer["config"], f"runs_dir={tmp_path}", "measure=off")
    assert f"w{answer['shape']['width']}-d{answer['shape']['depth']}" in planned


def test_the_reference_sweep_gives_its_committed_fit_again(tmp_path):
    committed = json.loads((ROOT / "reports" / "reference" / "fit.json").read_text())
    again = json.loads(
        call("fit", "fit", "runs/reference", "--out", str(tmp_path), "--no-report", "--json")
    )
    assert again["source"]["hash"] == committed["source"]["hash"]
    assert again["theta"] == pytest.approx(committed["theta"], rel=1e-6)
    assert again["kappa"] < 250
    for name, ends in committed["interval"].items():
        if isinstance(ends, list):
            assert again["interval"][name] == pytest.approx(ends, rel=1e-4)
    assert again["holdout"]["max_relative_error"] < 0.01
    assert [n["message"] for n in again["notes"]] == [n["message"] for n in committed["notes"]]
    assert {n["severity"] for n in again["notes"]} <= {"info"}


def test_the_reference_sweep_is_honest_and_small():
    records = [
        json.loads(p.read_text()) for p in (ROOT / "runs" / "reference").glob("*/record.json")
    ]
    assert len(records) >= 20
    assert len({r["params_body"] for r in records}) >= 5
    assert len({r["tokens"] for r in records}) >= 4
    flops = [r["flops"] for r in records]
    assert max(flops) / min(flops) >= 10**2.5
    assert len({r["depth"] for r in records}) >= 3
    for r in records:
        assert r["tokens_seen"] == r["tokens"]
        per_token = r["flops_body"] + r["flops_head"] + r["flops_attention"]
        assert r["flops"] == per_token * r["tokens"]
    size = sum(p.stat().st_size for p in (ROOT / "runs" / "reference").rglob("*"))
    assert size < 1_500_000
