"""Signals in the middle of a run, and memory that runs out."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from sweep.model import Transformer
from sweep.training.checkpoint import DeferredSignals
from sweep.training.devices import load_optimizer
from sweep.training.loop import train
from tests.sweep.training.test_loop import Quiet, results, trajectory

LENGTHS = ("train.tokens=[4e3,8e3]",)


class Signalling(Quiet):
    """A tracker at whose n-th report a signal comes."""

    def __init__(self, number, at):
        super().__init__()
        self.number, self.at = number, at

    def show_progress(self, run, tokens, total, loss):
        super().show_progress(run, tokens, total, loss)
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def requeue():
    """submitit's way with USR2: it leaves the process once the job is queued again."""

    def leave(number, frame):
        raise SystemExit(-1)

    earlier = signal.signal(signal.SIGUSR2, leave)
    yield
    signal.signal(signal.SIGUSR2, earlier)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_signal_saves_the_state_first_and_the_next_attempt_goes_on_to_the_same_bits(
    tmp_path, requeue, at
):
    calm, resumed = Quiet(), Quiet()
    undisturbed = train(trajectory(*LENGTHS), tmp_path / "a", calm)
    with pytest.raises(SystemExit):
        train(trajectory(*LENGTHS), tmp_path / "b", Signalling(signal.SIGUSR2, at))
    (work,) = (tmp_path / "b" / "tiny").glob(".work-*")
    (attempt,) = json.loads((work / "attempts.json").read_text())
    assert attempt["outcome"] == "stopped"
    state = torch.load(work / "state.pt", weights_only=True)
    assert state["position"] == attempt["tokens"] > 0
    records = train(trajectory(*LENGTHS), tmp_path / "b", resumed)
    assert results(records) == results(undisturbed)
    assert resumed.calls < calm.calls
    assert calm.curves[records[-1].run] == resumed.curves[records[-1].run]
    assert (records[-1].attempts, records[-1].history[0]["outcome"]) == (2, "stopped")


def test_a_signal_that_changes_nothing_lets_training_go_on(tmp_path):
    """submitit only notes TERM, which Slurm sends to a job that it will preempt."""
    noted = []
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    try:
        tracker = Signalling(signal.SIGTERM, 2)
        records = train(trajectory(*LENGTHS), tmp_path, tracker)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert noted == [signal.SIGTERM]
    assert [r.status for r in records] == ["done", "done"]


def test_requeueing_outranks_the_notice_of_termination(requeue):
    with DeferredSignals() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.pending == signal.SIGUSR2
        with pytest.raises(SystemExit):
            interruption.deliver()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_go_where_they_went_once_the_context_is_left():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)]
    with DeferredSignals():
        pass
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)] == before


def crowded(monkeypatch, most_rows):
    """A model that has memory for so many rows only; the sizes tried are kept."""
    whole, sizes = Transformer.forward, []

    def forward(self, tokens_bt, target_bt, z_loss):
        sizes.append(len(tokens_bt))
        if len(tokens_bt) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, tokens_bt, target_bt, z_loss)

    monkeypatch.setattr(Transformer, "forward", forward)
    return sizes


def test_out_of_memory_halves_the_pieces_and_keeps_batch_and_result(tmp_path, monkeypatch):
    (whole,) = train(trajectory("train.tokens=8e3"), tmp_path / "a", Quiet())
    sizes = crowded(monkeypatch, most_rows=1)
    (record,) = train(trajectory("train.tokens=8e3"), tmp_path / "b", Quiet())
    assert record.status == "done"
    assert sizes[:3] == [4, 2, 1]
    assert max(sizes[3:]) == 1
    assert record.tokens_seen == record.tokens
    assert record.loss == pytest.approx(whole.loss, abs=1e-3)
    assert record.run == whole.run


def test_a_row_that_does_not_fit_is_a_failed_record(tmp_path, monkeypatch):
    sizes = crowded(monkeypatch, most_rows=0)
    (record,) = train(trajectory("train.tokens=8e3"), tmp_path, Quiet())
    assert (record.status, sizes) == ("failed", [4, 2, 1])
    assert "OutOfMemoryError" in record.reason


def adam_state(device, **how):
    """AdamW of one parameter on a device, and its state after three steps on a CPU."""
    optimizer = torch.optim.AdamW(
        [{"params": [torch.nn.Parameter(torch.zeros(2, device=device))], "peak": 0.5}], **how
    )
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    groups = optimizer.state_dict()["param_groups"]
    return optimizer, {"state": {0: moments}, "param_groups": groups}


def test_the_moments_of_a_cpu_go_to_the_device_and_its_switches_stay():
    """`meta` stands for a GPU, whose kernels want the count of steps on the device as well."""
    _, saved = adam_state("cpu", lr=0.1)
    optimizer, _ = adam_state("meta", lr=0.2, capturable=True)
    load_optimizer(optimizer, saved)
    (state,) = optimizer.state.values()
    assert {name: value.device.type for name, value in state.items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
    (group,) = optimizer.param_groups
    assert (group["lr"], group["capturable"], group["peak"]) == (0.2, True, 0.5)


def test_a_state_of_a_gpu_goes_on_on_a_cpu():
    _, saved = adam_state("cpu", lr=torch.tensor(0.1), capturable=True)
    optimizer, _ = adam_state("cpu", lr=0.2, fused=True)
    load_optimizer(optimizer, saved)
    (group,) = optimizer.param_groups
    (parameter,) = group["params"]
    assert (group["lr"], group["capturable"], group["fused"]) == (0.2, False, True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert float(optimizer.state[parameter]["step"]) == 4
