"""Records of a trainer of one's own."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import isoflop
from fit.cli.main import main
from fit.data.records import read_curve, read_record
from fit.errors import RecordError

LAW = (1.7, 400.0, 0.34, 410.0, 0.3)


def loss_of(n: float, d: float, noise: float = 0.0) -> float:
    e, a, alpha, b, beta = LAW
    return (e + a / n**alpha + b / d**beta) * float(np.exp(noise))


def a_run(folder, name="w8-s0", **given):
    return isoflop.record(folder, name, **({"params": 1e5, "tokens": "2M"} | given))


def test_recorded_runs_fit_as_a_table_of_them_does(tmp_path):
    rows, noise = [], np.random.default_rng(0)
    for n in (1e5, 3e5, 1e6, 3e6):
        for d in (1e6, 4e6, 16e6):
            loss = loss_of(n, d, 0.002 * noise.standard_normal())
            with a_run(tmp_path / "mine", f"n{n:.0f}-d{d:.0f}", params=n, tokens=d) as run:
                run.finish(loss, loss_se=0.001)
            rows.append({"params": n, "tokens": d, "loss": loss})
    ours = isoflop.fit(tmp_path / "mine", resamples=0)
    table = isoflop.fit(pd.DataFrame(rows), resamples=0)
    assert ours.theta == pytest.approx(table.theta, rel=1e-6)
    found = CliRunner().invoke(main, ["runs", str(tmp_path / "mine")])
    assert "12 done" in found.output


def test_a_run_that_is_done_is_found_again_and_need_not_be_trained(tmp_path):
    with a_run(tmp_path) as run:
        assert not run.done
        run.finish(2.5)
    text = (tmp_path / "w8-s0" / "record.json").read_text()
    with a_run(tmp_path) as run:
        assert run.done
    assert (tmp_path / "w8-s0" / "record.json").read_text() == text


def test_an_exception_leaves_a_failed_record_and_the_run_is_trained_again(tmp_path):
    with pytest.raises(ZeroDivisionError), a_run(tmp_path) as run:
        1 / 0  # noqa: B018
    record = read_record(tmp_path / "w8-s0" / "record.json")
    assert record.status == "failed" and record.loss is None
    assert "ZeroDivisionError" in record.reason and "test_recording" in record.traceback
    with a_run(tmp_path) as run:
        assert not run.done
        run.finish(2.5)
    again = read_record(tmp_path / "w8-s0" / "record.json")
    assert (again.status, again.attempts) == ("done", 2)


def test_an_error_after_the_end_does_not_undo_a_result(tmp_path):
    with pytest.raises(RuntimeError), a_run(tmp_path) as run:
        run.finish(2.5)
        raise RuntimeError
    assert read_record(tmp_path / "w8-s0" / "record.json").loss == 2.5


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tokens": 3e6}, "tokens 2.00M, and this one has 3.00M"),
        ({"seed": 1}, "seed 0, and this one has 1"),
        ({"width": 16}, "width None, and this one has 16"),
        ({"recipe": {"optimizer": "muon"}}, "recipe"),
    ],
)
def test_a_name_with_other_settings_is_refused(tmp_path, other, words):
    with a_run(tmp_path) as run:
        run.finish(2.5)
    with pytest.raises(RecordError, match=words):
        a_run(tmp_path, **other)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"params": "many"}, "params"),
        ({"tokens": -1}, "tokens"),
        ({"hight": 3}, "unknown size 'hight'"),
        ({"name": "a/b"}, "a name that can be a folder's"),
        ({"name": ""}, "a name that can be a folder's"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, given, words):
    with pytest.raises(isoflop.ScalingError, match=words):
        a_run(tmp_path, **given)


def test_tokens_seen_must_be_those_planned_and_losses_finite(tmp_path):
    run = a_run(tmp_path)
    run.log(tokens=1e6, loss=3.0, lr=1e-3)
    with pytest.raises(RecordError, match="1000000 tokens seen of 2000000"):
        run.finish(2.5)
    with pytest.raises(RecordError, match="positive finite"):
        run.finish(float("nan"), tokens_seen=2e6)
    with pytest.raises(RecordError, match="more tokens and finite numbers"):
        run.log(tokens=1e6, loss=3.0, lr=1e-3)


def test_the_curve_is_stored_beside_the_record(tmp_path):
    with a_run(tmp_path, lr=1e-3) as run:
        for tokens in (5e5, 1e6, 2e6):
            run.log(tokens=tokens, loss=3.0 - tokens / 4e6, lr=1e-3)
        run.finish(2.5)
    curve = read_curve(str(tmp_path / "w8-s0"))
    assert curve[:, 0].tolist() == [5e5, 1e6, 2e6]
    assert json.loads((tmp_path / "w8-s0" / "record.json").read_text())["lr"] == 1e-3
