"""Real training on a small scale: counts, repeatability, interruption, divergence, failure."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fit.data.records import RECORD_NAME, read_record, read_runs
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training import loop as train_module
from sweep.training.loop import train
from sweep.training.session import WHOLE_DEPTH, Session
from sweep.training.step import split_rows

TINY = [
    "model.width=8",
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=2048",
    "train.batch_tokens=128",
    "train.warmup_tokens=300",
    "train.batch_at_1m=2500",
    "train.compile=off",
    "tracking=none",
    "name=tiny",
]

STORED_CURVE = [2.836, 1.09, 0.871, 0.8, 0.848, 0.802, 0.749, 0.75]
"""Training losses of the first rows of 30,000 tokens: a refactor must give them again."""


class Quiet:
    """A tracker that can interrupt."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at, self.curves = 0, stop_at, {}

    def show_progress(self, run, tokens, total, loss) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt

    def finish_run(self, folder, record, curve) -> None:
        self.curves[record.run] = list(curve)


def trajectory(*overrides: str):
    (found,) = plan(compose_config([*TINY, *overrides]))
    return found


def results(records):
    return [r.result() for r in records]


def test_tokens_seen_and_flops_equal_the_plan(tmp_path):
    planned = trajectory("train.tokens=[3e3,6e3,12e3]")
    records = train(planned, tmp_path, Quiet())
    assert [r.status for r in records] == ["done"] * 3
    assert sum(r.tokens_seen for r in records) == sum(r.tokens for r in planned.runs)
    assert [r.flops for r in records] == [run.flops for run in planned.runs]
    spent = sum(r.flops_spent for r in records)
    assert spent < sum(r.flops for r in records)


def test_two_runs_of_one_seed_are_bitwise_equal_and_seeds_differ(tmp_path):
    first = train(trajectory("train.tokens=[3e3,6e3]"), tmp_path / "a", Quiet())
    second = train(trajectory("train.tokens=[3e3,6e3]"), tmp_path / "b", Quiet())
    other = train(trajectory("train.tokens=[3e3,6e3]", "seed=1"), tmp_path / "c", Quiet())
    assert results(first) == results(second)
    assert first[0].loss != other[0].loss


def test_a_branch_equals_a_run_of_its_own(tmp_path):
    warmup = "train.warmup_tokens=500"
    together = train(trajectory("train.tokens=[3e3,12e3]", warmup), tmp_path / "a", Quiet())
    alone = train(trajectory("train.tokens=12e3", warmup), tmp_path / "b", Quiet())
    assert together[1].run == alone[0].run
    assert together[1].loss == alone[0].loss


@pytest.mark.parametrize(
    "stop_at",
    [pytest.param(n, marks=pytest.mark.slow if n in (1, 5) else ()) for n in (1, 3, 4, 5, 7)],
)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, stop_at):
    options = ("train.tokens=[4e3,8e3,16e3]", "train.checkpoint_seconds=0")
    calm, shaken = Quiet(), Quiet()
    undisturbed = train(trajectory(*options), tmp_path / "a", calm)
    with pytest.raises(KeyboardInterrupt):
        train(trajectory(*options), tmp_path / "b", Quiet(stop_at))
    resumed = train(trajectory(*options), tmp_path / "b", shaken)
    assert results(undisturbed) == results(resumed)
    last = undisturbed[-1].run
    assert calm.curves[last] == shaken.curves[last]
    assert not list((tmp_path / "b" / "tiny").glob(".work-*"))


