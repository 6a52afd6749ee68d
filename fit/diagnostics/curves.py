"""Checks of the recipe from what every sweep stores: its training curves and its settings.

What to use when: `collapse` asks whether the recipe acts alike at every size, and needs two seeds
for its test; `cooldowns` and `transients` ask whether runs end their cooldown, their warm-up and
their first fast fall in time. `curve_checks` runs all three. Whether residuals follow events of the
schedule is asked without curves, in `fit.inference.misspecification`.

Normalisation. Qiu et al. divide L(t) - L0 by L(T) - L0 and compare sizes at equal t/T along a
compute-optimal ladder, where the law's two terms keep their ratio. In a grid of sizes and lengths
the ratio varies, so sizes are compared at one length, and not the loss but its fall, before and
after the end of the trunk at t1, each with an offset that is one for the whole sweep:

    L(t) - L(t1) = f(t) (L(T) - c),    c = c1 for t < t1, c2 for t > t1.

The law's own terms say that the fall is the same at all sizes (c to minus infinity: the term of N
does not depend on t), Qiu et al. that it is proportional to the excess (c = E). On 20 curves of
5 sizes x 4 lengths neither holds for all of a run: from 35 to 75% of 4M tokens the largest of 9
times the parameters falls by .76 of the smallest, in the cooldown by .55, where the excess has
.56. So c1 and c2 are estimated; what a badly scaled recipe bends beyond that is found.

Noise. Runs of one seed see the same batches whatever their size: the noise of batches is common to
the sizes of a seed and cancels in their differences, and between a branch and the trunk that it
left. What is left is estimated from seeds.

Source: Qiu et al. 2025, arXiv:2507.02119 (collapse); Draper & Smith 1998, sec. 2.1 (F tests).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.records import Floats, read_curve, window_means
from fit.data.schedule import whole_recipe
from fit.data.table import RunTable
from fit.estimation.solver import Estimate
from fit.inference.misspecification import Phase
from fit.inference.resampling import f_tail

FIRST, FIRST_DRAWN = 0.3, 0.1
"""Share of a run from which curves are compared, as warm-ups differ by size, and shown."""
TRUNK_WINDOWS, COOLDOWN_WINDOWS = 6, 4
DRAWN_TIMES = 2
"""Windows of a curve that is shown over those compared."""
OFFSETS = np.geomspace(0.2, 50.0, 40)
"""Values tried of 1/(mean final loss - c) [1/nat], besides 0, c at minus infinity."""
UNLIKELY = 0.05
"""Of the collapse's F, which errs to the safe side: .3-1.7% of 900 simulated sweeps come below."""
LEAST_SIZES = 3
REMAINS = 0.25
"""Share of what a cooldown can gain that is still to be gained at its end: above, it is too short.
Cooldowns of 20% of .5-2M tokens have 1-12% left."""
TAUS = np.r_[0.0, np.geomspace(0.01, 10.0, 41)]
"""Times that the loss takes to follow the rate, as shares of the cooldown."""
LEAST_ROWS = 4  # windows of a cooldown that are needed to see how it ends
CERTAIN = 0.01
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
    offsets: tuple[float | None, float | None]
    """c1 of the trunk, c2 of the cooldown [nats/token], without the farthest size where the test
    fails; None: the fall is the same at all sizes, c at minus infinity, or there is no cooldown."""
    cooldown: float
    """Share of the runs' cooldown."""
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
    """Normalised curves as a report shows them, the mean of a size's seeds: params, tokens, share
    (t/T) and fall (L(t) - L(t1), scaled [nats/token])."""
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
    names = fitted.problem.names
    floor = fitted.raw[names.index("E")] if "E" in names else 0.0
    if table.data is not None and table.data.entropy is not None:
        floor = table.data.entropy
    return CurveChecks(
        collapse=found,
        lines=() if found is None else normalised_lines(table, curves, found),
        cooldowns=cooldowns(table, curves),
        transients=transients(table, curves, float(floor)),
    )


