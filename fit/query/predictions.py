"""Predictions at many sizes at once: arrays of N and D in, losses with intervals out.

Each number is the one that `answer.predict` gives for that N and D alone. Verdicts are found once
for each class of points that the rules of `warnings` treat alike, not once for each point.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fit.allocation.scaling_law import ScalingLaw
from fit.data.records import Floats
from fit.errors import QueryError
from fit.inference.intervals import KNOTS, positive_interval, prediction_interval
from fit.quantities import check_count, read_count
from fit.query.answer import predict
from fit.query.warnings import FRESH_EPOCHS, STALE_EPOCHS, times_outside
from fit.results import Fit, loss_unit
from fit.verdict import FARTHEST_REACH, NOTED_REACH, TRACK_RECORD, WIDEST

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 2048
"""Points whose intervals are computed together: with 4000 draws their losses take 65 MB."""
REACHES = np.unique([1.0, NOTED_REACH, FARTHEST_REACH, *(reach for reach, _, _ in TRACK_RECORD)])
EPOCHS = np.array([1.0, FRESH_EPOCHS, STALE_EPOCHS])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Losses of models of N parameters on D tokens; arrays of the shape of N and D together."""

    params: Floats
    """N."""
    tokens: Floats
    """D."""
    flops: Floats
    """Of training [FLOP]."""
    loss: Floats
    """By the law [nats/token, or the `unit`]; of a law of another quantity, that."""
    low: Floats
    """Of the confidence interval of the law; nan where there is none."""
    high: Floats
    run_low: Floats
    """Of the prediction interval of one run, which adds the noise between runs."""
    run_high: Floats
    reach: Floats
    """Compute over the largest one fitted; above 1 it extrapolates, nan where it is not known."""
    verdict: NDArray[np.str_]
    """`trust`, `careful` or `refuse` of each."""
    level: float | None
    """Of both intervals; None where there are none."""
    method: str | None
    quantity: str
    """The quantity predicted: loss, lr or batch_tokens."""
    unit: str
    source: str
    """Name of the fit or of the published law."""

    def to_frame(self) -> pd.DataFrame:
        """One row per point, in the order of the flattened arrays."""
        import pandas as pd

        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return pd.DataFrame({k: v.ravel() for k, v in columns.items() if isinstance(v, np.ndarray)})

    def __repr__(self) -> str:
        """The first rows as a table."""
        size, shape = self.loss.size, self.loss.shape
        head = f"{self.quantity} of {size} point{'s' * (size != 1)} {shape}, by {self.source}"
        level = "no interval" if self.level is None else f"{self.level:.0%} intervals"
        shown = self.to_frame()[["params", "tokens", "loss", "low", "high", "reach", "verdict"]]
        return f"{head} [{self.unit}], {level}\n{shown.to_string(index=False, max_rows=8)}"


def predict_many(
    source: ScalingLaw | Fit | Path | str,
    params: Any,
    tokens: Any,
    *,
    force: bool = False,
    **columns: float,
) -> Predictions:
    """Predict the losses of many models, with intervals.

    Args:
        source: A fit, its report folder, or the name of a published law.
        params: N [parameters]: a number, text such as `7B`, or an array of them.
        tokens: D [tokens], likewise; the two are broadcast against each other.
        force: Insist on predictions whose verdict is `refuse`; beyond the farthest reach they have
            no interval.
        **columns: Further columns of the law, such as `unique_tokens`, one number each.

    Returns:
        Loss, both intervals, reach and verdict of each point.

    Raises:
        QueryError: A count is not positive, the shapes do not broadcast, or a column is missing or
            unknown.
        RefusedError: The verdict on a point is `refuse`, and `force` is not set.
        RecordError: There is no such fit.
    """
    given = {name: read_count(value, name) for name, value in columns.items()}
    origin = ScalingLaw.of(source)
    law = origin.given(**given)
    shape, n, d = _broadcast(counts(params, "params"), counts(tokens, "tokens"))
    if not len(n):
        raise QueryError("there are no params and tokens; one of each is needed. Fill the arrays.")
    flops = d * np.exp(law.cost.log_flops_per_token(np.log(n)))
    reach = np.array([math.nan if (r := law.reach(c)) is None else r for c in flops])
    outside = times_outside(law.range, flops=flops, params=n, tokens=d)
    sides = np.reshape([side for pair in outside.values() for side in pair], (-1, len(n)))
    near = ~(reach > FARTHEST_REACH)
    if law.fit is not None:
        near &= np.all(sides <= FARTHEST_REACH, axis=0)
    loss, low, high = _losses(law, n, d, ranged=near)
    verdicts = np.empty(len(n), dtype="<U7")
    classes = _classes(law, n, d, sides, reach, loss, low, high)
    _, first, member = np.unique(classes, axis=1, return_index=True, return_inverse=True)
    at = [predict(origin, float(n[i]), float(d[i]), force=force, **given) for i in first]
    verdicts[:] = np.array([p.verdict.verdict for p in at])[member.ravel()]
    run_low, run_high = np.full_like(loss, np.nan), np.full_like(loss, np.nan)
    spread = law.uncertainty
    if spread is not None:
        run_low, run_high = prediction_interval(
            spread.quantile, law.noise_of_a_run, loss, low, high
        )
    arrays = {
        "params": n,
        "tokens": d,
        "flops": flops,
        "loss": loss,
        "low": low,
        "high": high,
        "run_low": run_low,
        "run_high": run_high,
        "reach": reach,
        "verdict": verdicts,
    }
    ranged = spread is not None and not np.isnan(low).all()
    return Predictions(
        level=spread.level if spread is not None and ranged else None,
        method=spread.method if spread is not None and ranged else None,
        quantity=law.law.target,
        unit=loss_unit(law.convention) if law.law.target == "loss" else law.law.target,
        source=law.name,
        **{name: _read_only(values.reshape(shape)) for name, values in arrays.items()},
    )


