"""What following `isoflop suggest` does to a fit, in simulated worlds that are not the law.

`python -m tests.bench.follow [SWEEPS]` prints a table in Markdown. A sweep of 0.3% noise is fitted,
24 runs are suggested for ten times its largest budget at the cost of the sweep, they are simulated
by the same world, and all runs are fitted together. Beside it stands the same spend on isoFLOP
budgets about the fit's own optimum. A row has the errors of ln N* and ln L there before and after,
root mean square in percent, the coverage of both, and how often the verdict on the answer is worse.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from fit.allocation.scaling_law import ScalingLaw
from fit.data.table import RunTable
from fit.design.candidates import SuggestRequest, candidates_of_sizes, limits_of
from fit.design.prior import prior_of_fit
from fit.design.suggest import choose_runs, propose
from fit.errors import FitError
from fit.fitting import FitOptions, fit_table
from fit.query.answer import answer
from fit.query.question import Question
from fit.results import Fit
from tests.bench.calibrate import Surface, law, optimum, size_grid
from tests.bench.worlds import DESIGNS, NOISE, WORLDS

RUNS = 24
TRUNKS, COOLDOWN, TRUNK_NOISE = "trunks 6x5", 0.2, 0.0015
ALL = {**DESIGNS, TRUNKS: size_grid}
"""Designs of the first sweep; the last as branches of trunks, which have an error of their own."""
WORSE = ("trust", "careful", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a fit says of the target."""

    error: np.ndarray
    """ln N* and ln L minus the truth, (2,)."""
    half: np.ndarray
    verdict: str
    kappa: float
    notes: frozenset[str]


def state(fit: Fit | None, target: float, truth: np.ndarray) -> State:
    """How a fit answers for a budget; refused where there is none."""
    nothing = np.full(2, np.nan)
    if fit is None:
        return State(error=nothing, half=nothing, verdict="refuse", kappa=np.inf, notes=frozenset())
    found = answer(Question(source=ScalingLaw.from_fit(fit), flops=target, force=True))
    numbers = (found.params, found.loss)
    return State(
        error=np.log([x.value or np.nan for x in numbers]) - truth,
        half=np.array([np.log(x.high / x.low) / 2 for x in numbers]),
        verdict=found.verdict.verdict,
        kappa=fit.kappa,
        notes=frozenset(n.code for n in (*fit.notes, *found.warnings) if n.severity != "info"),
    )


def fitted(
    params: np.ndarray, tokens: np.ndarray, loss: np.ndarray, trunk: np.ndarray
) -> Fit | None:
    """The fit of runs; None where it is refused as such."""
    runs = tuple(str(i) for i in range(len(params)))
    table = RunTable(
        run=runs, params=params, tokens=tokens, flops=6 * params * tokens, loss=loss,
        cluster=trunk,
    )  # fmt: skip
    try:
        return fit_table(table, FitOptions(resamples=200))
    except FitError:
        return None


def isoflop_runs(source: ScalingLaw, spend: float) -> tuple[np.ndarray, ...]:
    """The same spend on budgets of six sizes about the fit's optimum, each run its own trunk."""
    budgets = np.repeat(spend / 6 / np.array([2, 4, 8, 8.0]), 6)
    best = np.exp(source.best(budgets).log_params)
    n = best * np.tile(np.geomspace(0.25, 4, 6), 4)
    return n, budgets / (6 * n), np.arange(24)


def suggested_runs(request: SuggestRequest, *, trunks: bool) -> tuple[np.ndarray, ...]:
    """Params, tokens and trunks of suggested runs, branches of trunks where they are to be."""
    if not trunks:
        runs = propose(request).runs
        n, d = (np.array([getattr(r, x) for r in runs]) for x in ("params", "tokens"))
        return n, d, np.arange(len(n))
    source, fit = request.source, request.source.fit
    assert fit is not None
    plain = candidates_of_sizes(source.cost, limits_of(request))
    design = choose_runs(
        prior_of_fit(source, fit, request.flops),
        dataclasses.replace(plain, cooldown=COOLDOWN),
        request.spend,
        most_runs=request.most_runs,
    )
    return design.params, design.tokens, np.unique(design.trunk, return_inverse=True)[1]


