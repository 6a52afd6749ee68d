"""Progress of runs outside the record: attempts, heartbeat, terminal, curve.csv and wandb.

Files in a trajectory's working folder: `attempts.json` lists every start of a worker, so that a
worker that was lost is known; the heartbeat says where a running trajectory is. `Tracker` is the
interface that the training loop reports to; `CommandLineTracker` draws a bar or prints lines and
writes the curve and the configuration beside the record. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf

from fit.data.progress import HEARTBEAT_NAME, HEARTBEAT_SCHEMA
from fit.data.records import (
    FILES_NAME,
    RECORD_NAME,
    WEIGHTS_NAME,
    RunRecord,
    finite_or_null,
)
from fit.errors import RecordError
from fit.files import now, write_atomically
from fit.quantities import duration, short
from fit.results import read_fit
from sweep.config import Config, Tracking

ATTEMPTS_NAME = "attempts.json"
BEAT_SECONDS = 2.0
"""Least time between two writes of the heartbeat."""
COLUMNS = ("tokens", "train_loss", "lr", "grad_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a worker on a trajectory."""

    started: str
    host: str
    pid: int
    outcome: str = "lost"
    """`lost` until the worker notes how it ended: `failed`, or `stopped` by a signal."""
    reason: str | None = None
    tokens: int | None = None
    """Position at which it ended, where it is known [tokens]."""


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """The attempts in a working folder; none where there is no readable list."""
    try:
        rows = json.loads((folder / ATTEMPTS_NAME).read_text())
        return tuple(Attempt(**row) for row in rows)
    except (OSError, ValueError, TypeError):
        return ()


def start_attempt(folder: Path) -> tuple[Attempt, ...]:
    """Append an attempt of this process; returns the earlier attempts.

    Raises:
        RecordError: The folder cannot be written to.
    """
    earlier = read_attempts(folder)
    _write_attempts(
        folder, (*earlier, Attempt(started=now(), host=platform.node(), pid=os.getpid()))
    )
    return earlier


def end_attempt(folder: Path, outcome: str, reason: str, tokens: int | None) -> None:
    """Write how the newest attempt ended.

    Raises:
        RecordError: The folder cannot be written to.
    """
    attempts = read_attempts(folder)
    if attempts:
        last = dataclasses.replace(attempts[-1], outcome=outcome, reason=reason, tokens=tokens)
        _write_attempts(folder, (*attempts[:-1], last))


