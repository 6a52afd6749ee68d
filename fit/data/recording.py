"""The record of a run of one's own trainer, so that it fits, resumes and reports like the others.

    with isoflop.record("runs/mine", "w128-d4", params=n, tokens=4e6, seed=0, lr=3e-4) as run:
        if not run.done:
            for step, batch in enumerate(batches):
                ...
                run.log(tokens=(step + 1) * batch_tokens, loss=loss, lr=lr)
            run.finish(heldout_loss, loss_se=error)

A block that ends without `finish` leaves a failed record; an exception, which goes on, is its
reason, with the traceback. The run is then trained again by the next start of the loop, while
finished ones are left alone: a record that is done is never written again.
"""

from __future__ import annotations

import json
import math
import numbers
import traceback as traces
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fit.data.accounting import FLOPS_PER_PARAM_TOKEN
from fit.data.records import CURVE_NAME, RECORD_NAME, DataInfo, RunRecord, read_record, write_record
from fit.errors import RecordError, check_type
from fit.files import checked_path, content_hash, now, versions, write_atomically
from fit.quantities import parse_count, read_count, short

SHAPE = ("width", "depth", "heads", "head_dim", "vocab", "seq_len")
IDENTITY = (
    *("data", "params_body", "params_embedding", "tokens", "unique_tokens", "seed", "lr"),
    *("batch_tokens", "flops", "trunk", "recipe", *SHAPE),
)
"""Fields in which an earlier record of the same name must agree."""
CURVE = ("tokens", "loss", "lr", "grad_norm")


