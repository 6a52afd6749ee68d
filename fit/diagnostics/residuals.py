"""Notes on the runs and on the residuals of a fit: units, mixed data, outliers, noise, trends.

Replicates, runs that differ in their seed alone, measure the noise without any law. Where the law's
residuals scatter by more, the law does not fit (the F test of lack of fit: Draper & Smith 1998,
sec. 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.estimation.general import GeneralProblem
from fit.estimation.objective import robust_scale
from fit.estimation.solver import Estimate
from fit.inference.resampling import f_tail
from fit.quantities import count_noun, short, three_digits
from fit.results import Replicates
from fit.verdict import Note

ONE_OF = ("data", "data_hash", "dataset", "tokenizer", "vocab", "data.name", "data.hash")
"""Columns that have one value where one law holds."""
JUMP = 300.0
"""Factor between neighbouring counts that no sweep has: between units, a thousand or a million."""
LEAST_LOSS = 0.3
"""Loss that models of text do not reach [nats/token]; the best reach 1.5, on code 0.5."""
LARGEST_VOCABULARY = 1e6
AGREES = 0.02
"""Two columns say the same loss when they differ by less, in the median."""
SAME = ("width", "depth", "heads", "lr", "batch_tokens", "vocab", "seq_len", "unique_tokens")
"""Columns that must agree, beside params and tokens, where the runs have them."""
LEAST_DOF = 3
"""Differences between replicates below which nothing is said."""
FAR = 5.0
"""Noise units beyond which a run is an outlier and left out of the test."""
UNLIKELY = 0.01
OUTLIER = 5.0
"""Noise units; a Gaussian does so once in two million runs."""
LISTED = 5
TREND = 1e-3
"""Probability below which a trend of the residuals is not taken for chance."""
LEAST_EXPLAINED = 0.02
"""Share of the residuals' variance below which a trend, however certain, does not matter."""
HIGH_NOISE = 0.05
"""Of the loss: seeds of one configuration differ by a tenth of it."""
CORRELATED = 0.5
"""Correlation of neighbouring residuals of one size above which they look like one trajectory."""
LONG = 6
"""Lengths that a size needs for neighbours to be compared."""


def intake_notes(table: RunTable, target: str = "loss") -> Iterator[Note]:
    """Notes on what was fitted."""
    yield from _mixed(table)
    yield from _counts(table)
    yield from _compute(table)
    if target == "loss":
        yield from _losses(table)
        ratio = float(np.median(table.tokens / table.params))
        if ratio < 1:
            text = (
                f"the median run has {ratio:.2g} tokens per parameter, where sweeps have more than "
                "1: are the columns swapped? If so: --column params=tokens --column tokens=params."
            )
            yield Note(code="columns", severity="warning", message=text)
    for remark in table.remarks:
        yield Note(code="columns", severity="info", message=f"{remark}.")
    if table.dropped:
        reasons = sorted({d.reason.split(":")[0] for d in table.dropped})
        text = f"{len(table.dropped)} runs are left out: {', '.join(reasons)}."
        yield Note(code="dropped", severity="info", message=text)


def _mixed(table: RunTable) -> Iterator[Note]:
    """Note runs that differ in their data or their tokenizer."""
    for name in ONE_OF:
        if name not in table.columns:
            continue
        values = list(dict.fromkeys(np.asarray(table.columns[name]).astype(str).tolist()))
        if len(values) > 1:
            more = f" and {len(values) - 3} more" if len(values) > 3 else ""
            yield _serious(
                "mixed_data",
                f"the runs have different {name} ({', '.join(values[:3])}{more}): losses of "
                "different data or tokenizers lie on different laws. Fit them separately: --where.",
            )
            return