def _write_attempts(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the list of attempts."""
    rows = [dataclasses.asdict(a) for a in attempts]
    write_atomically(folder / ATTEMPTS_NAME, json.dumps(rows, indent=1) + "\n")


class Heartbeat:
    """A small file that says where a running trajectory is, for `isoflop runs --watch`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HEARTBEAT_NAME
        self._next = 0.0
        self._run, self._first_tokens, self._first_time = "", 0, 0.0

    def write(self, run: str, total: int, position: int, loss: float | None) -> None:
        """Write the position of a run of `total` tokens, every `BEAT_SECONDS` at most.

        Errors of the disk are ignored here: writing a checkpoint or a record reports them.
        """
        time_now = time.time()
        if time_now < self._next and run == self._run:
            return
        self._next = time_now + BEAT_SECONDS
        if run != self._run:
            self._run, self._first_tokens, self._first_time = run, position, time_now
        trained, seconds = position - self._first_tokens, time_now - self._first_time
        document = {
            "schema": HEARTBEAT_SCHEMA,
            "run": run,
            "tokens": position,
            "total": total,
            "loss": loss,
            "tokens_per_second": trained / seconds if trained > 0 and seconds > 0 else None,
            "time": time_now,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        with suppress(OSError):  # without fsync: a lost write is followed by the next
            temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
            temporary.write_text(json.dumps(finite_or_null(document)))
            temporary.replace(self._path)


Curve = Sequence[tuple[float, ...]]


class Tracker(Protocol):
    """Interface that the training loop reports progress and ended runs to."""

    def show_progress(self, run: str, tokens: int, total: int, loss: float) -> None:
        """Show that a run is at `tokens` of `total`."""

    def finish_run(self, folder: Path, record: RunRecord, curve: Curve) -> None:
        """Write what belongs to an ended run; its record is written right after."""


class CommandLineTracker:
    """Tracker of the command line: a bar or lines, `config.yaml`, `curve.csv`, wandb."""

    def __init__(self, config: Config, *, quiet_seconds: float = 15.0) -> None:
        self.config = config
        self.quiet_seconds = quiet_seconds
        self._bar: Any = None
        self._last_line = time.monotonic()
        self._started: dict[str, tuple[float, int]] = {}

    def show_progress(self, run: str, tokens: int, total: int, loss: float) -> None:
        """Draw a bar on a terminal; elsewhere print a line every `quiet_seconds`."""
        if sys.stderr.isatty() and not _parallel():
            self._draw(run, tokens, total, loss)
            return
        began, first = self._started.setdefault(run, (time.monotonic(), tokens))
        if time.monotonic() - self._last_line < self.quiet_seconds:
            return
        self._last_line = time.monotonic()
        line = f"{run}  {tokens / total:4.0%}  loss {loss:.3f}"
        seconds = self._last_line - began
        if tokens > first and seconds > 0:
            rate = (tokens - first) / seconds
            line += f"  {short(rate)} tokens/s, {duration((total - tokens) / rate)} left"
        say(line)

    def finish_run(self, folder: Path, record: RunRecord, curve: Curve) -> None:
        """Write the curve and the configuration, log to wandb if configured, print one line."""
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
        if self.config.files == "few":
            pack_files(folder)
        else:
            (folder / FILES_NAME).unlink(missing_ok=True)
        say(summary(record))

    def _draw(self, run: str, tokens: int, total: int, loss: float) -> None:
        """Advance the progress bar; tqdm adds the rate and the time left."""
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != run:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(
                desc=run, total=total, unit="tok", unit_scale=True, leave=False, dynamic_ncols=True
            )
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update(tokens - self._bar.n)


def pack_files(folder: Path) -> None:
    """Move what a run left, but for its record and weights, into the archive `files.zip`.

    Raises:
        RecordError: The folder cannot be written to; nothing was removed.
    """
    apart = (RECORD_NAME, WEIGHTS_NAME, FILES_NAME)
    left = [p for p in sorted(folder.iterdir()) if p.name not in apart and p.name[0] != "."]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (f for top in left for f in (top, *sorted(top.rglob("*")))):
            if path.is_file() and not path.is_symlink():
                packed.write(path, path.relative_to(folder))
    write_atomically(folder / FILES_NAME, archive.getvalue())
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def say(line: str) -> None:
    """Write one line to stderr in one call, so that lines of parallel workers do not mix."""
    with suppress(BrokenPipeError):  # the reader has gone, as with `2>&1 | head`: training goes on
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def summary(record: RunRecord) -> str:
    """One line that says how a run ended."""
    if record.status != "done":
        return f"{record.run}  {record.status}: {record.reason}"
    rate = record.tokens_per_second or 0.0
    return (
        f"{record.run}  loss {record.loss:.4f} ± {record.loss_se:.4f}  "
        f"{record.flops:.2e} FLOP  {rate / 1e3:.0f}k tokens/s"
    )


def wandb_mode() -> str:
    """The mode that wandb's own variables set; offline where they set none."""
    off = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes")
    return "disabled" if off else os.environ.get("WANDB_MODE") or "offline"


def log_to_wandb(config: Config, record: RunRecord, curve: Curve) -> None:
    """Log a finished run as wandb's variables say; errors are printed, not raised.

    WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_DIR and WANDB_MODE hold as they do for wandb
    itself; without them the project is isoflop, the group the sweep, and the mode offline.
    """
    import wandb

    folder = Path(config.runs_dir) / config.name
    if config.files == "few":  # beside the record, to be packed
        folder /= record.run
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "isoflop",
            entity=os.environ.get("WANDB_ENTITY") or None,
            group=os.environ.get("WANDB_RUN_GROUP") or config.name,
            name=record.run,
            dir=os.environ.get("WANDB_DIR") or str(folder),
            mode=wandb_mode(),  # type: ignore[arg-type]
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


def log_report(folder: Path, project: str) -> str:
    """Log a fit, its report and figures to wandb as artefacts, with tables of its numbers and runs.

    The files are those in the report folder. WANDB_MODE, WANDB_ENTITY, WANDB_DIR and
    WANDB_RUN_GROUP hold as in `log_to_wandb`; without WANDB_MODE nothing leaves this machine, and
    `wandb sync` sends it later.

    Args:
        folder: Report folder with `fit.json`.
        project: W&B's project, or ENTITY/PROJECT.

    Returns:
        Where the run is: its address, or the folder of its files.

    Raises:
        RecordError: There is no readable fit, or wandb cannot write or answer.
    """
    import wandb

    fit = read_fit(folder)
    entity, _, name = project.rpartition("/")
    label = re.sub(r"[^\w.-]", "-", folder.resolve().name)
    rows = [
        (quantity, value, *fit.interval.bounds.get(quantity, (None, None)))
        for quantity, value in {**fit.theta, **fit.exponents}.items()
    ]
    try:
        run = wandb.init(
            project=name,
            entity=entity or os.environ.get("WANDB_ENTITY") or None,
            group=os.environ.get("WANDB_RUN_GROUP") or None,
            name=label,
            job_type="fit",
            dir=os.environ.get("WANDB_DIR") or str(folder),
            mode=wandb_mode(),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            reinit="finish_previous",
        )
        about = {
            "law": fit.law,
            "verdict": fit.verdict.verdict,
            "reason": fit.verdict.reason,
            "kappa": fit.kappa,
            "runs": fit.runs_used,
        }
        for kind, files in (
            ("fit", [folder / "fit.json"]),
            ("report", sorted(folder.glob("report.*"))),
            ("figures", sorted((folder / "figures").glob("*"))),
        ):
            if files:
                artefact = wandb.Artifact(f"{label}-{kind}", type=kind, metadata=about)
                for path in files:
                    artefact.add_file(str(path))
                run.log_artifact(artefact)
        points = fit.points
        runs = zip(points.run, points.params.tolist(), points.tokens.tolist(),
                   points.flops.tolist(), points.loss.tolist(), strict=True)  # fmt: skip
        names = ["run", "params", "tokens", "flops", "loss"]
        run.log(
            {
                "law": wandb.Table(columns=["quantity", "value", "low", "high"], data=rows),
                "runs": wandb.Table(columns=names, data=[list(row) for row in runs]),
            }
        )
        run.summary.update({**about, **{quantity: value for quantity, value, *_ in rows}})
        run.finish()
        return str(Path(run.dir).parent if run.offline else run.url)
    except Exception as error:  # wandb raises kinds of its own
        raise RecordError(
            f"W&B took no report of {folder}: {str(error).splitlines()[0]}. Check the network, or "
            "keep it on this machine: WANDB_MODE=offline"
        ) from error


def _parallel() -> bool:
    """Whether this process is one worker of several that share a terminal."""
    return "JOBLIB_SPAWNED_PROCESS" in os.environ or "LOKY_PARENT_PID" in os.environ