def record(
    folder: Path | str,
    run: str,
    *,
    params: float | str,
    tokens: float | str,
    flops: float | None = None,
    params_embedding: float = 0,
    seed: int = 0,
    lr: float | None = None,
    batch_tokens: int | None = None,
    trunk: str | None = None,
    data: str = "own",
    unique_tokens: float | None = None,
    recipe: dict[str, Any] | None = None,
    **shape: int,
) -> Recorder:
    """Begin, or find again, the record of a run of one's own trainer.

    Args:
        folder: Folder of the sweep; the record is written to FOLDER/RUN/record.json.
        run: Name of the run, unique in the sweep.
        params: N, parameters in matrix products, the embedding left out [parameters].
        tokens: D, the tokens that the run is planned to train on [tokens].
        flops: Of the whole run; None for 6 N D [FLOP].
        params_embedding: Of a look-up table beside `params` [parameters].
        seed: Seed of the run.
        lr: Peak learning rate.
        batch_tokens: Tokens per optimiser step at the end.
        trunk: Name that runs share whose losses are correlated, such as branches of one trajectory.
        data: Name of the data set; runs of different names do not fit one law.
        unique_tokens: Training tokens before the first repeat; None where none repeats.
        recipe: Further settings, by name.
        **shape: width, depth, heads, head_dim, vocab and seq_len, as far as they are wanted.

    Raises:
        RecordError: A number is none, a size of the shape is not known, or the folder has a run of
            that name with other settings.
    """
    if unknown := sorted(shape.keys() - set(SHAPE)):
        raise RecordError(f"unknown size '{unknown[0]}'; known are {', '.join(SHAPE)}. Choose one.")
    check_type(RecordError, "run", run, (str,), "a name")
    for name, value in (("data", data), ("trunk", "" if trunk is None else trunk)):
        check_type(RecordError, name, value, (str,), "a name")
    check_type(RecordError, "recipe", recipe, (dict, type(None)), "a dictionary of settings")
    check_type(RecordError, "seed", seed, (numbers.Integral,), "a whole number")
    if seed < 0:
        raise RecordError(f"seed is {seed}; a whole number of at least 0 is needed. Change it.")
    check_type(RecordError, "lr", lr, (numbers.Real, type(None)), "a number")
    peak = None if lr is None else _number("lr", lr)
    if peak is not None and not 0 < peak < math.inf:
        raise RecordError(f"lr is {peak}; a positive finite number is needed. Change it.")
    check_type(RecordError, "params_embedding", params_embedding, (numbers.Real,), "a number")
    embedding = _whole("params_embedding", params_embedding) if params_embedding else 0
    unique = None if unique_tokens is None else _whole("unique_tokens", unique_tokens)
    batch = None if batch_tokens is None else _whole("batch_tokens", batch_tokens)
    sizes = {k: None if size is None else _whole(k, size) for k, size in shape.items()}
    try:
        settled = json.loads(json.dumps(recipe or {}, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"recipe cannot be written as JSON ({error}); text, finite numbers, lists and "
            "dictionaries are needed. Change it."
        ) from error
    if not run or Path(run).name != run or run.startswith("."):
        raise RecordError(f"run is '{run}'; a name that can be a folder's is needed, as w128-s0.")
    n, d = _whole("params", params), _whole("tokens", tokens)
    whole = FLOPS_PER_PARAM_TOKEN * n * d if flops is None else parse_count(str(flops), "flops")
    settings: dict[str, Any] = {
        "run": run,
        "sweep": checked_path(folder).name,
        "seed": int(seed),
        "data": DataInfo(
            name=data,
            hash=content_hash(data.encode()),
            unique_tokens=unique,
        ),
        "params_body": n,
        "params_head": 0,
        "params_embedding": embedding,
        "params_other": 0,
        "params_total": n + embedding,
        "tokens": d,
        "flops_body": round(whole / d),
        "flops_head": 0,
        "flops_attention": 0,
        "flops": float(whole),
        "lr": peak,
        "batch_tokens": batch,
        "trunk": trunk,
        "recipe": settled,
        **sizes,
    }
    return Recorder(checked_path(Path(folder) / run), settings)


class Recorder:
    """A run that is being trained, or has been; made by `record`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self._settings = settings
        self._curve: list[tuple[float, float, float, float]] = []
        self._started = now()
        self._earlier = self._before()
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether the run has finished, now or at an earlier start: it need not be trained."""
        return self._earlier is not None and self._earlier.status == "done"

    def log(self, tokens: float, loss: float, lr: float, grad_norm: float = math.nan) -> None:
        """Add a point of the training curve, by which a fit checks the recipe.

        Args:
            tokens: Trained on so far, more than at the last point [tokens].
            loss: Mean training loss since the last point [nats/token].
            lr: Learning rate.
            grad_norm: Norm of the gradient.

        Raises:
            RecordError: The tokens do not grow, or a number is not finite.
        """
        tokens, loss, lr, grad_norm = (
            _number(name, value)
            for name, value in zip(CURVE, (tokens, loss, lr, grad_norm), strict=True)
        )
        before = self._curve[-1][0] if self._curve else 0.0
        if not (before < tokens < math.inf and math.isfinite(loss) and math.isfinite(lr)):
            raise RecordError(
                f"run {self.folder.name}: a point of {tokens} tokens after {before:.0f}, loss "
                f"{loss}, lr {lr}; more tokens and finite numbers are needed."
            )
        self._curve.append((tokens, loss, lr, grad_norm))

    def finish(
        self,
        loss: float,
        *,
        loss_se: float | None = None,
        tokens_seen: float | None = None,
        scores: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> Path:
        """Write the record of the finished run.

        Args:
            loss: On held-out text [nats/token].
            loss_se: Its standard error from the finite sample.
            tokens_seen: Tokens trained on; None for those of the last point, or those planned.
            scores: Grades by name: `accuracy` in 0 to 1, `accuracy_se` and `items`.

        Returns:
            Path of the record.

        Raises:
            RecordError: The loss is not positive and finite, the tokens are not those planned, a
                score is none, or the run has ended already.
        """
        if tokens_seen is None:
            tokens_seen = self._curve[-1][0] if self._curve else self._settings["tokens"]
        seen = _number("tokens_seen", tokens_seen)
        if not 0 < seen < math.inf:
            raise RecordError(f"tokens_seen is {seen}; a positive number is needed. Change it.")
        error = None if loss_se is None else _number("loss_se", loss_se)
        if error is not None and not 0 <= error < math.inf:
            raise RecordError(f"loss_se is {error}; a number from 0 on is needed. Change it.")
        kinds = (Mapping, type(None))
        check_type(RecordError, "scores", scores, kinds, "a dictionary of grades by name")
        values = {"tokens_seen": round(seen), "scores": scores, "loss_se": error}
        return self._write("done", loss=_number("loss", loss), **values)

    def fail(self, reason: str, traceback: str | None = None) -> Path:
        """Write the record of a run that ended without a result.

        Raises:
            RecordError: The run has ended already.
        """
        return self._write("failed", reason=reason, traceback=traceback)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._ended or self.done:
            return
        if error is None:
            self.fail("ended without finish")
        else:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            self.fail(reason, "".join(traces.format_exception(error)))

    def _before(self) -> RunRecord | None:
        """The record of an earlier start, where its settings are the same."""
        if not (self.folder / RECORD_NAME).exists():
            return None
        found = read_record(self.folder / RECORD_NAME)
        planned = RunRecord(**self._settings, status="failed")
        earlier, this = _identity(found), _identity(planned)
        different = [
            f"{name} {_said(was)}, and this one has {_said(this[name])}"
            for name, was in earlier.items()
            if was != this[name]
        ]
        if different:
            raise RecordError(
                f"{self.folder} has a run with {'; '.join(different)}. Give the run another name."
            )
        return found

    def _write(self, status: str, **values: Any) -> Path:
        """Write the record, and the curve where there is one.

        Raises:
            RecordError: The run has ended already.
        """
        if self._ended or self.done:
            assert self._earlier is not None
            loss = "" if self._earlier.loss is None else f", loss {self._earlier.loss:.4g}"
            raise RecordError(
                f"{self.folder} has a run that is {self._earlier.status}{loss}; it is not "
                f"written again. Train only where run.done is false, or remove {self.folder} to "
                "repeat the run."
            )
        made = RunRecord(
            **self._settings,
            **values,
            status=status,
            attempts=1 + (0 if self._earlier is None else self._earlier.attempts),
            started=self._started,
            finished=now(),
            versions=versions(("isoflop",)),
        )
        if self._curve:
            lines = [
                "tokens,train_loss,lr,grad_norm",
                *(",".join(map(repr, r)) for r in self._curve),
            ]
            write_atomically(self.folder / CURVE_NAME, "\n".join(lines) + "\n")
        path = write_record(self.folder, made)
        self._earlier, self._ended = made, True
        return path


def _identity(record: RunRecord) -> dict[str, Any]:
    """The fields of `IDENTITY` of a record; of the data the name and the unique tokens."""
    data = {"data": record.data.name, "unique_tokens": record.data.unique_tokens}
    return {name: data[name] if name in data else getattr(record, name) for name in IDENTITY}


def _whole(name: str, value: float | str) -> int:
    """A positive count; a fraction is rounded where that changes it by less than a thousandth.

    Raises:
        ScalingError: It is none, as 1.5.
    """
    count = read_count(value, name)
    if abs(round(count) - count) > 1e-3 * count:
        raise RecordError(f"{name} is {value}; a whole number is needed. Change it.")
    return round(count)


def _number(name: str, value: Any) -> float:
    """A number, also as an array or tensor without dimensions.

    Raises:
        RecordError: It is none.
    """
    try:
        if isinstance(value, str | bool) or getattr(value, "ndim", False):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        shown = " ".join(repr(value).split())
        raise RecordError(f"{name} is {shown:.60}; one number is needed. Change it.") from error


def _said(value: Any) -> str:
    """A setting in words."""
    return short(value) if isinstance(value, int | float) and value > 1000 else str(value)