def case(surface: Surface, design: str, seed: int) -> dict[str, State]:
    """States before, after the suggestion and after the isoFLOP grid."""
    random = np.random.default_rng([seed, len(design)])
    made = ALL[design]()
    n, d, trunk = made.params, made.tokens, np.arange(len(made.params))
    if design == TRUNKS:
        trunk = made.trunk

    def measured(n: np.ndarray, d: np.ndarray, trunk: np.ndarray) -> np.ndarray:
        own = NOISE * random.standard_normal(len(n))
        common = TRUNK_NOISE * random.standard_normal(len(n))[trunk]
        return surface(n, d) * np.exp(own + (common if design == TRUNKS else 0.0))

    spend = float((6 * n * d).sum())
    target = 10 * float((6 * n * d).max())
    best, loss = optimum(surface, np.array([target]))
    truth = np.log([best[0], loss[0]])
    losses = measured(n, d, trunk)
    first = fitted(n, d, losses, trunk)
    states = {"before": state(first, target, truth)}
    if first is None:
        return states
    source = ScalingLaw.from_fit(first)
    request = SuggestRequest(source=source, flops=target, spend=spend, most_runs=RUNS)
    designs = {
        "suggested": suggested_runs(request, trunks=design == TRUNKS),
        "isoFLOP": isoflop_runs(source, spend),
    }
    for name, (more_n, more_d, more_trunk) in designs.items():
        whole = fitted(
            np.concatenate([n, more_n]),
            np.concatenate([d, more_d]),
            np.concatenate([losses, measured(more_n, more_d, more_trunk)]),
            np.concatenate([trunk, more_trunk + trunk.max() + 1]),
        )
        states[name] = state(whole, target, truth)
        if name == "suggested":
            counts = np.sort(np.unique(more_n, return_counts=True)[1])[::-1]
            SHARES.append(counts[:2].sum() / counts.sum())
    return states


SHARES: list[float] = []


def main() -> None:
    """Print the table."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    started = time.perf_counter()
    print("before, suggested, isoFLOP:\n")
    print("| world | N* error | L error | covered N*, L | kappa | worse |")
    print("| --- | --- | --- | --- | --- | --- |")
    every: list[dict[str, State]] = []
    causes: Counter[str] = Counter()
    for surface in WORLDS:
        found = [case(surface, d, seed) for seed in range(sweeps) for d in ALL]
        show(surface.__name__, found)
        every += found if surface is not law else []
        for c in found:
            if worse(c, "suggested"):
                causes.update(c["suggested"].notes - c["before"].notes)
    show("ten wrong ones", every)
    print(f"\nnotes new where the verdict is worse: {dict(causes)}")
    middle, most = np.median(SHARES), max(SHARES)
    print(f"runs at the two commonest sizes: median {middle:.0%}, most {most:.0%}")
    print(f"{sweeps} sweeps of four designs each, {time.perf_counter() - started:.0f} s")


def worse(states: dict[str, State], name: str) -> bool:
    """Whether the verdict is worse than before."""
    before, after = (WORSE.index(states[s].verdict) for s in ("before", name))
    return after > before


def show(title: str, found: list[dict[str, State]]) -> None:
    """A row of the table."""
    found = [c for c in found if len(c) == 3]
    names = ("before", "suggested", "isoFLOP")

    def spread(i: int) -> str:
        return ", ".join(
            f"{100 * np.sqrt(np.mean([c[s].error[i] ** 2 for c in found])):.3g}%" for s in names
        )

    def held(s: str, i: int) -> str:
        return f"{np.mean([abs(c[s].error[i]) <= c[s].half[i] for c in found]):.0%}"

    covered = ", ".join(f"{held(s, 0)} {held(s, 1)}" for s in names)
    kappa = ", ".join(f"{np.median([c[s].kappa for c in found]):.0f}" for s in names)
    bad = ", ".join(f"{sum(worse(c, s) for c in found)} of {len(found)}" for s in names[1:])
    print(f"| {title} | {spread(0)} | {spread(1)} | {covered} | {kappa} | {bad} |", flush=True)


if __name__ == "__main__":
    main()
