"""What the residuals still say: outliers, noise, and trends that the law leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fit.declared import Declared
from fit.estimate import Estimate
from fit.quantity import short
from fit.record import Floats, RunTable
from fit.result import Note

OUTLIER = 5.0
"""Noise units; a Gaussian does so once in two million runs."""
LISTED = 5
TREND = 1e-3
"""Probability below which a trend of the residuals is no accident."""
LEAST_EXPLAINED = 0.02
"""Share of the residuals' variance below which a trend, however certain, is of no account."""
HIGH_NOISE = 0.05
"""Of the loss: seeds of one configuration differ by a tenth of it."""

TOGETHER = 0.5
"""Correlation of neighbouring residuals of one size from which they look like one trajectory."""
LONG = 6
"""Lengths that a size needs for neighbours to be compared."""


def residual_notes(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Notes on the residuals of a fit."""
    yield from _noise(found)
    yield from _outliers(table, found)
    yield from _trends(table, found)
    if not isinstance(found.problem, Declared):
        yield from _interaction(found)
    yield from _trajectories(table, found)


def _noise(found: Estimate) -> Iterator[Note]:
    """Do the runs scatter more than training does?"""
    if found.noise > HIGH_NOISE:
        yield Note(
            code="noise",
            severity="warning",
            message=f"one run lies {found.noise:.1%} off the law, where seeds differ by less than "
            "1%: the runs are of different kinds, or the law is not theirs. Look at the largest "
            "residuals, and fit one kind at a time: --where.",
        )


def _outliers(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Runs that lie far from the law."""
    units = np.sqrt(found.weights) * found.residual / max(found.noise, 1e-12)
    far = np.flatnonzero(np.abs(units) > OUTLIER)
    for i in far[np.argsort(-np.abs(units[far]))][:LISTED]:
        side = "above" if units[i] > 0 else "below"
        yield Note(
            code="outlier",
            severity="warning",
            message=f"run {table.run[i]} ({short(table.params[i])} on {short(table.tokens[i])}) "
            f"lies {abs(units[i]):.0f} noise units {side} the law: look at its curve, or run it "
            "again.",
        )
    if len(far) > LISTED:
        text = f"{len(far)} runs lie beyond {OUTLIER:g} noise units of the law."
        yield Note(code="outliers", severity="warning", message=text)


def _trends(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Structure that the law leaves in the residuals, the clearest of each family."""
    log_n, log_d = np.log(table.params), np.log(table.tokens)
    sizes = {"ln N": log_n, "ln D": log_d, "ln C": np.log(table.flops), "ln(D/N)": log_d - log_n}
    families = (
        (
            "trend",
            sizes,
            "the runs are not exactly the law over this range. Fit a narrower range and compare: "
            "--where.",
        ),
        (
            "trend_shape",
            _shape(table),
            "wide and deep models of one size differ. Fit one aspect ratio at a time: --where.",
        ),
        (
            "trend_tuning",
            _tuning(table),
            "some runs are better tuned than others, which bends the law. Keep the best of each "
            "size and length, or fit one rule at a time: --where.",
        ),
    )
    for code, variables, cure in families:
        tried = ((_trend(v, found.residual), name) for name, v in variables.items())
        chance, name = min(tried, default=(1.0, ""))
        if chance < TREND:
            text = f"residuals bend with {name} (p = {chance:.1g}): {cure}"
            yield Note(code=code, severity="warning", message=text)


def _shape(table: RunTable) -> Mapping[str, Floats]:
    """The aspect ratio, where the runs have shapes."""
    if not {"width", "depth"} <= set(table.columns):
        return {}
    return {"ln(width/depth)": np.log(table.column("width") / table.column("depth"))}


def _tuning(table: RunTable) -> Mapping[str, Floats]:
    """Learning rate and batch, where they are more than another word for the size."""
    out = {}
    for name, column in (("the learning rate", "lr"), ("the batch", "batch_tokens")):
        if column not in table.columns or table.columns[column].dtype.kind not in "iuf":
            continue
        values = table.column(column)
        pairs, sizes = np.unique(table.params + 1j * values), np.unique(table.params)
        if (values > 0).all() and np.isfinite(values).all() and len(pairs) > len(sizes):
            out[name] = np.log(values)
    return out


def _interaction(found: Estimate) -> Iterator[Note]:
    """Do larger models gain more, or less, from tokens than the law has it?"""
    joint = found.problem.x * found.problem.z
    if _explained(np.stack([np.ones_like(joint), joint], axis=1), found.residual) < TREND:
        slope = float(np.polyfit(joint, found.residual, 1)[0])
        yield Note(
            code="interaction",
            severity="warning",
            message=f"larger models gain {'less' if slope > 0 else 'more'} from more tokens than a "
            "sum of two power laws allows: no single N* curve follows from these runs. Train "
            "longer, or larger models, until the note goes away.",
        )


def _trend(variable: Floats, residual: Floats) -> float:
    """Probability of a cubic trend at least this strong by accident (F test)."""
    if len(np.unique(variable.round(9))) < 5 or len(residual) < 12:
        return 1.0
    x = (variable - variable.mean()) / variable.std()
    return _explained(np.vander(x, 4), residual)


def _explained(design: Floats, residual: Floats) -> float:
    """Probability that columns, one of them constant, explain this much by accident (F test)."""
    from scipy import stats

    fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    rest = float(((residual - fitted) ** 2).sum())
    all_ = float(((residual - residual.mean()) ** 2).sum())
    more = design.shape[1] - 1
    dof = len(residual) - 5 - more
    if dof < 2 or rest <= 0 or all_ - rest < LEAST_EXPLAINED * all_:
        return 1.0
    return float(stats.f.sf((all_ - rest) / more / (rest / dof), more, dof))


def _trajectories(table: RunTable, found: Estimate) -> Iterator[Note]:
    """Are runs that count as independent checkpoints of one another?"""
    if len(np.unique(table.cluster)) < len(table):
        return
    names = len(set(table.run))
    if names <= len(table) / 2:
        yield Note(
            code="trajectory",
            severity="serious",
            message=f"{len(table)} rows carry {names} names of runs: checkpoints of one run share "
            "its errors and are not independent, so the intervals are too narrow. Say which rows "
            "belong together: --cluster run.",
        )
        return
    together, pairs = _together(table, found.residual)
    if together > TOGETHER and together * pairs**0.5 > 3:
        yield Note(
            code="trajectory",
            severity="warning",
            message=f"residuals of one size go together along its lengths (correlation "
            f"{together:.2f}), as checkpoints of one run do. If they are, the intervals are too "
            "narrow: say which rows belong together, such as --cluster params.",
        )


def _together(table: RunTable, residual: Floats) -> tuple[float, int]:
    """Correlation of residuals next to each other in tokens, sizes of many lengths pooled."""
    order = np.lexsort((table.tokens, table.params))
    same = np.diff(table.params[order]) == 0
    _, codes, counts = np.unique(table.params[order], return_inverse=True, return_counts=True)
    long = same & (counts[codes[1:]] >= LONG)
    if long.sum() < len(table) / 2:
        return 0.0, 0
    r = np.clip(residual[order], *np.quantile(residual, [0.02, 0.98]))
    scale = float((r[1:][long] ** 2).mean() * (r[:-1][long] ** 2).mean()) ** 0.5
    return float((r[1:][long] * r[:-1][long]).mean()) / max(scale, 1e-300), int(long.sum())
