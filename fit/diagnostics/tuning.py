"""Joint law of the best learning rate, batch or other recipe number over N, D and depth.

All scans of `fit.diagnostics.scans` are fitted at once. In cell i the loss at a setting with
logarithm x is

    m_i + k_i g(x - x*_i),  g(z) = 2 (exp(sz) - 1 - sz) / s^2,  ln x* = c + p ln N + q ln D + ...

with a level m of each cell and seed, a curvature k that is a power law of N and D, and one skew s
for all: near 0, g is a parabola, and for s > 0 it rises faster above the optimum. A joint
regression pools the noise of all runs, and a scan whose best value is the last one tried still
bears on the law; a regression of separate vertices does neither. A second fit with a free optimum
in each cell tests the law (F test), and where it is rejected its errors are widened by it.

Settings are in the rule's unit, the one of `train.lr` or `train.batch_tokens`. If the rule is
right, the best setting is the same in every cell: p = q = 0 there, and the rule's own exponents
are added for display. Intervals hold 90% and come from Student draws of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fit.data.records import Floats
from fit.data.table import RunTable
from fit.diagnostics.scans import (
    LAWS,
    LEVEL,
    JointProblem,
    JointSolution,
    ScannedSetting,
    SettingScan,
    ValueRange,
    find_scans,
    loss_rise,
    rise_reaches,
    value_range,
)
from fit.errors import FitError
from fit.quantities import short
from fit.verdict import Note

CHANCE = 0.01
"""Level of the test that a rule's exponent is wrong, for the note `tuning`."""
LACK = 0.05
"""Level below which the optima's scatter about their law widens its errors."""
MOST_SCANS = 200
"""Scans fitted at once: about a second."""
SAFE = 0.002
"""Share of the loss that mis-tuning may cost."""
WORTH_A_NOTE = 0.0005
"""Share of the loss below which mis-tuning in the scanned range gets no note."""
HORIZONS = ((1, 10), (1, 100), (10, 1), (10, 10), (10, 100))
"""Times the largest size and times the longest run at which a rule is judged."""
MORE_TOKENS = 1.2
"""Tokens of the critical batch over those of the best: Zhang et al. 2024, arXiv:2410.21676."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimumExponent:
    """How the best value moves with one quantity, in physical units."""

    name: str
    """`params`, `tokens`, `depth` or a recipe number."""
    exponent: ValueRange
    rule: float
    """The rule's own exponent over the scanned cells."""
    chance: float
    """p of the test that the two are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedCell:
    """The rule's setting against the best of one scan, with curvature and skew pooled."""

    best: ValueRange
    """Best setting."""
    bend: float
    """Half of the second derivative of the loss in ln(setting) [nats]."""
    loss: float
    """Least loss [nats/token]."""
    excess: ValueRange
    """What the rule's setting costs [nats/token]: never negative, so biased up by noise."""
    critical_batch: ValueRange | None = None
    """Batch setting that needs 20% more tokens than the best for one loss, where lengths differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonCheck:
    """The rule at a larger size and a longer run, by extrapolation of the law."""

    times_params: int
    times_tokens: int
    off: ValueRange
    """ln of the rule's setting over the best one."""
    cost: ValueRange
    """[nats/token]."""
    verdict: str
    """`safe`, `not safe` or `not determined`: the cost's interval against `SAFE` of the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Everything that scans of one recipe number tell."""

    setting: ScannedSetting
    rule: float
    """Setting that the costs are for."""
    exponents: tuple[OptimumExponent, ...] = ()
    constant: float | None = None
    """Best value over N^p D^q ..., in physical units."""
    skew: float = 0.0
    noise: float | None = None
    """Scatter of the losses about the fit [nats/token]."""
    free: int = 0
    """Degrees of freedom of the law's fit."""
    lack: float | None = None
    """p of the test that the optima follow the law; None where as many numbers as cells."""
    cells: tuple[TunedCell, ...] = ()
    trends: tuple[tuple[str, ValueRange], ...] = ()
    """Slopes of the cells' excess with ln N, ln D and ln D/N [nats]."""
    shifts: tuple[tuple[str, ValueRange], ...] = ()
    """What the excess adds to alpha, beta and a = beta/(alpha + beta) of a law of these cells."""
    checks: tuple[HorizonCheck, ...] = ()
    undetermined: tuple[str, ...] = ()
    """What the scans do not determine."""


