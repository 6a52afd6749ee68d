"""Several devices: two CPU processes give what one gives, and never hang."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from threading import Thread
from types import SimpleNamespace

import pytest

from fit.errors import PlanError
from sweep.planning.grid import compose_config
from sweep.planning.timing import missing_for_compile
from sweep.planning.trajectory import plan
from sweep.training import devices
from sweep.training.loop import train
from tests.sweep.training.test_loop import TINY, Quiet, results, trajectory

TWO = ("train.devices=2", "train.accelerator=cpu")
BATCH = ("train.batch_tokens=256", "train.batch_at_1m=20000")  # grows by rows for two devices
LENGTHS = (
    "train.tokens=[4e3,8e3]",
    *BATCH,
    "train.micro_batch_tokens=64",
    "train.checkpoint_seconds=0",
)


class Diary:
    """A tracker in another process: writes curves to a file, and can interrupt."""

    def __init__(self, path, stop_at=None):
        self.path, self.stop_at, self.calls = path, stop_at, 0

    def show_progress(self, run, tokens, total, loss):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt

    def finish_run(self, folder, record, curve):
        with self.path.open("a") as file:
            file.write(json.dumps([record.run, curve]) + "\n")

    def curves(self):
        return dict(json.loads(line) for line in self.path.read_text().splitlines())


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    tracker = Quiet()
    return train(trajectory(*LENGTHS), tmp_path_factory.mktemp("single"), tracker), tracker.curves


def check(two, one, found, curves):
    assert [r.run for r in two] == [r.run for r in one]
    assert [r.status for r in two] == ["done", "done"]
    for ours, theirs in zip(two, one, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=2e-4)
        assert ours.device.startswith("2 x cpu")
        for row, expected in zip(found[ours.run], curves[ours.run], strict=True):
            assert row == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_curve_of_one_and_each_record_once(tmp_path, single, strategy):
    one, curves = single
    diary = Diary(tmp_path / "diary")
    two = train(trajectory(*LENGTHS, *TWO, f"train.strategy={strategy}"), tmp_path, diary)
    check(two, one, diary.curves(), curves)
    assert len(diary.path.read_text().splitlines()) == 2
    assert not [p for p in (tmp_path / "tiny").glob(".work-*") if p.is_dir()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_interrupted_processes_resume_to_the_curve_of_one(tmp_path, single, strategy):
    one, curves = single
    planned = trajectory(*LENGTHS, *TWO, f"train.strategy={strategy}")
    with pytest.raises(KeyboardInterrupt):
        train(planned, tmp_path, Diary(tmp_path / "diary", stop_at=4))
    kind = "shards-*/.metadata" if strategy == "fsdp" else "state.pt"
    assert list((tmp_path / "tiny").glob(f".work-*/{kind}"))
    diary = Diary(tmp_path / "diary")
    check(train(planned, tmp_path, diary), one, diary.curves(), curves)


def fail():
    raise RuntimeError("out of magic smoke")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def end_rank_one(end, ended):
    """End rank 1, whose time is that of a file, while the other rank is at work."""
    if os.environ["LOCAL_RANK"] == "1":
        ended.touch()
        end()
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "words"), [(fail, "out of magic smoke"), (die, "killed by signal 9")]
)
def test_a_lost_rank_stops_the_others_at_once_and_is_named(tmp_path, end, words):
    ended = tmp_path / "ended"
    with pytest.raises(RuntimeError, match=words) as caught:
        devices.run_in_ranks(partial(end_rank_one, end, ended), devices=2, device="cpu")
    assert time.time() - ended.stat().st_mtime < 30
    if end is fail:
        assert "in rank 1" in "".join(caught.value.__notes__)


class LateExitCode:
    """A rank that has failed, whose exit code is there at the second look, after its sentinel."""

    def __init__(self, sentinel):
        self.sentinel, self.looks = sentinel, 0

    @property
    def exitcode(self):
        self.looks += 1
        return None if self.looks <= 2 else 1


def test_a_rank_whose_exit_code_comes_late_is_not_taken_to_be_done():
    fired, other = os.pipe(), os.pipe()
    os.close(fired[1])
    ranks = [LateExitCode(fired[0]), SimpleNamespace(sentinel=other[0], exitcode=None)]
    watch = Thread(target=devices._wait_for_ranks, args=(ranks,), daemon=True)
    watch.start()
    watch.join(10)
    os.close(other[1])  # the other rank ends
    assert not watch.is_alive()
    for end in (fired[0], other[0]):
        os.close(end)


def test_a_failure_in_the_ranks_becomes_a_record(tmp_path, monkeypatch):
    def lost(*_, **__):
        raise RuntimeError("rank 1 of 2 was killed by signal 9")

    monkeypatch.setattr("sweep.training.loop.run_in_ranks", lost)
    (record,) = train(trajectory("train.tokens=4e3", *BATCH, *TWO), tmp_path, Quiet())
    assert (record.status, record.loss) == ("failed", None)
    assert "signal 9" in record.reason


@pytest.mark.slow
def test_divergence_is_decided_together(tmp_path):
    wild = ("train.tokens=[8e4,16e4]", "train.lr=1e4", "train.embedding_lr=1e4", *BATCH)
    one = train(trajectory(*wild), tmp_path / "one", Quiet())
    two = train(trajectory(*wild, *TWO), tmp_path / "two", Diary(tmp_path / "diary"))
    assert [r.status for r in two] == [r.status for r in one] == ["diverged", "diverged"]


@pytest.mark.slow
def test_a_run_begun_on_two_devices_is_finished_on_one(tmp_path, single):
    one, curves = single
    with pytest.raises(KeyboardInterrupt):
        planned = trajectory(*LENGTHS, *TWO, "train.strategy=fsdp")
        train(planned, tmp_path, Diary(tmp_path / "diary", stop_at=4))
    tracker = Quiet()
    finished = train(trajectory(*LENGTHS), tmp_path, tracker)
    assert [r.loss for r in finished] == pytest.approx([r.loss for r in one], abs=2e-4)
    assert tracker.calls < len(curves[one[-1].run])  # it went on from the shards


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_begun_on_one_device_is_finished_on_two(tmp_path, single, strategy):
    one, curves = single
    with pytest.raises(KeyboardInterrupt):
        train(trajectory(*LENGTHS), tmp_path, Quiet(4))
    diary = Diary(tmp_path / "diary")
    finished = train(trajectory(*LENGTHS, *TWO, f"train.strategy={strategy}"), tmp_path, diary)
    assert [r.loss for r in finished] == pytest.approx([r.loss for r in one], abs=2e-4)
    ((last, curve),) = diary.curves().items()
    for row, expected in zip(curve, curves[last], strict=True):
        assert row == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_train_a_compiled_model_to_the_losses_of_one_that_is_not(tmp_path, strategy):
    assert not missing_for_compile("cpu")
    words = ("model.width=16", "model.depth=3", *LENGTHS)
    one = train(trajectory(*words), tmp_path / "one", Quiet())
    more = (*TWO, "train.compile=on", f"train.strategy={strategy}")
    two = train(trajectory(*words, *more), tmp_path / "two", Diary(tmp_path / "diary"))
    assert [r.status for r in two] == ["done", "done"], two[0].reason
    assert [r.loss for r in two] == pytest.approx([r.loss for r in one], abs=5e-4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.devices=3", "train.accelerator=cpu"], "cannot be shared by train.devices=3"),
        (["train.devices=0"], "positive number"),
        (["train.strategy=zero"], "known are auto, ddp, fsdp"),
    ],
)
def test_devices_that_cannot_work_are_refused_in_the_plan(overrides, words):
    with pytest.raises(PlanError, match=words):
        plan(compose_config([*TINY, *overrides]))


def test_devices_that_are_not_there_are_named_in_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    absent = trajectory("train.tokens=4e3", *BATCH, "train.devices=2", "train.accelerator=cuda")
    (record,) = train(absent, tmp_path, Quiet())
    assert record.status == "failed"
    assert "this machine shows 1 CUDA device." in record.reason
    assert results([record])