def _counts(table: RunTable) -> Iterator[Note]:
    """Note params and tokens that are not raw counts."""
    ratio = float(np.median(table.tokens / table.params))
    if table.params.max() < 1e3 or table.tokens.max() < 1e4 or not 1e-2 < ratio < 1e5:
        yield _serious(
            "units",
            f"params reach {table.params.max():.3g} and tokens {table.tokens.max():.3g}: raw "
            "counts are needed, not millions or billions. Multiply the column and fit again.",
        )
        return
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        ordered = np.sort(values)
        place = int(np.argmax(ordered[1:] / ordered[:-1]))
        if ordered[place + 1] > JUMP * ordered[place]:
            yield _serious(
                "units",
                f"{name} jump from {ordered[place]:.3g} to {ordered[place + 1]:.3g}: {place + 1} "
                f"of {len(values)} rows seem to be in another unit. Make all raw counts and fit "
                "again.",
            )


def _compute(table: RunTable) -> Iterator[Note]:
    """Note compute that does not belong to such models and so many tokens."""
    cost = table.flops / (6 * table.params * table.tokens)
    if cost.max() > 20 or cost.min() < 0.05:
        yield _serious(
            "units",
            f"flops are {cost.min():.2g} to {cost.max():.2g} times 6 params tokens: one of the "
            "three columns is in another unit. Fix it and fit again.",
        )


def _losses(table: RunTable) -> Iterator[Note]:
    """Note losses that are not in nats per token."""
    uniform = _uniform_loss(table)
    unit = "bits" if table.loss_unit == "bpb" else "nats"
    above = int((table.loss > uniform).sum())
    below = int((table.loss < LEAST_LOSS).sum()) if not table.loss_unit else 0
    if below:
        yield Note(
            code="loss_units",
            severity="serious" if below > len(table) / 2 else "warning",
            message=f"{below} of {len(table)} losses are below {LEAST_LOSS:g} nats/token, lower "
            "than models of text reach: they may be per byte, rescaled or of one choice among few. "
            "Say the unit: --unit loss=bpb, a factor, or --unit loss=nats if they are.",
        )
    if above > len(table) / 2:
        yield _serious(
            "loss_units",
            f"most losses exceed {three_digits(uniform)} {unit}, the loss of equal probabilities "
            "for all tokens: they may be perplexities (take the natural logarithm) or bits "
            "(multiply by 0.6931).",
        )
    elif above:
        yield Note(
            code="loss_units",
            severity="warning",
            message=f"{above} of {len(table)} losses exceed {three_digits(uniform)} {unit}, the "
            "loss of equal probabilities for all tokens: these runs diverged, or are in another "
            "unit. Leave them out: --where.",
        )
    for name in ("perplexity", "ppl"):
        values = _column(table, name)
        if values is not None and _same(np.exp2(table.loss), values):
            yield _serious(
                "loss_units",
                f"the losses are the base-2 logarithm of {name}, bits and not nats per token. "
                "Multiply them by 0.6931 and fit again.",
            )


def _uniform_loss(table: RunTable) -> float:
    """Loss of equal probabilities for all tokens of the vocabulary, or of a million; of bytes."""
    if table.loss_unit == "bpb":
        return 8.0
    vocab = _column(table, "vocab")
    if vocab is None or not (vocab > 1).all():
        return math.log(LARGEST_VOCABULARY)
    return math.log(float(vocab.max()))


def _column(table: RunTable, name: str) -> Floats | None:
    """A numeric column, where there is one."""
    if name not in table.columns or table.columns[name].dtype.kind not in "iuf":
        return None
    return table.column(name)


