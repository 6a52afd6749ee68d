"""Run records from what happened.

A sign of life of a running trajectory: a small file for `isoflop runs --watch`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.data.records import HEARTBEAT_NAME, HEARTBEAT_SCHEMA, RunRecord, finite_or_null
from fit.files import commit, now, versions
from sweep.planning.trajectory import RunSpec, Trajectory
from sweep.training.devices import device_name, peak_flops_per_second
from sweep.training.evaluate import Measurement
from sweep.training.session import Session
from sweep.training.tracking import Attempt

BEAT_SECONDS = 2.0
"""Least time between two beats."""
LIBRARIES = ("isoflop", "torch", "lightning", "numpy")


class Heartbeat:
    """Writes where a trajectory is, every few seconds at most."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HEARTBEAT_NAME
        self._next = 0.0
        self._run, self._tokens, self._began = "", 0, 0.0

    def beat(self, run: str, total: int, session: Session) -> None:
        """A run of `total` tokens goes on; trouble with the disk is left to the records."""
        now = time.time()
        if now < self._next and run == self._run:
            return
        self._next = now + BEAT_SECONDS
        if run != self._run:
            self._run, self._tokens, self._began = run, session.position, now
        trained, passed = session.position - self._tokens, now - self._began
        document = {
            "schema": HEARTBEAT_SCHEMA,
            "run": run,
            "tokens": session.position,
            "total": total,
            "loss": session.curve[-1][1] if session.curve else None,
            "tokens_per_second": trained / passed if trained > 0 and passed > 0 else None,
            "time": now,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        with suppress(OSError):  # without fsync: a beat that is lost is followed by the next
            temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
            temporary.write_text(json.dumps(finite_or_null(document)))
            temporary.replace(self._path)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of a run however it ended."""

    trajectory: Trajectory
    run: RunSpec
    started: str | None
    session: Session | None = None
    earlier: tuple[Attempt, ...] = ()
    """Attempts at the trajectory before this one."""


def done_record(facts: RunFacts, measured: Measurement) -> RunRecord:
    """The record of a finished run."""
    session = facts.session
    assert session is not None
    rate = facts.run.tokens / session.seconds if session.seconds > 0 else None
    return _record(
        facts,
        status="done",
        tokens_per_second=rate,
        mfu=_mfu(session, rate),
        **_measured(measured),
    )


def diverged_record(facts: RunFacts, measured: Measurement, reason: str) -> RunRecord:
    """The record of a run that was stopped; it keeps what loss it has, and fits leave it out."""
    kept = {k: v for k, v in _measured(measured).items() if _finite(v)}
    return _record(facts, status="diverged", reason=reason, **kept)


def failed_record(facts: RunFacts, error: BaseException, trace: str) -> RunRecord:
    """The record of a run that was stopped by an error."""
    reason = f"{type(error).__name__}: {error}".strip()
    return _record(facts, status="failed", reason=reason, traceback=trace)


def _record(facts: RunFacts, **outcome: Any) -> RunRecord:
    """Everything that the plan knows, and the outcome.

    The time is that of the run's whole path, shared trunk included, however it ended.
    """
    t, run, session = facts.trajectory, facts.run, facts.session
    if session is not None:
        outcome |= {"tokens_seen": session.position, "wall_seconds": session.seconds}
        outcome["device"] = device_name(session.fabric.device)
        if t.config.train.devices > 1:
            outcome["device"] = f"{t.config.train.devices} x {outcome['device']}"
    return RunRecord(
        run=run.run,
        sweep=t.sweep,
        seed=t.seed,
        data=t.data,
        width=t.shape.width,
        depth=t.shape.depth,
        heads=t.shape.heads,
        head_dim=t.shape.head_dim,
        vocab=t.shape.vocab,
        seq_len=t.shape.seq_len,
        params_body=t.params.body,
        params_head=t.params.head,
        params_embedding=t.params.embedding,
        params_other=t.params.other,
        params_idle=t.params.idle or None,
        experts=t.shape.experts or None,
        top_k=t.shape.top_k or None,
        params_total=t.params.total,
        tokens=run.tokens,
        flops_body=t.flops_per_token.body,
        flops_head=t.flops_per_token.head,
        flops_attention=t.flops_per_token.attention,
        flops=run.flops,
        flops_spent=run.flops_spent,
        trunk=t.trunk,
        schedule=run.rate.kind,
        lr=t.scaled.lr,
        batch_tokens=t.rule.batch(run.tokens - 1),
        recipe=recipe(t),
        precision=t.config.train.precision,
        versions=versions(LIBRARIES),
        commit=commit(),
        attempts=len(facts.earlier) + 1,
        history=tuple(dataclasses.asdict(a) for a in facts.earlier),
        started=facts.started,
        finished=now(),
        **outcome,
    )


def recipe(trajectory: Trajectory) -> dict[str, Any]:
    """Settings that launch the run again, as overrides of the config."""
    model, data = trajectory.config.model, trajectory.config.data
    train = trajectory.config.train
    kept: dict[str, Any] = {"data": data.name}
    kept |= {
        f"data.{k}": v for k, v in vars(data).items() if k not in ("name", "cache", "max_epochs")
    }
    mixture = ("experts", "top_k") if model.experts else ()
    for name in ("head_dim", "mlp_ratio", "gated", "tied", "conv", "seq_len", *mixture):
        kept[f"model.{name}"] = getattr(model, name)
    skipped = (
        "tokens",
        "micro_batch_tokens",
        "accelerator",
        "devices",
        "strategy",
        "threads",
        "compile",
        "graphs",
        "checkpoint_seconds",
        "retries",
        "runs_per_gpu",
        "pack",
    )
    for name, value in vars(train).items():
        if name not in skipped:
            kept[f"train.{name}"] = getattr(value, "value", value)
    return kept


def _measured(measured: Measurement) -> dict[str, Any]:
    """The measurement's fields as a record's."""
    return {
        "loss": measured.loss,
        "loss_se": measured.loss_se,
        "loss_plain": measured.loss_plain,
        "loss_bpb": measured.loss_bpb,
        "loss_by_skill": measured.loss_by_skill,
    }


def _finite(value: Any) -> bool:
    """Whether a value can stand in a record."""
    return not isinstance(value, float) or math.isfinite(value)


def _mfu(session: Session, tokens_per_second: float | None) -> float | None:
    """Model FLOP utilisation: exact FLOP per second over the device's ceiling."""
    fabric = session.fabric
    devices = int(fabric.world_size)
    peak = peak_flops_per_second(fabric.device, session.trajectory.config.train.precision)
    if peak is None or tokens_per_second is None:
        return None
    return session.trajectory.flops_per_token.exact * tokens_per_second / peak / devices
