"""Checks of the recipe from what every sweep stores: its training curves and its settings.

What to use when: `collapse` asks whether the recipe acts alike at every size, from the curves of
several sizes, and needs two seeds for its test; `cooldowns` and `transients` ask whether runs
end their cooldown, their warm-up and their first fast fall in time. `curve_checks` runs all three.
Whether residuals follow events of the schedule is asked without curves, in
`fit.inference.misspecification`.

Normalisation. Qiu et al. divide L(t) - L0 by L(T) - L0 and compare sizes at equal t/T along a
compute-optimal ladder, where the law's two terms keep their ratio. In a grid of sizes and lengths
the ratio varies, so sizes are compared at one length, and what is left to fall is

    L(t) - L(T) = f(t) (L(T) - c),    one c for the whole sweep.

The law's own terms say that the fall is the same at all sizes (c to minus infinity: the term of N
does not depend on t), Qiu et al. that it is proportional to the excess (c = E). On 20 curves of
5 sizes x 4 lengths neither holds (spread between sizes in the last 70% of a run: 3.2-6.4% and
2.2-3.2%), and c between them does (.4-1.7%), so c is estimated. The measured L(T) is the anchor, so
that an error of the fitted law is none of the curve.

Noise. Runs of one seed see the same batches whatever their size: the noise of batches is common to
the sizes of a seed and cancels in their differences, and between a branch and the trunk that it
left. What is left is estimated from seeds.

Source: Qiu et al. 2025, arXiv:2507.02119 (collapse); Draper & Smith 1998, sec. 2.1 (F tests).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fit.data.records import Floats, read_curve
from fit.data.schedule import whole_recipe
from fit.data.table import RunTable
from fit.estimation.solver import Estimate
from fit.inference.misspecification import Phase

WINDOWS = np.linspace(0.3, 1.0, 8)
"""Edges of the windows in t/T in which curves are compared: before, warm-ups differ by size."""
DRAWN = np.linspace(0.1, 1.0, 19)
"""Edges of the windows of the curves that a report shows, in t/T."""
OFFSETS = np.r_[0.0, np.geomspace(0.2, 30.0, 40)]
"""Values tried of 1/(mean final loss - c) [1/nat]; 0 is c at minus infinity."""
UNLIKELY = 0.01
LEAST_SIZES, LEAST_SEEDS = 3, 2
REMAINS = 0.25
"""Share of what a cooldown can gain that is still to be gained at its end: above, it is too short.
Cooldowns of 20% of .5-2M tokens have 1-12% left."""
TAUS = np.r_[0.0, np.geomspace(0.01, 10.0, 41)]
"""Times that the loss takes to follow the rate, as shares of the cooldown."""
LEAST_ROWS = 4
"""Windows of a cooldown that are needed to see how it ends."""
CERTAIN = 1e-3
ROUNDING = 1e-4
"""Relative error of positions in a stored curve, which have six digits."""
EARLY = 0.15
"""Share of a run that warm-up or the first fast fall may take: in the shipped recipe's runs of .5M
tokens and more the one takes up to 10%, the other 5%."""
STEEP = 1.0
"""Exponent of tokens above which the excess falls faster than any law of losses: published ones
lie between .2 and .6, runs of 5 sizes fall with .3-.6 from 5% of their tokens on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapse:
    """How closely normalised curves of different sizes agree, and how closely those of seeds do."""

    sizes: tuple[float, ...]
    """Sizes compared [parameters]."""
    seeds: int
    lengths: tuple[float, ...]
    """Lengths at which sizes are compared [tokens]; empty where each size has its own."""
    offset: float | None
    """c [nats/token]; None where the fall is the same at all sizes, c at minus infinity."""
    discrepancy: float
    """Root mean square of sizes about their mean curve, less what seeds explain [nats/token]."""
    noise: float | None
    """Standard deviation of one run's normalised curve, what a seed's runs share taken out
    [nats/token]; None without replicates."""
    probability: float | None
    """Of as large a discrepancy if the sizes share one curve."""
    farthest: float
    """Size that lies farthest off [parameters]."""
    without: float | None
    """Probability without that size; None where too few sizes are left."""

    @property
    def fails(self) -> bool:
        """Whether sizes differ by more than one run's noise, and not by chance."""
        return (
            self.probability is not None
            and self.noise is not None
            and self.probability < UNLIKELY
            and self.discrepancy > self.noise
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooling:
    """What the cooldowns of one length have gained over the trunk that they left."""

    tokens: float
    """Length of the runs."""
    runs: int
    cooldown: float
    """Share of the run."""
    lag: float
    """Time in which the loss follows the rate, over that of the cooldown."""
    gain: float
    """Fall of the loss below the trunk at the end [nats/token]."""
    left: float
    """Share of the possible gain that is still missing at the end."""
    probability: float
    """Of the same curve where the loss follows the rate at once."""

    @property
    def too_short(self) -> bool:
        """Whether much is left to gain, and not by chance."""
        return self.left > REMAINS and self.probability < CERTAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChecks:
    """What was measured of a sweep's recipe; None or empty where it could not be."""

    collapse: Collapse | None = None
    lines: tuple[Mapping[str, Any], ...] = ()
    """Normalised curves as a report shows them, the mean of a size's seeds: params, tokens, seeds,
    and the fall still to come in the windows between `DRAWN` [nats/token]."""
    cooldowns: tuple[Cooling, ...] = ()
    transients: tuple[Mapping[str, Any], ...] = ()
    """Runs that spend much of their tokens on warm-up or the first fast fall."""


def curve_checks(table: RunTable, fitted: Estimate) -> CurveChecks:
    """Check the recipe of a sweep, from its curves where there are any and from its settings.

    Args:
        table: The runs; curves are read from `table.folders`, and without those none is needed.
        fitted: The law fitted to them.
    """
    read = {i: read_curve(folder) for i, folder in enumerate(table.folders) if folder}
    curves = {i: curve for i, curve in read.items() if curve is not None}
    if not curves:
        return CurveChecks()
    found = collapse(table, curves)
    floor = fitted.raw[0] if fitted.family.free == 5 else 0.0
    if table.data is not None and table.data.entropy is not None:
        floor = table.data.entropy
    return CurveChecks(
        collapse=found,
        lines=() if found is None else tuple(normalised_lines(table, curves, found)),
        cooldowns=cooldowns(table, curves),
        transients=transients(table, curves, float(floor)),
    )


def window_means(curve: Floats, edges: Floats) -> Floats:
    """Mean training loss between positions, (windows,); NaN beyond the curve.

    Args:
        curve: (rows, 4), see `read_curve`; a row is the mean since the row before.
        edges: Positions, ascending, (windows + 1,) [tokens].
    """
    ends = np.r_[0.0, curve[:, 0]]
    edges = np.where(edges <= (1 + ROUNDING) * ends[-1], np.minimum(edges, ends[-1]), edges)
    total = np.r_[0.0, np.cumsum(curve[:, 1] * np.diff(ends))]
    inside = np.interp(edges, ends, total, left=np.nan, right=np.nan)
    return np.asarray(np.diff(inside) / np.diff(edges))


def collapse(table: RunTable, curves: Mapping[int, Floats]) -> Collapse | None:
    """Compare normalised curves between sizes, and with the noise between seeds.

    Sizes and seeds are the two ways of an analysis of variance; a unit, the curves of one size and
    seed at all lengths, is one vector. F is a ratio of sums over the windows with the degrees of
    freedom of one number (Geisser & Greenhouse 1958, lower bound): however windows and lengths of
    a trunk are correlated, false alarms are at most the level. An offset chosen to make the sizes
    agree makes them fewer still.

    Args:
        table: The runs.
        curves: Training curves, (rows, 4), by the row of the table.

    Returns:
        None with fewer than three sizes that have curves of a common length.
    """
    units, lengths = _units(table, curves)
    sizes = sorted({size for size, _ in units})
    if len(sizes) < LEAST_SIZES:
        return None
    keys = sorted(units)
    falls, final = [], []
    for key in keys:
        rows = units[key]
        means = [window_means(curves[i], WINDOWS * table.tokens[i]) for i in rows]
        falls.append([mean - table.loss[i] for mean, i in zip(means, rows, strict=True)])
        final.append([table.loss[i] for i in rows])
    fall, last = np.array(falls), np.array(final)  # (units, lengths, windows), (units, lengths)
    if not np.isfinite(fall).all():
        return None
    codes = np.array([(sizes.index(size), seed) for size, seed in keys])
    best: tuple[float, float] | None = None
    for inverse in OFFSETS:
        if (1 + inverse * (last - last.mean(0)) <= 0.05).any():
            break
        between = _between(_scaled(fall, last, inverse), codes[:, 0])
        if best is None or between < best[0]:
            best = between, float(inverse)
    assert best is not None
    inverse = best[1]
    flat = _scaled(fall, last, inverse).reshape(len(keys), -1)
    result = _two_way(flat, codes)
    off = np.array([_off(flat, codes, k) for k in range(len(sizes))])
    worst = int(np.argmax(off))
    rest = codes[:, 0] != worst
    without = _two_way(flat[rest], codes[rest]) if len(sizes) > LEAST_SIZES else None
    return Collapse(
        sizes=tuple(
            float(table.params[units[keys[int(np.argmax(codes[:, 0] == k))]][0]])
            for k in range(len(sizes))
        ),
        seeds=len(set(codes[:, 1])),
        lengths=lengths,
        offset=None if inverse == 0 else float(last.mean() - 1 / inverse),
        discrepancy=result[0],
        noise=result[1],
        probability=result[2],
        farthest=float(table.params[units[keys[int(np.argmax(codes[:, 0] == worst))]][0]]),
        without=None if without is None else without[2],
    )


def _scaled(fall: Floats, last: Floats, inverse: float) -> Floats:
    """Falls as those of a run of mean final loss, (units, lengths, windows) [nats/token]."""
    return np.asarray(fall / (1 + inverse * (last - last.mean(0)))[..., None])


def _between(scaled: Floats, size: NDArray[np.int64]) -> float:
    """Variance of the sizes' mean curves over that of their common curve's own fall."""
    means = np.array([scaled[size == k].mean(0) for k in np.unique(size)])
    return float(((means - means.mean(0)) ** 2).sum() / (means.mean(0) ** 2).sum())


def _off(flat: Floats, codes: NDArray[np.int64], which: int) -> float:
    """Squared distance of one size's curves from the mean of the others, of the seeds it has."""
    mine, others = codes[:, 0] == which, codes[:, 0] != which
    gaps = [
        flat[mine & (codes[:, 1] == s)].mean(0) - flat[others & (codes[:, 1] == s)].mean(0)
        for s in np.unique(codes[mine, 1])
        if (others & (codes[:, 1] == s)).any()
    ]
    return float((np.mean(gaps, axis=0) ** 2).sum()) if gaps else 0.0


def _two_way(flat: Floats, codes: NDArray[np.int64]) -> tuple[float, float | None, float | None]:
    """Discrepancy between sizes, noise of a run, and the probability of the F, by least squares.

    Args:
        flat: (units, numbers).
        codes: (units, 2): size and seed of each.
    """
    seed = (codes[:, 1, None] == np.unique(codes[:, 1])).astype(np.float64)
    size = (codes[:, 0, None] == np.unique(codes[:, 0])).astype(np.float64)
    null, squares_null = _residual(seed, flat)
    full, squares = _residual(np.column_stack([seed, size]), flat)
    more = null - full
    between = max(squares_null - squares, 0.0) / max(more, 1) / flat.shape[1]
    units = len(flat) / size.shape[1]  # mean number of seeds of a size
    if full < 1:
        return float(np.sqrt(between / units)), None, None
    noise = squares / full / flat.shape[1]
    statistic = between / max(noise, 1e-300)
    discrepancy = float(np.sqrt(max(between - noise, 0.0) / units))
    return discrepancy, float(np.sqrt(noise)), float(stats.f.sf(statistic, more, full))


def _residual(design: Floats, values: Floats) -> tuple[int, float]:
    """Degrees of freedom and sum of squares that a design leaves."""
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return len(values) - int(rank), float(((values - design @ solution) ** 2).sum())


def _units(
    table: RunTable, curves: Mapping[int, Floats]
) -> tuple[dict[tuple[tuple[float, ...], int], list[int]], tuple[float, ...]]:
    """Rows of the table by size and seed, one for each of the lengths that they share.

    The lengths are those that leave most degrees of freedom; where sizes have no length in common,
    as in a ladder, a unit is its longest run, and curves meet at equal t/T alone.
    """
    names = [c for c in ("width", "depth") if c in table.columns]
    shape = np.column_stack([table.params, *(table.column(c) for c in names)])
    seeds = table.column("seed") if "seed" in table.columns else np.zeros(len(table))
    runs: dict[tuple[tuple[float, ...], int], dict[float, int]] = {}
    for i in sorted(curves, key=lambda i: -table.loss[i]):  # of several the one of least loss stays
        key = tuple(float(v) for v in shape[i]), int(seeds[i])
        runs.setdefault(key, {})[float(table.tokens[i])] = i
    count: dict[float, int] = {}
    for lengths in runs.values():
        for length in lengths:
            count[length] = count.get(length, 0) + 1
    ranked = sorted(count, key=lambda d: (-count[d], d))
    best: tuple[int, int, list[float]] = (0, 0, [])
    for k in range(1, len(ranked) + 1):
        have = [key for key, lengths in runs.items() if set(ranked[:k]) <= lengths.keys()]
        sizes, runs_of = {s for s, _ in have}, {s for _, s in have}
        if len(sizes) >= LEAST_SIZES:
            free = len(have) - len(sizes) - len(runs_of) + 1
            best = max(best, (free, k, sorted(ranked[:k])))
    if not best[2]:
        return {key: [lengths[max(lengths)]] for key, lengths in runs.items()}, ()
    chosen = best[2]
    units = {
        key: [lengths[d] for d in chosen]
        for key, lengths in runs.items()
        if set(chosen) <= lengths.keys()
    }
    return units, tuple(chosen)


def normalised_lines(
    table: RunTable, curves: Mapping[int, Floats], found: Collapse
) -> Iterator[Mapping[str, Any]]:
    """The normalised curves of a collapse, the mean over the seeds of each size and length."""
    units, lengths = _units(table, curves)
    rows: dict[tuple[tuple[float, ...], int], list[int]] = {}
    for (size, _), members in sorted(units.items()):
        for place, i in enumerate(members):
            rows.setdefault((size, place), []).append(i)
    for place in range(max(1, len(lengths))):
        group = {size: members for (size, at), members in rows.items() if at == place}
        last = float(np.mean([table.loss[i] for members in group.values() for i in members]))
        for size, members in group.items():
            falls = []
            for i in members:
                fall = window_means(curves[i], DRAWN * table.tokens[i]) - table.loss[i]
                if found.offset is not None:
                    fall = fall * (last - found.offset) / (table.loss[i] - found.offset)
                falls.append(fall)
            mean = np.mean(falls, axis=0)
            if np.isfinite(mean).all():
                yield {
                    "params": size[0],
                    "tokens": float(table.tokens[members[0]]),
                    "seeds": len(members),
                    "fall": [round(float(v), 6) for v in mean],
                }


def cooldowns(table: RunTable, curves: Mapping[int, Floats]) -> tuple[Cooling, ...]:
    """How far cooldowns come, by length, from branches and the longer runs of their trunks.

    Over its cooldown a branch and the trunk see the same batches, so that the difference of their
    training losses is the gain of the cooldown without the noise of batches. It is compared with
    gain = c (1 - h), where h follows the rate r with a lag, h' = (r - h) / lag, and both start
    at 1: what h is at the end has not been gained yet.
    """
    gains: dict[tuple[float, float, str], list[Floats]] = {}
    units: dict[tuple[float, ...], list[int]] = {}
    seeds = table.column("seed") if "seed" in table.columns else np.zeros(len(table))
    for i in curves:
        units.setdefault((float(table.params[i]), float(seeds[i])), []).append(i)
    for rows in units.values():
        for i in rows:
            share, shape = _cooldown_of(table, i)
            start = (1 - share) * table.tokens[i]
            for j in rows if share else ():
                if start_of(table, j) >= table.tokens[i] and _same_trunk(curves, i, j, start):
                    above = _gain(curves[i], curves[j], start, float(table.tokens[i]))
                    if above is not None:
                        gains.setdefault((float(table.tokens[i]), share, shape), []).append(above)
                    break
    out = []
    for (tokens, share, shape), values in sorted(gains.items()):
        fewest = min(map(len, values))
        mean = np.mean([v for v in values if len(v) == fewest], axis=0)
        cooling = _lag(mean, shape)
        if cooling is not None:
            lag, gain, left, probability = cooling
            out.append(
                Cooling(
                    tokens=tokens,
                    runs=len(values),
                    cooldown=share,
                    lag=lag,
                    gain=gain,
                    left=left,
                    probability=probability,
                )
            )
    return tuple(out)


def _cooldown_of(table: RunTable, row: int) -> tuple[float, str]:
    """Share and shape of a run's cooldown; 0 where it has none."""
    recipe = whole_recipe(table.recipes[row]) if table.recipes else {}
    if recipe.get("train.schedule") != "wsd":
        return 0.0, ""
    return float(recipe.get("train.cooldown") or 0.0), str(recipe["train.cooldown_shape"])


def start_of(table: RunTable, row: int) -> float:
    """Tokens at which the cooldown of a run begins; its end where there is none."""
    return float((1 - _cooldown_of(table, row)[0]) * table.tokens[row])


def _same_trunk(curves: Mapping[int, Floats], one: int, other: int, start: float) -> bool:
    """Whether two curves are one up to a position, but for the row that the branch ends early."""
    a, b = (curves[k][curves[k][:, 0] < 0.98 * start, :2] for k in (one, other))
    return len(a) == len(b) > 0 and bool(np.allclose(a, b, rtol=1e-4))


def _gain(branch: Floats, trunk: Floats, start: float, end: float) -> Floats | None:
    """Gain over the trunk in equal windows of a cooldown, (8 or fewer,); None where it is short."""
    widths = np.diff(branch[:, 0], prepend=0.0)
    typical = float(np.median(widths))
    last = branch[-1, 0] if widths[-1] > typical / 2 else branch[-2, 0]
    count = min(8, int((last - start) / typical))  # a row cut short would be compared with a whole
    if count < LEAST_ROWS or trunk[-1, 0] < last or last < 0.9 * end:
        return None
    edges: Floats = np.linspace(start, last, count + 1)
    return window_means(trunk, edges) - window_means(branch, edges)


def _lag(gain: Floats, shape: str) -> tuple[float, float, float, float] | None:
    """Lag, gain at the end, share left and probability without a lag, by least squares."""
    done = (np.arange(800) + 0.5) / 800
    rate = 1 - (done if shape == "linear" else np.sqrt(done))
    follows = np.ones((len(done), len(TAUS)))
    kept = np.exp(-1 / len(done) / np.maximum(TAUS, 1e-9))
    state = np.ones(len(TAUS))
    for k, value in enumerate(rate):
        state = value + (state - value) * kept
        follows[k] = state
    windows = np.array_split(1 - follows, len(gain))
    model = np.array([w.mean(0) for w in windows])  # (windows, lags)
    scale = (gain @ model) / (model**2).sum(0)
    squares = ((gain[:, None] - scale * model) ** 2).sum(0)
    best = int(np.argmin(squares))
    if scale[best] <= 0 or gain.mean() <= 0:
        return None
    free = len(gain) - 2
    statistic = (squares[0] - squares[best]) / max(squares[best] / free, 1e-300)
    left = float(follows[-1, best])
    probability = float(stats.f.sf(max(statistic, 0.0), 1, free))
    return float(TAUS[best]), float(scale[best] * (1 - left)), left, probability


def transients(
    table: RunTable, curves: Mapping[int, Floats], floor: float
) -> tuple[Mapping[str, Any], ...]:
    """Runs that spend more than `EARLY` of their tokens on warm-up or on the first fast fall.

    The first fast fall lasts as long as the excess falls faster than with the inverse of tokens
    from one octave of the trunk to the next; no law of losses falls so fast.

    Args:
        table: The runs.
        curves: Training curves by the row of the table.
        floor: Irreducible loss, of which the excess is taken [nats/token].
    """
    out = []
    for i, curve in curves.items():
        tokens = float(table.tokens[i])
        top = int(np.argmax(curve[:, 2] >= 0.98 * curve[:, 2].max()))
        warmup = float(curve[top - 1, 0]) / tokens if top else 0.0  # over at the row before at most
        trunk = start_of(table, i)
        edges: Floats = np.asarray(trunk * 2.0 ** np.arange(-5, 1))
        excess = window_means(curve, edges) - floor
        with np.errstate(invalid="ignore", divide="ignore"):
            slopes = np.log2(excess[:-1] / excess[1:])
        steep = np.flatnonzero(slopes > STEEP)
        fast = float(edges[1 + steep[-1]]) / tokens if len(steep) else 0.0
        if max(warmup, fast) > EARLY:
            out.append({"run": table.run[i], "warmup": warmup, "fast_fall": fast})
    return tuple(sorted(out, key=lambda t: -max(t["warmup"], t["fast_fall"])))


def curves_document(checks: CurveChecks, phase: Phase | None) -> dict[str, Any]:
    """What was measured, for the document of a fit; empty where nothing could be."""
    out: dict[str, Any] = {}
    if checks.collapse is not None:
        out["collapse"] = dataclasses.asdict(checks.collapse)
        out["windows"] = DRAWN.tolist()
        out["lines"] = [dict(line) for line in checks.lines]
    if checks.cooldowns:
        out["cooldowns"] = [dataclasses.asdict(c) for c in checks.cooldowns]
    if checks.transients:
        out["transients"] = [dict(t) for t in checks.transients]
    if phase is not None:
        kept = ("event", "effect", "error", "statistic", "probability", "runs")
        out["phase"] = {name: getattr(phase, name) for name in kept}
    return out
