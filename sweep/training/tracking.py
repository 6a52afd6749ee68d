"""Where a run's curve and result go beside its record: progress, curve.csv, wandb.

What was tried on a trajectory: every start is noted, so that a lost worker is known.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf

from fit.data.records import RunRecord
from fit.files import now, write_atomically
from sweep.config import Config, Tracking

ATTEMPTS_NAME = "attempts.json"
COLUMNS = ("tokens", "train_loss", "lr", "grad_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a worker on a trajectory."""

    started: str
    host: str
    pid: int
    outcome: str = "lost"
    """`lost` until the worker says how it ended: `failed`, or `stopped` by a signal."""
    reason: str | None = None
    tokens: int | None = None
    """Where on its path it ended, if it could say."""


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """The attempts in a working folder; none where there is no readable list."""
    try:
        rows = json.loads((folder / ATTEMPTS_NAME).read_text())
        return tuple(Attempt(**row) for row in rows)
    except (OSError, ValueError, TypeError):
        return ()


def begin(folder: Path) -> tuple[Attempt, ...]:
    """Note a start; returns the earlier attempts.

    Raises:
        RecordError: The folder cannot be written to.
    """
    earlier = read_attempts(folder)
    _write(folder, (*earlier, Attempt(started=now(), host=platform.node(), pid=os.getpid())))
    return earlier


def end(folder: Path, outcome: str, reason: str, tokens: int | None) -> None:
    """Note how the newest attempt ended.

    Raises:
        RecordError: The folder cannot be written to.
    """
    attempts = read_attempts(folder)
    if attempts:
        last = dataclasses.replace(attempts[-1], outcome=outcome, reason=reason, tokens=tokens)
        _write(folder, (*attempts[:-1], last))


def _write(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the list."""
    rows = [dataclasses.asdict(a) for a in attempts]
    write_atomically(folder / ATTEMPTS_NAME, json.dumps(rows, indent=1) + "\n")


Curve = Sequence[tuple[float, ...]]


class Tracker(Protocol):
    """What the training loop reports to."""

    def progress(self, run: str, tokens: int, total: int, loss: float) -> None:
        """A run is at `tokens` of `total`."""

    def finished(self, folder: Path, record: RunRecord, curve: Curve) -> None:
        """A run ended; its record is about to be written."""


class CommandLineTracker:
    """The tracker of the command line."""

    def __init__(self, config: Config, *, quiet_seconds: float = 15.0, shown: bool = True) -> None:
        self.config = config
        self.quiet_seconds, self.shown = quiet_seconds, shown
        self._bar: Any = None
        self._said = time.monotonic()
        self._started: dict[str, float] = {}

    def progress(self, run: str, tokens: int, total: int, loss: float) -> None:
        """A bar on a terminal, a line every quarter of a minute elsewhere."""
        if not self.shown:  # members of a pack are where its first one is
            return
        if sys.stderr.isatty() and not _parallel():
            self._draw(run, tokens, total, loss)
            return
        began = self._started.setdefault(run, time.monotonic())
        if time.monotonic() - self._said < self.quiet_seconds:
            return
        self._said = time.monotonic()
        say(f"{run}  {tokens / total:4.0%}  loss {loss:.3f}  {self._said - began:.0f} s")

    def finished(self, folder: Path, record: RunRecord, curve: Curve) -> None:
        """Write what was asked for, and one line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self.config.tracking is not Tracking.none and curve:
            lines = [",".join(COLUMNS), *(",".join(f"{v:.6g}" for v in row) for row in curve)]
            write_atomically(folder / "curve.csv", "\n".join(lines) + "\n")
        write_atomically(
            folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(self.config))
        )
        if self.config.tracking is Tracking.wandb:
            log_to_wandb(self.config, record, curve)
        say(summary(record))

    def _draw(self, run: str, tokens: int, total: int, loss: float) -> None:
        """Advance the bar; tqdm adds the rate and the time left."""
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != run:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(
                desc=run, total=total, unit="tok", unit_scale=True, leave=False, dynamic_ncols=True
            )
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update(tokens - self._bar.n)


def say(line: str) -> None:
    """One line on stderr, written whole, so that parallel workers do not mix theirs."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def summary(record: RunRecord) -> str:
    """One line on how a run ended."""
    if record.status != "done":
        return f"{record.run}  {record.status}: {record.reason}"
    rate = record.tokens_per_second or 0.0
    return (
        f"{record.run}  loss {record.loss:.4f} ± {record.loss_se:.4f}  "
        f"{record.flops:.2e} FLOP  {rate / 1e3:.0f}k tokens/s"
    )


def log_to_wandb(config: Config, record: RunRecord, curve: Curve) -> None:
    """Log a finished run; offline unless WANDB_MODE says otherwise. Trouble is said, not raised."""
    import wandb

    folder = Path(config.runs_dir) / config.name
    try:
        run = wandb.init(
            project="isoflop",
            group=config.name,
            name=record.run,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            reinit="finish_previous",
        )
        for tokens, *values in curve:
            run.log(dict(zip(COLUMNS, (tokens, *values), strict=True)), step=int(tokens))
        for name in ("status", "loss", "loss_bpb", "params_total", "tokens", "flops", "mfu"):
            run.summary[name] = getattr(record, name)
        run.finish()
    except Exception as error:  # a tracker must not cost a trained run
        say(f"{record.run}  not logged to wandb: {str(error).splitlines()[0]}. The record is kept.")


def _parallel() -> bool:
    """Whether this process is one worker of several that share a terminal."""
    return "JOBLIB_SPAWNED_PROCESS" in os.environ or "LOKY_PARENT_PID" in os.environ