def counts(values: Any, what: str) -> Floats:
    """Positive counts from numbers, texts such as `7B`, or any array of them.

    Raises:
        QueryError: One is not a positive finite number, or the rows differ in length.
    """
    try:
        cells = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise QueryError(f"{what} are no array ({error}). Give numbers, in rows alike.") from error
    if cells.dtype.kind in "iuf":
        numbers_of = cells.astype(np.float64)
    else:
        flat = [read_count(cell, what) for cell in cells.ravel().tolist()]
        numbers_of = np.array(flat, dtype=np.float64).reshape(cells.shape)
    for bad in numbers_of[~(np.isfinite(numbers_of) & (numbers_of > 0))].ravel()[:1]:
        check_count(float(bad), what)
    return numbers_of


def _broadcast(params: Floats, tokens: Floats) -> tuple[tuple[int, ...], Floats, Floats]:
    """The common shape of N and D, and both flat, (k,)."""
    try:
        n, d = np.broadcast_arrays(params, tokens)
    except ValueError as error:
        raise QueryError(
            f"params have shape {params.shape} and tokens {tokens.shape}, which do not fit each "
            "other. Give as many of both, or make a grid: params[:, None], tokens[None, :]."
        ) from error
    return n.shape, n.ravel().astype(np.float64), d.ravel().astype(np.float64)


def _losses(
    law: ScalingLaw, n: Floats, d: Floats, *, ranged: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """The law and its confidence interval at points (k,); nan where they are not ranged."""
    loss = np.exp(law.log_losses(n, d)(law.theta[None])[0])
    low, high = np.full_like(loss, np.nan), np.full_like(loss, np.nan)
    spread = law.uncertainty
    if spread is None:
        return loss, low, high
    # A curve of more points is profiled at some of them only.
    step = KNOTS if spread.method == "profile" else AT_ONCE
    rows = np.flatnonzero(ranged)
    for part in np.split(rows, range(step, len(rows), step)):
        if len(part):
            low[part], high[part] = positive_interval(spread, law.log_losses(n[part], d[part]))
    return loss, low, high


def _classes(
    law: ScalingLaw,
    n: Floats,
    d: Floats,
    sides: Floats,
    reach: Floats,
    loss: Floats,
    low: Floats,
    high: Floats,
) -> NDArray[np.int64]:
    """What the rules of `warnings` look at, (rules, k): equal columns have one verdict."""
    rows: list[NDArray[Any]] = [np.searchsorted(REACHES, reach), (n < 1) | (d < 1)]
    rows += [np.searchsorted([1.0, FARTHEST_REACH], side) for side in sides]
    data = {} if law.fit is None else law.fit.data
    for unique in (data.get("unique_tokens"), law.law.held.get("unique_tokens")):
        if unique:
            rows.append(np.searchsorted(EPOCHS, d / unique))
    if (entropy := data.get("entropy")) is not None:
        rows.append(loss < entropy)
    with np.errstate(all="ignore"):
        rows.append(np.log(high / low) / 2 > WIDEST)
    return np.stack([np.asarray(row, dtype=np.int64) for row in rows])


def _read_only(values: NDArray[Any]) -> Any:
    """The same array, which cannot be written to."""
    values.flags.writeable = False
    return values