def collapse(table: RunTable, curves: Mapping[int, Floats]) -> Collapse | None:
    """Compare normalised curves between sizes, and with the noise between seeds.

    Sizes and seeds are the two ways of an analysis of variance; a unit, the curves of one size and
    seed at all lengths, is one vector. F is a ratio of sums over the windows; its degrees of
    freedom are those of one number times the independent numbers that a curve is worth (Box 1954).
    On simulated sweeps whose sizes share one curve false alarms are below the level (tests).

    Args:
        table: The runs.
        curves: Training curves, (rows, 4), by the row of the table.

    Returns:
        None with fewer than three sizes that have curves of a common length.
    """
    units, lengths, share = _units(table, curves)
    sizes = sorted({size for size, _ in units})
    if len(sizes) < LEAST_SIZES:
        return None
    keys, rows = sorted(units), np.array([units[key] for key in sorted(units)])
    fall, trunk = _falls(table, curves, rows, _edges(share, FIRST), share)
    last, codes = table.loss[rows], np.array([(sizes.index(size), seed) for size, seed in keys])
    if not np.isfinite(fall).all():
        return None
    offsets, (discrepancy, noise, probability) = _compare(fall, trunk, last, codes)
    left_out = []
    for k in range(len(sizes)):  # offsets bend to one size that is off: they are estimated anew
        rest = codes[:, 0] != k
        bent, (d, _, p) = _compare(fall[rest], trunk, last[rest], codes[rest])
        left_out.append((p or 0.0, -d, k, bent))
    without, _, worst, bent = max(left_out, key=lambda found: found[:2])
    if probability is not None and probability < UNLIKELY and without > probability:
        offsets = bent  # those of the sizes that agree
    return Collapse(
        sizes=tuple(size[0] for size in sizes),
        seeds=len(set(codes[:, 1])),
        lengths=lengths,
        offsets=offsets,
        cooldown=share,
        discrepancy=discrepancy,
        noise=noise,
        probability=probability,
        farthest=sizes[worst][0],
        without=None if probability is None or len(sizes) == LEAST_SIZES else without,
    )


def _compare(
    fall: Floats, trunk: NDArray[np.bool_], last: Floats, codes: NDArray[np.int64]
) -> tuple[tuple[float | None, float | None], tuple[float, float | None, float | None]]:
    """Offsets at which the sizes agree best, and what `_two_way` finds there."""
    cooled = fall[..., ~trunk]
    offsets = (
        _best_offset(fall[..., trunk], last, codes[:, 0]),
        _best_offset(cooled, last, codes[:, 0]) if cooled.size else None,
    )
    flat = _scaled(fall, trunk, last, offsets).reshape(len(codes), -1)
    return offsets, _two_way(flat, codes)


def _edges(share: float, first: float, times: int = 1) -> Floats:
    """Edges in t/T of the windows of the trunk, and of the cooldown after it."""
    trunk = np.linspace(first, 1 - share, times * TRUNK_WINDOWS + 1)
    if not share:
        return np.asarray(trunk)
    return np.concatenate([trunk, np.linspace(1 - share, 1, times * COOLDOWN_WINDOWS + 1)[1:]])


