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


def test_a_run_that_is_done_is_not_written_again(tmp_path):
    a_run(tmp_path).finish(3.0)
    again = a_run(tmp_path)
    assert again.done
    for end in (lambda: again.finish(2.0), lambda: again.fail("stopped")):
        with pytest.raises(RecordError, match=r"is done, loss 3; it is not written again"):
            end()
    assert read_record(tmp_path / "w8-s0" / "record.json").loss == 3.0


def test_a_run_ends_once(tmp_path):
    run = a_run(tmp_path)
    run.fail("no memory")
    with pytest.raises(RecordError, match="is failed; it is not written again"):
        run.finish(2.0)


def test_a_block_that_ends_without_finish_leaves_a_failed_record(tmp_path):
    with a_run(tmp_path):
        pass
    record = read_record(tmp_path / "w8-s0" / "record.json")
    assert (record.status, record.reason) == ("failed", "ended without finish")
    with pytest.raises(KeyboardInterrupt), a_run(tmp_path):
        raise KeyboardInterrupt
    record = read_record(tmp_path / "w8-s0" / "record.json")
    assert (record.reason, record.attempts) == ("KeyboardInterrupt", 2)
    with a_run(tmp_path) as run:
        run.fail("no memory")
    record = read_record(tmp_path / "w8-s0" / "record.json")
    assert (record.reason, record.attempts) == ("no memory", 3)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": None},
        {"loss": "2.5"},
        {"loss": np.ones(3)},
        {"loss": 2.5, "loss_se": -1.0},
        {"loss": 2.5, "tokens_seen": np.ones(2)},
        {"loss": 2.5, "tokens_seen": float("nan")},
        {"loss": 2.5, "scores": 5},
    ],
)
def test_a_result_that_is_no_number_is_refused(tmp_path, values):
    with pytest.raises(RecordError, match=f"{[*values][-1]} is "):
        a_run(tmp_path).finish(**values)


def test_numbers_of_numpy_are_written_and_found_again(tmp_path):
    settings = {"seed": np.int64(1), "lr": np.float32(0.5), "width": np.int64(8)}
    settings["recipe"] = {"betas": (0.9, 0.95)}
    a_run(tmp_path, **settings).finish(np.float32(2.5))
    assert a_run(tmp_path, **settings).done


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tokens": 3e6}, "tokens 2.00M, and this one has 3.00M"),
        ({"seed": 1}, "seed 0, and this one has 1"),
        ({"width": 16}, "width None, and this one has 16"),
        ({"recipe": {"optimizer": "muon"}}, "recipe"),
        ({"data": "other"}, "data own, and this one has other"),
        ({"trunk": "t"}, "trunk None, and this one has t"),
        ({"batch_tokens": 512}, "batch_tokens None, and this one has 512"),
        ({"unique_tokens": 1e6}, "unique_tokens None, and this one has 1.00M"),
        ({"params_embedding": 64, "seed": 1}, "embedding 0, and this one has 64; seed 0, and"),
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
        ({"params": 1.5}, "params is 1.5; a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"batch_tokens": -8}, "batch_tokens"),
        ({"width": 0}, "width"),
        ({"recipe": {"a": {1, 2}}}, "recipe cannot be written as JSON"),
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