def fit_tuning(table: RunTable, law: str = "rate", rule: float | None = None) -> Tuning:
    """Fit the law of the best setting, and judge the rule that the runs used.

    Args:
        table: Runs that `find_scans` reads.
        law: As in `find_scans`.
        rule: Setting whose cost is asked; the middle of those tried if None.

    Raises:
        FitError: No scan, more than `MOST_SCANS`, or a rule that is not positive.
        RecordError: No such column.

    Source: lr*(N, D) as Porian et al. 2024, arXiv:2406.19146; batch as Bergsma et al. 2025,
    arXiv:2505.13738 (B* goes as D^.4 there), and Merrill et al. 2025, arXiv:2505.23971.
    """
    setting = find_scans(table, law)
    if rule is not None and not (math.isfinite(rule) and rule > 0):
        raise FitError(f"--rule {rule:g} is not a setting; a positive number is needed.")
    if len(setting.scans) > MOST_SCANS:
        raise FitError(
            f"{len(setting.scans)} scans; at most {MOST_SCANS} are fitted at once: use --where."
        )
    tried = np.unique(np.log(setting.values[[r for s in setting.scans for r in s.rows]]).round(9))
    at = math.exp(tried[(len(tried) - 1) // 2]) if rule is None else rule
    names, features, missing = _features(setting)
    inside = sum(s.found == "inside" for s in setting.scans)
    if inside < len(setting.scans):
        edges = len(setting.scans) - inside
        missing.append(f"{edges} of {len(setting.scans)} scans have their best at an edge or none")
    problem = JointProblem(
        table, setting, features[:, : sum(n in ("params", "tokens") for n in names)]
    )
    if not problem.skewed:
        missing.append("whether the loss rises faster above the best than below: add values")
    free_fit = problem.solve(None)
    if not inside or free_fit.free < 1:
        missing.append("a law of the best value: the runs are too few, or no optimum is inside")
        return Tuning(setting=setting, rule=at, undetermined=tuple(missing))
    law_fit = problem.solve(features)
    lack, spread, free = _lack_of_fit(law_fit, free_fit, len(setting.scans), features.shape[1])
    exponents, constant = _exponents(setting, names, features, law_fit, spread, free)
    cells, draws = _cells(setting, problem, free_fit, at)
    shifts = _shifts(table, setting, cells, draws)
    checks = _checks(names, features, problem, law_fit, (spread, free), at, cells, setting.scans)
    if not shifts:
        missing.append("what the costs do to alpha and beta: add sizes and lengths, 3 of each")
    return Tuning(
        setting=setting,
        rule=at,
        exponents=exponents,
        constant=constant,
        skew=problem.skew_of(law_fit.theta),
        noise=math.sqrt(law_fit.squares / law_fit.free),
        free=free,
        lack=lack,
        cells=cells,
        trends=_trends(setting, cells, draws),
        shifts=shifts,
        checks=checks,
        undetermined=tuple(missing),
    )


def tuning_notes(table: RunTable) -> Iterator[Note]:
    """Note `tuning`: a rule's exponent in N or D is wrong beyond chance, and costs something.

    Silent where the table holds no scans of two sizes or lengths.
    """
    for law, what in (("rate", "learning rate"), ("batch", "batch size")):
        column = table.columns.get(LAWS[law])
        if column is None or column.dtype.kind not in "iuf":
            continue
        try:
            found = fit_tuning(table, law)
        except FitError:
            continue
        wrong = [e for e in found.exponents if e.chance < CHANCE and e.name in ("params", "tokens")]
        pairs = list(zip(found.setting.scans, found.cells, strict=False))
        if not wrong or not pairs:
            continue
        cell, worst = max(pairs, key=lambda pair: pair[1].excess.value)
        if worst.excess.value < WORTH_A_NOTE * worst.loss:
            continue
        moves = " and ".join(
            f"{'N' if e.name == 'params' else 'D'}^{e.exponent.value:.2f} "
            f"[{e.exponent.low:.2f}, {e.exponent.high:.2f}] where the rule has {e.rule:.2f}"
            for e in wrong
        )
        yield Note(
            code="tuning",
            severity="warning",
            message=f"the best {what} goes as {moves}, measured in {len(found.cells)} scans: the "
            f"setting {found.rule:.4g} costs {worst.excess.value:.4f} nats at {short(cell.params)} "
            f"parameters and {short(cell.tokens)} tokens, where {worst.best.value:.4g} is best, "
            f"which bends the law. Change the rule to these exponents; isoflop tuning RUNS "
            f"--law {law} shows what it costs beyond the scans.",
        )


def _features(setting: ScannedSetting) -> tuple[list[str], Floats, list[str]]:
    """Logarithms of what differs between scans, (cells, features), not centred; what is missing."""
    scans, missing = setting.scans, list[str]()
    names, columns = list[str](), list[Floats]()
    values: dict[str, list[float]] = {
        "params": [s.params for s in scans],
        "tokens": [s.tokens for s in scans],
        "depth": [s.depth or 1.0 for s in scans],
        **{c: [s.others[i] for s in scans] for i, c in enumerate(setting.others)},
    }
    for name, column in values.items():
        logs = np.log(column) if min(column) > 0 else np.zeros(len(scans))
        if np.ptp(logs) < 0.05:
            if name in ("params", "tokens"):
                kind = "N: one size" if name == "params" else "D: one length"
                missing.append(f"how the best moves with {kind} only, add others")
            continue
        design = np.stack([np.ones(len(scans)), *columns, logs], axis=1)
        rest = logs - design[:, :-1] @ np.linalg.lstsq(design[:, :-1], logs, rcond=None)[0]
        if len(columns) + 2 > len(scans) or np.std(rest) < 0.05 * np.std(logs):
            missing.append(f"the exponent of {name}: it goes with {' and '.join(names)} here")
            continue
        names.append(name)
        columns.append(logs)
    return names, np.array(columns).T.reshape(len(scans), len(names)), missing


def _lack_of_fit(
    law: JointSolution, free: JointSolution, cells: int, slopes: int
) -> tuple[float | None, float, int]:
    """Chance of the law's lack of fit, and the variance and degrees of freedom of its errors."""
    from scipy import stats

    spare = cells - slopes - 1
    variance = law.squares / law.free
    if spare < 1 or free.squares <= 0:
        return None, variance, law.free
    ratio = max(law.squares - free.squares, 0.0) / spare / (free.squares / free.free)
    chance = float(stats.f.sf(ratio, spare, free.free))
    if chance < LACK:
        return chance, free.squares / free.free * ratio, spare
    return chance, variance, law.free


def _exponents(
    setting: ScannedSetting,
    names: Sequence[str],
    features: Floats,
    solution: JointSolution,
    variance: float,
    free: int,
) -> tuple[tuple[OptimumExponent, ...], float]:
    """The law's exponents and constant, the rule's own added."""
    from scipy import stats

    design = np.column_stack([np.ones(len(features)), features - features.mean(axis=0)])
    factor = np.log([s.factor for s in setting.scans])
    rule = np.linalg.lstsq(design, factor, rcond=None)[0]
    reach, out = float(stats.t.ppf(0.5 + LEVEL / 2, free)), []
    for i, name in enumerate(names, start=1):
        error = math.sqrt(max(solution.cross[i, i] * variance, 0.0))
        moved = float(solution.theta[i])
        value = moved + float(rule[i])
        t = abs(moved) / error if error else (math.inf if abs(moved) > 1e-9 else 0.0)
        interval = ValueRange(value=value, low=value - reach * error, high=value + reach * error)
        out.append(
            OptimumExponent(
                name=name,
                exponent=interval,
                rule=round(float(rule[i]), 9) + 0.0,  # no negative zero
                chance=2 * float(stats.t.sf(t, free)),
            )
        )
    powers = np.array([e.exponent.value for e in out])
    constant = solution.theta[0] + rule[0] - features.mean(axis=0) @ powers
    return tuple(out), math.exp(np.clip(constant, -700, 700))


def _cells(
    setting: ScannedSetting, problem: JointProblem, solution: JointSolution, rule: float
) -> tuple[tuple[TunedCell, ...], Floats]:
    """Each cell's optimum and the rule's excess, and draws of the excess, (draws, cells)."""
    count = len(setting.scans)
    theta = solution.draws(solution.squares / solution.free, solution.free)
    powers = np.column_stack([np.ones(count), problem.curvature])

    def excess(t: Floats) -> Floats:
        bend, skew = problem.shape(t, count)
        k = np.exp(np.clip(bend @ powers.T, -60, 30))
        return np.asarray(k * loss_rise(math.log(rule) - t[..., :count], skew[..., None]))

    point, draws = excess(solution.theta), excess(theta)
    bend, skew = problem.shape(solution.theta, count)
    k = np.exp(powers @ bend)
    fitted = k[problem.cell] * loss_rise(
        problem.x - solution.theta[:count][problem.cell], float(skew)
    )
    levels = [float((problem.y - fitted)[problem.cell == i].mean()) for i in range(count)]
    batches = _critical(setting, levels, solution, theta, problem)
    # a signed distance from the optimum: where its interval holds 0, so does that of the cost
    reach = math.log(rule) - theta[:, :count]
    held = (np.quantile(reach, 0.05, axis=0) <= 0) & (np.quantile(reach, 0.95, axis=0) >= 0)
    cells = []
    for i in range(count):
        cost = value_range(float(point[i]), draws[:, i])
        low = 0.0 if held[i] else min(cost.low, cost.value)
        cells.append(
            TunedCell(
                best=value_range(solution.theta[i], theta[:, i], log=True),
                bend=float(k[i]),
                loss=levels[i],
                excess=ValueRange(value=cost.value, low=low, high=max(cost.high, cost.value)),
                critical_batch=batches[i],
            )
        )
    return tuple(cells), draws


def _critical(
    setting: ScannedSetting,
    levels: Sequence[float],
    solution: JointSolution,
    theta: Floats,
    problem: JointProblem,
) -> list[ValueRange | None]:
    """The batch above the best one at which 20% more tokens are needed for the same loss.

    Tokens are worth -dL/d ln D, from the best losses of neighbouring lengths of one shape.
    """
    count = len(setting.scans)
    out: list[ValueRange | None] = [None] * count
    if setting.law != "batch":
        return out
    bend, skew = problem.shape(theta, count)
    for i, scan in enumerate(setting.scans):
        pairs = [
            (abs(math.log(o.tokens / scan.tokens)), j)
            for j, o in enumerate(setting.scans)
            if (o.params, o.width, o.depth, o.others)
            == (scan.params, scan.width, scan.depth, scan.others)
            and abs(math.log(o.tokens / scan.tokens)) > 0.05
        ]
        if not pairs:
            continue
        _, j = min(pairs)
        worth = -(levels[j] - levels[i]) / math.log(setting.scans[j].tokens / scan.tokens)
        if worth <= 0:
            continue
        powers = np.concatenate([[1.0], problem.curvature[i]])
        k = np.exp(np.clip(bend @ powers, -60, 30))
        above = rise_reaches(worth * math.log(MORE_TOKENS) / k, skew)
        own_bend, own_skew = problem.shape(solution.theta, count)
        own = rise_reaches(
            np.array([worth * math.log(MORE_TOKENS) / math.exp(own_bend @ powers)]),
            np.array([float(own_skew)]),
        )[0]
        out[i] = value_range(solution.theta[i] + own, theta[:, i] + above, log=True)
    return out


def _trends(
    setting: ScannedSetting, cells: Sequence[TunedCell], draws: Floats
) -> tuple[tuple[str, ValueRange], ...]:
    """Slopes of the excess with ln N and ln D together, and with ln D/N alone [nats]."""
    logs = {
        "params": np.log([s.params for s in setting.scans]),
        "tokens": np.log([s.tokens for s in setting.scans]),
    }
    logs = {name: v for name, v in logs.items() if np.ptp(v) > 0.05}
    groups = [logs] if len(cells) > len(logs) else []
    if len(logs) == 2:
        groups.append({"tokens/params": logs["tokens"] - logs["params"]})
    point, out = np.array([c.excess.value for c in cells]), []
    for group in groups:
        design = np.column_stack([np.ones(len(cells)), *group.values()])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            continue
        weights = np.linalg.pinv(design)[1:]
        for name, w in zip(group, weights, strict=True):
            out.append((name, value_range(float(w @ point), draws @ w)))
    return tuple(out)


def _shifts(
    table: RunTable, setting: ScannedSetting, cells: Sequence[TunedCell], draws: Floats
) -> tuple[tuple[str, ValueRange], ...]:
    """What the excess adds to alpha, beta and a of E + A/N^alpha + B/D^beta, to first order.

    The law is fitted to the best losses of the cells, with E at the known entropy if there is one.
    """
    from scipy.optimize import least_squares

    n, d = (np.log([getattr(s, k) for s in setting.scans]) for k in ("params", "tokens"))
    entropy = None if table.data is None else table.data.entropy
    need, count = (2, 4) if entropy is not None else (3, 6)
    levels = np.array([c.loss for c in cells])
    if min(len(np.unique(n.round(2))), len(np.unique(d.round(2)))) < need or len(cells) < count:
        return ()
    if entropy is not None and levels.min() <= entropy:
        return ()
    n, d = n - n.mean(), d - d.mean()
    known = math.nan if entropy is None else entropy

    def model(t: Floats) -> Floats:
        floor = known if entropy is not None else math.exp(t[4])
        return np.asarray(np.log(floor + np.exp(t[0] - t[1] * n) + np.exp(t[2] - t[3] * d)))

    floor = known if entropy is not None else 0.8 * float(levels.min())
    half = math.log(float(np.mean(levels - floor)) / 2)
    start = [half, 0.4, half, 0.4] + ([] if entropy is not None else [math.log(floor)])

    def residual(t: Floats) -> Floats:
        return np.asarray(model(t) - np.log(levels))

    answer = least_squares(residual, start, max_nfev=500)
    jacobian = np.asarray(answer.jac)
    if not answer.success or np.linalg.cond(jacobian) > 1e6:
        return ()
    alpha, beta = answer.x[1], answer.x[3]
    change = np.linalg.pinv(jacobian)[[1, 3]]
    both = np.vstack([change, (alpha * change[1] - beta * change[0]) / (alpha + beta) ** 2])
    point = both @ np.log1p(np.array([c.excess.value for c in cells]) / levels)
    drawn = np.log1p(draws / levels) @ both.T
    names = ("alpha", "beta", "a")
    return tuple((k, value_range(float(point[i]), drawn[:, i])) for i, k in enumerate(names))


def _checks(
    names: Sequence[str],
    features: Floats,
    problem: JointProblem,
    solution: JointSolution,
    spread: tuple[float, int],
    rule: float,
    cells: Sequence[TunedCell],
    scans: Sequence[SettingScan],
) -> tuple[HorizonCheck, ...]:
    """The rule beyond the largest cell, as far as the law has the exponents for it."""
    theta, count = solution.draws(*spread), features.shape[1] + 1
    last = max(range(len(scans)), key=lambda i: (scans[i].params, scans[i].tokens))
    corner, out = features[last].copy(), []
    if "tokens" in names:
        corner[names.index("tokens")] = features[:, names.index("tokens")].max()
    for times in HORIZONS:
        asked = dict(zip(("params", "tokens"), times, strict=True))
        if any(factor > 1 and name not in names for name, factor in asked.items()):
            continue
        there = corner + np.log([asked.get(name, 1) for name in names])

        def at(t: Floats, there: Floats = there) -> tuple[Floats, Floats]:
            off = math.log(rule) - t[..., 0] - t[..., 1:count] @ (there - features.mean(axis=0))
            bend, skew = problem.shape(t, count)
            powers = np.append(1.0, there[: len(problem.middle)] - problem.middle)
            k = np.exp(np.clip(bend @ powers, -60, 30))
            return off, np.asarray(k * loss_rise(off, skew))

        (off, cost), (offs, costs) = at(solution.theta), at(theta)
        away, price = value_range(float(off), offs), value_range(float(cost), costs)
        low = 0.0 if away.low <= 0 <= away.high else min(price.low, price.value)
        price = ValueRange(value=price.value, low=low, high=max(price.high, price.value))
        limit = SAFE * cells[last].loss
        sure = "safe" if price.high < limit else "not safe" if low > limit else "not determined"
        out.append(
            HorizonCheck(
                times_params=times[0], times_tokens=times[1], off=away, cost=price, verdict=sure
            )
        )
    return tuple(out)