def _falls(
    table: RunTable,
    curves: Mapping[int, Floats],
    rows: NDArray[np.int64],
    edges: Floats,
    share: float,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Loss in windows less that at the end of the trunk, (..., windows), and which are trunk's."""
    means = np.array(
        [window_means(curves[i], edges * table.tokens[i]) for i in rows.ravel().tolist()]
    )
    trunk = edges[1:] <= 1 - share + 1e-9
    end = means[:, trunk][:, -1:]
    # the last window of the trunk is the anchor: 0 by itself, and not compared
    return (means - end).reshape(*rows.shape, -1), np.asarray(trunk)


def _factor(last: Floats, offset: float | None) -> Floats:
    """(mean L(T) - c) / (L(T) - c), (units, lengths): falls become those of the mean final loss."""
    return np.asarray(
        1.0 + 0 * last if offset is None else (last.mean(0) - offset) / (last - offset)
    )


def _scaled(
    fall: Floats,
    trunk: NDArray[np.bool_],
    last: Floats,
    offsets: tuple[float | None, float | None],
) -> Floats:
    """Normalised falls, (units, lengths, windows) [nats/token]."""
    one, two = (_factor(last, c)[..., None] for c in offsets)
    return np.asarray(fall * np.where(trunk, one, two))


def _best_offset(fall: Floats, last: Floats, size: NDArray[np.int64]) -> float | None:
    """The offset at which the sizes' falls agree best; None is minus infinity."""
    tried: list[float | None] = [None, *(float(last.mean() - 1 / k) for k in OFFSETS)]
    # where an offset comes near a loss, the quotient is noise
    tried = [c for c in tried if c is None or last.min() - c > 0.2 * (last.mean() - c)]
    costs = []
    for c in tried:
        scaled = fall * _factor(last, c)[..., None]
        means = np.array([scaled[size == k].mean(0) for k in np.unique(size)])
        costs.append(((means - means.mean(0)) ** 2).sum() / max((means.mean(0) ** 2).sum(), 1e-300))
    return tried[int(np.argmin(costs))]


def _two_way(flat: Floats, codes: NDArray[np.int64]) -> tuple[float, float | None, float | None]:
    """Discrepancy between sizes, noise of a run, and the probability of the F, by least squares.

    Args:
        flat: (units, numbers).
        codes: (units, 2): size and seed of each.
    """
    seed = (codes[:, 1, None] == np.unique(codes[:, 1])).astype(np.float64)
    size = (codes[:, 0, None] == np.unique(codes[:, 0])).astype(np.float64)
    null, alone = _residual(seed, flat)
    full, rest = _residual(np.column_stack([seed, size]), flat)
    squares, more = float((rest**2).sum()), null - full
    between = max(float((alone**2).sum()) - squares, 0.0) / max(more, 1) / flat.shape[1]
    units = len(flat) / size.shape[1]  # mean number of seeds of a size
    if full < 1:
        return float(np.sqrt(between / units)), None, None
    noise = squares / full / flat.shape[1]
    statistic = between / max(noise, 1e-300)
    dims = _dimensions(rest, full)
    probability = f_tail(more * dims, full * dims, statistic)
    return float(np.sqrt(max(between - noise, 0.0) / units)), float(np.sqrt(noise)), probability


def _residual(design: Floats, values: Floats) -> tuple[int, Floats]:
    """Degrees of freedom and residuals that a design leaves."""
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return len(values) - int(rank), np.asarray(values - design @ solution)


def _dimensions(rest: Floats, free: float) -> float:
    """How many independent numbers a residual curve is worth: (tr S)^2 / tr S^2.

    Estimated from few curves it is too small, at most `free`: the test errs to the safe side.
    """
    gram = rest @ rest.T
    return float(np.clip(np.trace(gram) ** 2 / max((gram**2).sum(), 1e-300), 1.0, max(free, 1.0)))


def _units(
    table: RunTable, curves: Mapping[int, Floats]
) -> tuple[dict[tuple[tuple[float, ...], int], list[int]], tuple[float, ...], float]:
    """Rows of the table by size and seed, one per length that they share; lengths; cooldown.

    Runs of the most common share of the cooldown are taken. The lengths are those that leave most
    degrees of freedom; where sizes have no length in common, as in a ladder, a unit is its longest
    run, and curves meet at equal t/T alone.
    """
    names = [c for c in ("width", "depth") if c in table.columns]
    shape = np.column_stack([table.params, *(table.column(c) for c in names)])
    seeds = table.column("seed") if "seed" in table.columns else np.zeros(len(table))
    runs: dict[tuple[tuple[float, ...], int], dict[float, int]] = {}
    shares = [_cooldown_of(table, i)[0] for i in curves]
    share = max(sorted(set(shares)), key=shares.count)
    curves = {i: c for (i, c), own in zip(curves.items(), shares, strict=True) if own == share}
    for i in sorted(curves, key=lambda i: -table.loss[i]):  # of several the one of least loss stays
        key = tuple(float(v) for v in shape[i]), int(seeds[i])
        runs.setdefault(key, {})[float(table.tokens[i])] = i
    every = [length for lengths in runs.values() for length in lengths]
    ranked = sorted(set(every), key=lambda d: (-every.count(d), d))
    best: tuple[int, int, list[float]] = (0, 0, [])
    for k in range(1, len(ranked) + 1):
        have = [key for key, lengths in runs.items() if set(ranked[:k]) <= lengths.keys()]
        sizes, runs_of = {s for s, _ in have}, {s for _, s in have}
        if len(sizes) >= LEAST_SIZES:
            free = len(have) - len(sizes) - len(runs_of) + 1
            best = max(best, (free, k, sorted(ranked[:k])))
    if not best[2]:
        return {key: [lengths[max(lengths)]] for key, lengths in runs.items()}, (), share
    full = {key: lengths for key, lengths in runs.items() if set(best[2]) <= lengths.keys()}
    return {k: [lengths[d] for d in best[2]] for k, lengths in full.items()}, tuple(best[2]), share


def normalised_lines(
    table: RunTable, curves: Mapping[int, Floats], found: Collapse
) -> tuple[Mapping[str, Any], ...]:
    """The normalised curves of a collapse, the mean over the seeds of each size and length."""
    units, _, share = _units(table, curves)
    sizes = sorted({size for size, _ in units})
    common = set.intersection(*({s for n, s in units if n == size} for size in sizes))
    # batches differ between seeds: sizes are drawn over the same ones where they have them
    keys = sorted(k for k in units if k[1] in common or not common)
    rows = np.array([units[key] for key in keys])
    edges = _edges(share, FIRST_DRAWN, DRAWN_TIMES)
    middles = ((edges[1:] + edges[:-1]) / 2).round(4).tolist()
    fall, trunk = _falls(table, curves, rows, edges, share)
    scaled = _scaled(fall, trunk, table.loss[rows], found.offsets)
    out = []
    for size in sizes:
        mine = np.array([key[0] == size for key in keys])
        for place, mean in enumerate(scaled[mine].mean(0)):
            if np.isfinite(mean).all():
                line = {"params": size[0], "tokens": float(table.tokens[rows[mine][0, place]])}
                out.append({**line, "share": middles, "fall": mean.round(6).tolist()})
    return tuple(out)


def cooldowns(table: RunTable, curves: Mapping[int, Floats]) -> tuple[Cooling, ...]:
    """How far cooldowns come, by length, from branches and the longer runs of their trunks.

    Over its cooldown a branch and the trunk see the same batches, so that the difference of their
    training losses is the gain of the cooldown without the noise of batches. It is compared with
    gain = c (1 - h), where h follows the rate r with a lag, h' = (r - h) / lag, and both start
    at 1: what h is at the end has not been gained yet.
    """
    gains: dict[tuple[float, float, str], list[Floats]] = {}
    for i in curves:
        share, shape = _cooldown_of(table, i)
        start = (1 - share) * table.tokens[i]
        for j in np.flatnonzero(table.params == table.params[i]).tolist() if share else ():
            if j in curves and start_of(table, j) >= table.tokens[i]:
                if _same_trunk(curves[i], curves[j], start):
                    above = _gain(curves[i], curves[j], start, float(table.tokens[i]))
                    if above is not None:
                        gains.setdefault((float(table.tokens[i]), share, shape), []).append(above)
                    break
    return tuple(filter(None, (_lag(*key, values) for key, values in sorted(gains.items()))))


def _cooldown_of(table: RunTable, row: int) -> tuple[float, str]:
    """Share and shape of a run's cooldown; 0 where it has none."""
    recipe = whole_recipe(table.recipes[row]) if table.recipes else {}
    if recipe.get("train.schedule") != "wsd":
        return 0.0, ""
    return float(recipe.get("train.cooldown") or 0.0), str(recipe["train.cooldown_shape"])


def start_of(table: RunTable, row: int) -> float:
    """Tokens at which the cooldown of a run begins; its end where there is none."""
    return float((1 - _cooldown_of(table, row)[0]) * table.tokens[row])


def _same_trunk(one: Floats, other: Floats, start: float) -> bool:
    """Whether two curves are one up to a position, but for the row that the branch ends early."""
    a, b = (curve[curve[:, 0] < 0.98 * start, :2] for curve in (one, other))
    return len(a) == len(b) > 0 and bool(np.allclose(a, b, rtol=1e-4))


def _gain(branch: Floats, trunk: Floats, start: float, end: float) -> Floats | None:
    """Gain over the trunk in equal windows of a cooldown, (8 or fewer,); None where it is short."""
    widths = np.diff(branch[:, 0], prepend=0.0)
    typical = float(np.median(widths[branch[:, 0] > start]))
    last = branch[-1, 0] if widths[-1] > typical / 2 else branch[-2, 0]
    count = min(8, int((last - start) / typical))  # a row cut short would be compared with a whole
    if count < LEAST_ROWS or trunk[-1, 0] < last or last < 0.9 * end:
        return None
    edges: Floats = np.linspace(start, last, count + 1)
    return window_means(trunk, edges) - window_means(branch, edges)


def _lag(tokens: float, share: float, shape: str, gains: list[Floats]) -> Cooling | None:
    """Fit the lag to the mean gain of runs of one length by least squares; None without a gain."""
    gain = np.mean([g for g in gains if len(g) == min(map(len, gains))], axis=0)
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
    free, left = len(gain) - 2, float(follows[-1, best])
    statistic = max(squares[0] - squares[best], 0.0) / max(squares[best] / free, 1e-300)
    return Cooling(
        tokens=tokens,
        runs=len(gains),
        cooldown=share,
        lag=float(TAUS[best]),
        gain=float(scale[best] * (1 - left)),
        left=left,
        probability=f_tail(1, free, statistic),
    )


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
    """What was measured, for the document of a fit; without what could not be."""
    whole: dict[str, Any] = dataclasses.asdict(checks)
    if phase is not None:
        kept = ("event", "effect", "error", "statistic", "probability", "met")
        whole["phase"] = {name: getattr(phase, name) for name in kept}
    return {key: value for key, value in whole.items() if value}