def _same(one: Floats, other: Floats) -> bool:
    """Whether two columns agree."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.nanmedian(np.abs(one / other - 1)) < AGREES)


def _serious(code: str, message: str) -> Note:
    """A note of severity `serious`: do not spend money on this."""
    return Note(code=code, severity="serious", message=message)


def replicates(
    table: RunTable, fitted: Estimate, copies: NDArray[np.bool_] | None = None
) -> Replicates | None:
    """Noise between replicates and the test of lack of fit; None without replicates.

    Args:
        table: The runs.
        fitted: The law fitted to them; weights are kept, so the noise is of a run of mean weight.
        copies: Rows that repeat a run and so say nothing of the noise between runs, (n,).
    """
    residual = np.sqrt(fitted.weights) * fitted.residual
    near = np.abs(residual) <= FAR * max(fitted.noise, 1e-300)
    if copies is not None:
        near &= ~copies
    cells = _cells(table)[near]
    residual = residual[near]
    _, cells, counts = np.unique(cells, return_inverse=True, return_counts=True)
    within = len(cells) - len(counts)
    if within < LEAST_DOF:
        return None
    gap = residual - (np.bincount(cells, residual) / counts)[cells]
    several = counts[cells] > 1
    between = len(counts) - fitted.family.free
    pure = float(gap @ gap)
    statistic = probability = None
    if between > 0 and pure > 0 and fitted.loss.family.symmetric:  # others miss means by design
        lack = max(float(residual @ residual) - pure, 0.0)
        statistic = lack / between / (pure / within)
        probability = f_tail(between, within, statistic)
    return Replicates(
        groups=int((counts > 1).sum()),
        runs=int(several.sum()),
        noise=robust_scale(gap[several], int((counts > 1).sum())),
        lack_of_fit=statistic,
        probability=probability,
    )


def _cells(table: RunTable) -> NDArray[np.int64]:
    """Code of each run's size, length and recipe."""
    names = ("params", "tokens", *(c for c in SAME if c in table.columns))
    columns = np.column_stack([table.column(c) for c in names])
    codes = np.unique(np.nan_to_num(columns, nan=-1.0), axis=0, return_inverse=True)[1]
    return np.asarray(codes, dtype=np.int64).reshape(-1)


def lack_of_fit(between: Replicates | None) -> tuple[Note, ...]:
    """A warning where replicates agree better with each other than with the law."""
    if between is None or between.probability is None or between.probability >= UNLIKELY:
        return ()
    message = (
        f"runs that differ in their seed alone agree to {between.noise:.2%}, but the law misses "
        f"their means by more than that allows (lack of fit, p = {between.probability:.1g}): the "
        "loss surface is not exactly this law. Fit a narrower range and compare: --where."
    )
    return (Note(code="lack_of_fit", severity="warning", message=message),)


def residual_notes(table: RunTable, fitted: Estimate) -> Iterator[Note]:
    """Notes on the residuals of a fit."""
    yield from _noise(fitted)
    yield from _outliers(table, fitted)
    yield from _trends(table, fitted)
    if not isinstance(fitted.problem, GeneralProblem):
        yield from _interaction(fitted)
    yield from _trajectories(table, fitted)


def _noise(fitted: Estimate) -> Iterator[Note]:
    """Note runs that scatter by more than training does."""
    if fitted.noise > HIGH_NOISE:
        yield Note(
            code="noise",
            severity="warning",
            message=f"one run lies {fitted.noise:.1%} off the law, where seeds of one setting "
            "differ by less than 1%. Look at the largest residuals, and whether the runs are of "
            "one kind: --where.",
        )


def _outliers(table: RunTable, fitted: Estimate) -> Iterator[Note]:
    """Runs that lie far from the law."""
    units = np.sqrt(fitted.weights) * fitted.residual / max(fitted.noise, 1e-12)
    far = np.flatnonzero(np.abs(units) > OUTLIER)
    for i in far[np.argsort(-np.abs(units[far]))][:LISTED]:
        side = "above" if units[i] > 0 else "below"
        yield Note(
            code="outlier",
            severity="warning",
            message=f"run {table.run[i]} ({short(table.params[i])} on {short(table.tokens[i])}) "
            f"lies {abs(units[i]):.0f} noise units {side} the law: look at its loss curve, or "
            "run it again.",
        )
    if len(far) > LISTED:
        text = f"{len(far)} runs lie more than {OUTLIER:g} noise units off the law."
        yield Note(code="outliers", severity="warning", message=text)