def test_a_damaged_checkpoint_costs_time_not_truth(tmp_path):
    options = ("train.tokens=[4e3,8e3]", "train.checkpoint_seconds=0")
    undisturbed = train(trajectory(*options), tmp_path / "a", Quiet())
    with pytest.raises(KeyboardInterrupt):
        train(trajectory(*options), tmp_path / "b", Quiet(3))
    (state,) = (tmp_path / "b" / "tiny").glob(".work-*/state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    assert results(undisturbed) == results(train(trajectory(*options), tmp_path / "b", Quiet()))


def test_a_checkpoint_of_another_model_is_left_for_a_fresh_start(tmp_path):
    options = ("train.tokens=[4e3,8e3]", "train.checkpoint_seconds=0")
    undisturbed = train(trajectory(*options), tmp_path / "a", Quiet())
    for folder, more in (("b", ()), ("c", ("model.width=16",))):
        with pytest.raises(KeyboardInterrupt):
            train(trajectory(*options, *more), tmp_path / folder, Quiet(3))
    (mine,) = (tmp_path / "b" / "tiny").glob(".work-*/state.pt")
    (other,) = (tmp_path / "c" / "tiny").glob(".work-*/state.pt")
    mine.write_bytes(other.read_bytes())
    assert results(undisturbed) == results(train(trajectory(*options), tmp_path / "b", Quiet()))


def test_a_failure_never_replaces_a_record_that_another_process_finished(tmp_path, monkeypatch):
    planned = trajectory("train.tokens=3e3")

    def overtaken(*_, **__):
        monkeypatch.undo()
        other = train_module.TrajectoryTrainer(
            trajectory=planned, folder=tmp_path / "tiny", tracker=Quiet()
        )
        other.train_and_record()
        raise RuntimeError("too late")

    monkeypatch.setattr(train_module, "measure", overtaken)
    (record,) = train(planned, tmp_path, Quiet())
    assert record.status == "done"
    assert read_record(tmp_path / "tiny" / record.run / RECORD_NAME).status == "done"


@pytest.mark.slow
def test_two_processes_at_one_cell_train_it_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; from sweep.planning.grid import compose_config\n"
        "from sweep.planning.trajectory import plan; from sweep.training.loop import train\n"
        "from tests.sweep.training.test_loop import Quiet, trajectory\n"
        "quiet = Quiet(); train(trajectory('train.tokens=2e5'), Path(sys.argv[1]), quiet)\n"
        "print(quiet.calls)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    calls = [int(p.communicate()[0]) for p in both]
    assert min(calls) == 0 < max(calls)


def test_only_what_is_missing_is_trained_again(tmp_path):
    options = ("train.tokens=[4e3,8e3,16e3]",)
    before = train(trajectory(*options), tmp_path, Quiet())
    (tmp_path / "tiny" / before[1].run / RECORD_NAME).unlink()
    again = Quiet()
    after = train(trajectory(*options), tmp_path, again)
    assert results(before) == results(after)
    assert set(again.curves) == {before[1].run}
    (leftover := tmp_path / "tiny" / train_module.work_folder(trajectory(*options))).mkdir()
    (leftover / "state.pt").write_bytes(b"killed after the last record")
    done = Quiet()
    train(trajectory(*options), tmp_path, done)
    assert done.calls == 0 and not leftover.exists()


def test_micro_batches_change_rounding_only(tmp_path):
    whole = train(
        trajectory("train.tokens=8e3", "train.micro_batch_tokens=512"), tmp_path / "a", Quiet()
    )
    split = train(
        trajectory("train.tokens=8e3", "train.micro_batch_tokens=32"), tmp_path / "b", Quiet()
    )
    assert whole[0].run == split[0].run
    assert whole[0].loss == pytest.approx(split[0].loss, abs=1e-3)


def test_a_cell_that_raises_becomes_a_record_with_its_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of magic smoke")

    monkeypatch.setattr(train_module, "measure", broken)
    (record,) = train(trajectory("train.tokens=3e3"), tmp_path, Quiet())
    assert record.status == "failed"
    assert record.loss is None
    assert "out of magic smoke" in record.reason
    assert "Traceback" in record.traceback
    monkeypatch.undo()
    (again,) = train(trajectory("train.tokens=3e3"), tmp_path, Quiet())
    assert (again.status, again.attempts) == ("done", 2)


def test_an_exploding_run_ends_as_diverged_and_stays_out_of_tables(tmp_path):
    wild = trajectory("train.tokens=[8e4,16e4]", "train.lr=1e4", "train.embedding_lr=1e4")
    records = train(wild, tmp_path, Quiet())
    assert [r.status for r in records] == ["diverged", "diverged"]
    assert all(r.tokens_seen < r.tokens and r.wall_seconds > 0 for r in records)
    assert "unigram" in records[0].reason or "loss" in records[0].reason


def test_a_run_learns_its_data(tmp_path):
    (record,) = train(trajectory("train.tokens=6e4"), tmp_path, Quiet())
    assert record.data.entropy < record.loss < 3.0
    assert record.loss == pytest.approx(sum(record.loss_by_skill.values()), abs=1e-9)
    assert record.loss_bpb == pytest.approx(
        record.loss / 0.6931471805599453 / record.data.bytes_per_token
    )
    assert abs(record.loss - record.loss_plain) < 0.1


def test_cosine_runs_are_trajectories_of_their_own(tmp_path):
    found = plan(compose_config([*TINY, "train.tokens=[3e3,6e3]", "train.schedule=cosine"]))
    assert len(found) == 2
    records = [train(t, tmp_path, Quiet())[0] for t in found]
    assert records[0].trunk != records[1].trunk
    assert all(r.flops_spent == r.flops for r in records)


def test_one_batch_can_be_overfitted():
    found = trajectory("train.tokens=3e5", "train.batch_at_1m=0")
    session = Session.open(found)
    block = session.source.train(0, 4)
    session.source.train = lambda start, count: block[[i % 4 for i in range(start, start + count)]]
    session.advance(found.runs[0].rate, found.runs[0].tokens, lambda: None)
    assert session.curve[-1][1] < 0.3


def test_a_stored_curve_is_reproduced(tmp_path):
    tracker = Quiet()
    (record,) = train(trajectory("train.tokens=3e4"), tmp_path, tracker)
    losses = [row[1] for row in tracker.curves[record.run]][:8]
    assert losses == pytest.approx(STORED_CURVE, abs=0.03)


def test_records_of_a_sweep_can_be_read_back(tmp_path):
    records = train(trajectory("train.tokens=[3e3,6e3]"), tmp_path, Quiet())
    found = read_runs(tmp_path)
    assert {r.run: r for r in found.records} == {r.run: r for r in records}
    assert read_record(tmp_path / "tiny" / records[0].run / RECORD_NAME) == records[0]
    assert dataclasses.is_dataclass(records[0])
    assert isinstance(tmp_path, Path) and torch.get_num_threads() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth", [WHOLE_DEPTH, WHOLE_DEPTH + 1]
)  # compiled whole, and block by block
def test_one_compiled_graph_serves_every_batch_and_gives_the_eager_losses(depth):
    shape = [f"model.depth={depth}", "train.tokens=3e4"]
    eager, compiled = (
        Session.open(trajectory(*shape, f"train.compile={how}")) for how in ("off", "on")
    )
    torch._dynamo.utils.counters.clear()
    for rows in (1, 2, 3, 7, 12, 30, 2):
        losses = []
        for session in (eager, compiled):
            session.step(0, 32 * rows, 0.1)
            losses.append([float(loss) for loss, _ in session.losses])
            session.losses.clear()
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # Compiled one by one, every block has the code of the first.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_rows_are_split_into_equal_pieces():
    rows = torch.arange(13)
    assert [len(piece) for piece in split_rows(rows, 4)] == [4, 3, 3, 3]
    assert [len(piece) for piece in split_rows(rows, 13)] == [13]
    assert torch.equal(torch.cat(split_rows(rows, 5)), rows)