def _trends(table: RunTable, fitted: Estimate) -> Iterator[Note]:
    """Note trends that the law leaves in the residuals, the clearest of each family."""
    log_n, log_d = np.log(table.params), np.log(table.tokens)
    sizes = {"ln N": log_n, "ln D": log_d, "ln C": np.log(table.flops), "ln(D/N)": log_d - log_n}
    kinds = (
        (
            "trend",
            sizes,
            "the runs do not exactly follow the law over this range. Fit a narrower range and "
            "compare: --where.",
        ),
        (
            "trend_shape",
            _shape(table),
            "the loss depends on more than size and length. Fit one aspect ratio at a time: "
            "--where.",
        ),
        (
            "trend_tuning",
            _tuning(table),
            "the loss depends on more than size and length. Keep the best run of each size and "
            "length, or fit one rule at a time: --where.",
        ),
    )
    for code, variables, advice in kinds:
        trends = ((_trend(v, fitted.residual), name) for name, v in variables.items())
        chance, name = min(trends, default=(1.0, ""))
        if chance < TREND:
            text = f"residuals bend with {name} (p = {chance:.1g}): {advice}"
            yield Note(code=code, severity="warning", message=text)


def _shape(table: RunTable) -> Mapping[str, Floats]:
    """The aspect ratio, where the runs have shapes."""
    if not {"width", "depth"} <= set(table.columns):
        return {}
    width, depth = table.column("width"), table.column("depth")
    positive = (width > 0).all() and (depth > 0).all()
    return {"ln(width/depth)": np.log(width / depth)} if positive else {}


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


def _interaction(fitted: Estimate) -> Iterator[Note]:
    """Note an interaction: larger models gain more, or less, from tokens than the law allows."""
    joint = fitted.problem.x * fitted.problem.z
    if _explained(np.stack([np.ones_like(joint), joint], axis=1), fitted.residual) < TREND:
        slope = float(np.polyfit(joint, fitted.residual, 1)[0])
        yield Note(
            code="interaction",
            severity="warning",
            message=f"larger models gain {'less' if slope > 0 else 'more'} from more tokens than a "
            "sum of two power laws allows: no single N* curve follows from these runs. Train "
            "longer, or larger models, until the note goes away.",
        )


def _trend(variable: Floats, residual: Floats) -> float:
    """Probability of a cubic trend at least this strong by chance (F test)."""
    if len(np.unique(variable.round(9))) < 5 or len(residual) < 12:
        return 1.0
    x = (variable - variable.mean()) / variable.std()
    return _explained(np.vander(x, 4), residual)


def _explained(design: Floats, residual: Floats) -> float:
    """Probability that columns, one of them constant, explain this much by chance (F test)."""
    fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    rest = float(((residual - fitted) ** 2).sum())
    all_ = float(((residual - residual.mean()) ** 2).sum())
    more = design.shape[1] - 1
    dof = len(residual) - 5 - more
    if dof < 2 or rest <= 0 or all_ - rest < LEAST_EXPLAINED * all_:
        return 1.0
    return f_tail(more, dof, (all_ - rest) / more / (rest / dof))


def _trajectories(table: RunTable, fitted: Estimate) -> Iterator[Note]:
    """Note rows that count as independent but look like checkpoints of one run."""
    if len(np.unique(table.cluster)) < len(table):
        return
    names = len(set(table.run))
    if names <= len(table) / 2:
        yield Note(
            code="trajectory",
            severity="serious",
            message=f"{len(table)} rows carry {count_noun(names, 'name')} of runs: checkpoints of "
            "one run share its errors and are not independent, so the intervals are too narrow. "
            "Say which rows belong together: --cluster run.",
        )
        return
    correlation, pairs = _neighbour_correlation(table, fitted.residual)
    if correlation > CORRELATED and correlation * pairs**0.5 > 3:
        yield Note(
            code="trajectory",
            severity="warning",
            message=f"residuals of one size are correlated along its lengths (correlation "
            f"{correlation:.2f}), as checkpoints of one run do. If they are, the intervals are too "
            "narrow: say which rows belong together, such as --cluster params.",
        )


def _neighbour_correlation(table: RunTable, residual: Floats) -> tuple[float, int]:
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
