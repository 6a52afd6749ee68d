"""Plots of what stands around a law: costs, published models, and skills by width and depth.

*Costs*: `next_price` (the next 0.01 nats), `lifetime_cost` (training and serving), `repeats_loss`
and `repeats_epochs` (too few unique tokens). *Published models*: `ratio_against_params`, and
`draw_models` where the frontier reaches their compute. *Skills*: `skill_by_shape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.costs import ServingCosts, with_unique_tokens
from fit.allocation.scaling_law import (
    FrontierBand,
    IntervalCurve,
    ScalingLaw,
    fit_of,
)
from fit.data.records import Floats
from fit.data.table import RunTable
from fit.errors import FitError
from fit.files import csv_text
from fit.laws.families import ENDLESS, borrows_repeat_constants
from fit.laws.published import PRESETS, PUBLISHED_MODELS, PublishedModel
from fit.quantities import power, short, three_digits
from fit.query.warnings import FRESH_EPOCHS, STALE_EPOCHS
from fit.report import plots
from fit.report.figure_data import PREFIX, LadderStep, ShapeSkills, by_shape
from fit.report.legends import legend, write_names
from fit.report.plots import (
    ACCENT,
    BAND,
    BLUE,
    C_LABEL,
    DASHED,
    FAINT,
    LAW,
    N_LABEL,
    draw_curve,
    legend_order,
)
from fit.report.tables import math_power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE_LAW = "besiroglu2024"
"""The published law that is drawn beside a fit whose budgets are far below the published models."""
REFERENCE_LABEL = f"{REFERENCE_LAW}, a published law"
LARGEST_BUDGET_RATIO = 3.0
"""Models up to this many times beyond the frontier's end are still shown against compute."""
MOST_TIMES = 300.0
"""Prices above this many times the budget are not drawn: E is almost reached."""
TOTAL = "all"
"""Key of the whole loss among the skills."""
LEAST_SHARE = 1e-3
"""A skill is shown if some shape's excess loss in it is this share of the largest one's."""


def within(best: FrontierBand) -> tuple[PublishedModel, ...]:
    """Published models whose compute lies in the range of a frontier."""
    low, high = best.flops[0], LARGEST_BUDGET_RATIO * best.flops[-1]
    return tuple(m for m in PUBLISHED_MODELS if low <= m.flops <= high)


def ratio_against_params(ax: Axes, source: ScalingLaw, best: FrontierBand) -> Axes:
    """D/N against N: runs, the law's best split with its band, models, and a published law.

    Args:
        ax: Axes to draw on.
        source: A fit as a source.
        best: Its frontier.

    Returns:
        The same axes.
    """
    p = fit_of(source).points
    draw_curve(ax, best, best.ratio, best.params.value)
    plots.draw_runs(ax, p.params, p.tokens / p.params, p.flops)
    if best.flops[-1] < min(m.flops for m in PUBLISHED_MODELS):
        _reference_law(ax)
    for m in PUBLISHED_MODELS:
        label = "mixtures of experts" if m.experts else "published models"
        face = "none" if m.experts else BLUE
        style: dict[str, Any] = {
            "mfc": face,
            "mew": 0.8,
            "alpha": 0.9,
            "label": label,
            "gid": m.name,
        }
        ax.plot([m.params], [m.tokens / m.params], "^", color=BLUE, ms=4.5, zorder=3, **style)
    sizes = np.concatenate([p.params, best.params.value, [m.params for m in PUBLISHED_MODELS]])
    ratios = np.concatenate([p.tokens / p.params, [m.tokens / m.params for m in PUBLISHED_MODELS]])
    ax.set_xlim(sizes.min() / 2, sizes.max() * 4)
    ax.set_ylim(min(ratios.min(), best.ratio.value.min()) / 1.6, 2 * ratios.max())
    plots.count_axis(ax.xaxis)
    plots.count_axis(ax.yaxis)
    plots.style_axes(ax, x=N_LABEL, y="Tokens per parameter D/N")
    named = legend_order(source, "published models", "mixtures of experts", REFERENCE_LABEL)
    legend(ax, named)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # names are placed where the layout leaves them room
    known = {m.name: (m.params, m.tokens / m.params) for m in PUBLISHED_MODELS if m.named}
    write_names(ax, known, fontsize=7.5, color="#2c4d70")
    return ax


def draw_models(ax: Axes, best: FrontierBand, quantity: str) -> None:
    """Draw the published models in the frontier's range, at a compute of 6 N D."""
    for m in within(best):
        face = "none" if m.experts else BLUE
        style: dict[str, Any] = {
            "mfc": face,
            "mew": 0.8,
            "label": "published models",
            "gid": m.name,
        }
        value = getattr(m, quantity)
        ax.plot([m.flops], [value], "^", color=BLUE, ms=3.6, zorder=3, alpha=0.85, **style)


def models_table() -> str:
    """The whole table of models with their sources, as CSV."""
    return csv_text(
        {
            "name": m.name,
            "year": m.year,
            "params": f"{m.params:.6g}",
            "tokens": f"{m.tokens:.6g}",
            "experts": str(m.experts).lower(),
            "source": m.source,
            "note": m.note,
        }
        for m in PUBLISHED_MODELS
    )


def _reference_law(ax: Axes) -> None:
    """Draw a published law at the scale of its own runs."""
    law = ScalingLaw.from_preset(PRESETS[REFERENCE_LAW])
    best = law.best(np.geomspace(1e19, 1e26, 30))
    n, ratio = np.exp(best.log_params), np.exp(best.log_tokens - best.log_params)
    ax.plot(n, ratio, color=BAND, lw=1.0, zorder=2, label=REFERENCE_LABEL)


def next_price(ax: Axes, source: ScalingLaw, best: FrontierBand, price: IntervalCurve) -> Axes:
    """Additional FLOP that lower the loss by the next 0.01 nats, against the budget, as a band."""
    near = price.value <= MOST_TIMES * best.flops
    price = IntervalCurve(
        **{k: np.where(near, getattr(price, k), np.nan) for k in ("value", "low", "high")}
    )
    draw_curve(ax, best, price)
    ax.plot(best.flops, best.flops, color=LAW, lw=0.7, ls=":", label="equal to the budget")
    shown = price.value[near]
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.5 * min(shown.min(), best.flops[0]), 3 * shown.max())
    plots.flops_axis(ax.xaxis)
    plots.flops_axis(ax.yaxis)
    plots.style_axes(ax, x=C_LABEL, y="Additional FLOP")
    legend(ax, legend_order(source, "equal to the budget")[1:])
    return ax


def lifetime_cost(ax: Axes, costs: ServingCosts) -> Axes:
    """Compute of training, of serving and of both against model size, at a fixed loss."""
    ax.plot(costs.params, costs.training, color=LAW, lw=1.2, label="training", zorder=3)
    # Where one of the two is small, the other lies on their sum: the sum is the broad line beneath.
    ax.plot(costs.params, costs.serving, color=BLUE, lw=1.2, label="serving", zorder=3)
    ax.plot(costs.params, costs.total, color=ACCENT, lw=2.8, label="both", zorder=2)
    place = costs.cheapest
    at = [costs.params[place]], [costs.total[place]]
    ax.plot(*at, "o", color=ACCENT, ms=6, label="lowest total", zorder=4)
    ax.axvline(costs.optimum, color=LAW, lw=0.8, ls=":", label="optimum N*")
    low = min(costs.training.min(), costs.serving.max())
    ax.set_xlim(costs.params[0], costs.params[-1])
    ax.set_ylim(0.3 * low, 6 * max(float(costs.total[place]), low))
    plots.count_axis(ax.xaxis)
    plots.flops_axis(ax.yaxis)
    plots.style_axes(ax, x=N_LABEL, y="Compute at the same loss [FLOP]")
    named = ("training", "serving", "both", "lowest total", "optimum N*")
    legend(ax, named)
    return ax


def lifetime_caption(costs: ServingCosts, served: float) -> str:
    """The caption of `lifetime_cost`: which size costs least in training and serving together.

    Args:
        costs: Costs by model size.
        served: Tokens that are served.
    """
    i = costs.cheapest
    n, d, total = (float(v[i]) for v in (costs.params, costs.tokens, costs.total))
    at_optimum = float(np.interp(costs.optimum, costs.params, costs.total))
    at_end = i in (0, len(costs.params) - 1)
    lowest = "at the end of the sizes shown, so that it may lie beyond" if at_end else "the dot"
    return (
        f"Compute for training (black), for serving {short(served)} tokens (blue), and for both "
        f"(red), against model size, at a fixed loss of {costs.loss:.4f} nats/token, that of page "
        f"1's recommendation. The lowest sum, {lowest}: {short(n)} parameters "
        f"({three_digits(n / costs.optimum)} of the compute-optimal $N^*$, the dotted line) "
        f"trained on {short(d)} tokens, {1 - total / at_optimum:.0%} less than with $N^*$. A "
        "served token costs a third of a trained one (Sardana et al. 2024, arXiv:2401.00448)."
    )


def repeats_loss(ax: Axes, best: FrontierBand, source: ScalingLaw, limited: ScalingLaw) -> Axes:
    """The lowest loss of each budget, with fresh tokens and with a limit on unique tokens."""
    draw_curve(ax, best, best.loss)
    loss = np.exp(limited.best(best.flops).log_loss)
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        style: dict[str, Any] = {"color": ACCENT, "lw": 1.4, "label": "unique tokens limited"}
        ax.plot(best.flops[part], loss[part], ls=dashes, **style)
    p = fit_of(source).points
    plots.draw_runs(ax, p.flops, p.loss, p.flops)
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(0.98 * best.loss.value[-1], 1.02 * max(float(loss[0]), best.loss.value[0]))
    plots.flops_axis(ax.xaxis)
    plots.loss_axis(ax.yaxis)
    plots.style_axes(ax, x=C_LABEL, y=plots.loss_label(source))
    legend(ax, legend_order(source, "unique tokens limited"))
    return ax


def repeats_epochs(ax: Axes, best: FrontierBand, limited: ScalingLaw, unique_tokens: float) -> Axes:
    """Epochs over the data in the best split of each budget."""
    epochs = np.exp(limited.best(best.flops).log_tokens) / unique_tokens
    for part, dashes in ((best.inside, "-"), (~best.inside, DASHED)):
        ax.plot(best.flops[part], epochs[part], color=ACCENT, lw=1.4, ls=dashes, label="best split")
    ax.axhline(FRESH_EPOCHS, color=LAW, lw=0.8, label="nearly as good as fresh")
    ax.axhline(STALE_EPOCHS, color=LAW, lw=0.8, ls=":", label="of little value beyond")
    ax.set_xlim(best.flops[0], best.flops[-1])
    ax.set_ylim(min(0.5, float(epochs.min())), max(2.0 * STALE_EPOCHS, 1.5 * float(epochs.max())))
    plots.flops_axis(ax.xaxis)
    plots.count_axis(ax.yaxis)
    plots.style_axes(ax, x=C_LABEL, y="Epochs, D over unique tokens")
    named = ("best split", "nearly as good as fresh", "of little value beyond")
    legend(ax, named)
    return ax


def repeats_caption(
    source: ScalingLaw, limited: ScalingLaw, unique_tokens: float, flops: float
) -> str:
    """The caption of the two plots above: what the limit costs at the budget of page 1's answer.

    Args:
        source: A fit as a source.
        limited: Its law with so many unique tokens.
        unique_tokens: Their number.
        flops: The budget [FLOP].
    """
    endless = with_unique_tokens(source, ENDLESS)
    assert endless is not None
    fresh, repeated = (s.best(np.array([flops])) for s in (endless, limited))
    increase = float(np.exp(repeated.log_loss[0]) - np.exp(fresh.log_loss[0]))
    n, d = float(np.exp(repeated.log_params[0])), float(np.exp(repeated.log_tokens[0]))
    text = (
        f"Training with {short(unique_tokens)} unique tokens. Left: the lowest loss of each "
        "budget. Right: the epochs over the data in the best split. At "
        f"{math_power(power(flops))} FLOP it is {short(n)} parameters on {short(d)} tokens, "
        f"{three_digits(d / unique_tokens)} epochs, and the limit raises the "
        f"loss by {increase:.4f} nats/token."
    )
    if borrows_repeat_constants(limited.law):
        text += (
            " The value of repeated tokens is borrowed from Muennighoff et al. 2023, "
            "arXiv:2305.16264, and has no interval."
        )
    return text


def shapes_shown(rows: Sequence[ShapeSkills]) -> tuple[ShapeSkills, ...]:
    """Shapes of one training length: the one with most shapes, of several the longest."""
    lengths = {row.tokens for row in rows}
    best = max(lengths, key=lambda d: (sum(row.tokens == d for row in rows), d), default=0.0)
    return tuple(row for row in rows if row.tokens == best)


def skills_shown(rows: Sequence[ShapeSkills]) -> tuple[str, ...]:
    """The total, then the skills by their largest excess loss."""
    costs = {name: max(row.excess[name].mean for row in rows) for name in rows[0].excess}
    top = max(costs.values())
    kept = [n for n, c in sorted(costs.items(), key=lambda i: -i[1]) if c > LEAST_SHARE * top]
    return tuple(sorted(kept, key=lambda n: n != TOTAL))


def skills_caption(shapes: Sequence[ShapeSkills]) -> str:
    """The caption of the panels of skills."""
    rows = shapes_shown(shapes)
    errors = [np.isfinite(e.error) for row in rows for e in row.excess.values()]
    beneath = ", with half of its 90% interval beneath" if any(errors) else ""
    beneath += " where there are several seeds" if any(errors) and not all(errors) else ""
    effects = [
        f"{lines} show the effect of {what}"
        for lines, what, other in (("rows", "width", "depth"), ("columns", "depth", "width"))
        if len({getattr(row, other) for row in rows}) < len(rows)
    ]
    last = " and ".join(effects)
    if not last:
        last = "width and depth change together: the effect of neither is seen by itself"
    scored = any(row.scores for row in rows)
    graded = " The percentage is the skill's accuracy." if scored else ""
    return (
        f"Loss by shape at {short(rows[0].tokens)} tokens. A cell holds the excess loss of a skill "
        f"over a perfect predictor [nats/1000 per token], mean over seeds{beneath}; a darker cell "
        f"is a lower loss.{graded} {last[:1].upper()}{last[1:]}."
    )


def perplexity_ladder(ax: Axes, steps: Sequence[LadderStep]) -> Axes:
    """Perplexities of n-grams, models and the truth, from above, on a log axis.

    Args:
        ax: Axes to draw on.
        steps: In their order.

    Returns:
        The same axes.
    """
    colours = {"n-gram": BLUE, "model": ACCENT, "limit": LAW}
    for kind, colour in colours.items():
        rows = [i for i, step in enumerate(steps) if step.kind == kind]
        values = [steps[i].perplexity for i in rows]
        ax.hlines(rows, 1.0, values, color=FAINT, lw=0.8)
        ax.plot(values, rows, "o", ms=4.5, color=colour, label=kind)
    for row, step in enumerate(steps):
        place = (step.perplexity, row)
        ax.annotate(
            three_digits(step.perplexity), place, (6, 0), textcoords="offset points",
            va="center", fontsize=7.5, gid=step.name,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(1.0, 2.2 * max(step.perplexity for step in steps))
    ax.set_ylim(len(steps) - 0.5, -0.5)
    plots.style_axes(ax, x="Perplexity", y="")
    ax.set_yticks(range(len(steps)), [step.name for step in steps])
    return ax


def skill_by_shape(
    ax: Axes, rows: Sequence[ShapeSkills], skill: str, *, label: str = "", scores: bool = False
) -> Axes:
    """Loss or score of one skill over the grid of widths and depths, with a number in each cell.

    Args:
        ax: Axes to draw on.
        rows: Shapes of one length.
        skill: A key of their `excess`, or of their `scores`.
        label: Title in place of the skill's name.
        scores: Draw the score [%], not the loss.

    Returns:
        The same axes.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    widths = sorted({row.width for row in rows})
    depths = sorted({row.depth for row in rows})
    unit = 100.0 if scores else 1e3
    found = [(row.scores if scores else row.excess)[skill] for row in rows]
    values = np.array([unit * f.mean for f in found])
    low, high = (0.0, 100.0) if scores else (float(values.min()), float(values.max()))
    for row, of, value in zip(rows, found, values, strict=True):
        x, y = widths.index(row.width), depths.index(row.depth)
        share = (value - low) / (high - low) if high > low else 1.0
        colour = colormaps["Blues"](0.07 + 0.55 * share if scores else 0.62 - 0.55 * share)
        box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=1.0)
        ax.add_patch(box)
        text = f"{value:.0f}" if scores else f"{value:.2f}"
        if np.isfinite(of.error) and not scores:
            half = f"±{unit * of.error:.2f}" if unit * of.error >= 0.005 else "±<0.01"
            text += f"\n{half}"
        graded = None if scores else row.scores.get(skill)
        if graded is not None and np.isfinite(graded.mean):
            text += f"\n{100 * graded.mean:.0f}%"
        ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "linespacing": 1.05}
        ax.text(x, y, text, gid=f"w{row.width} d{row.depth}", **ink)
    ax.set_xticks(range(len(widths)), [str(w) for w in widths])
    ax.set_yticks(range(len(depths)), [str(d) for d in depths])
    ax.set_xlim(-0.5, len(widths) - 0.5)
    ax.set_ylim(-0.5, len(depths) - 0.5)
    plots.style_axes(ax, x="Width", y="Depth")
    ax.grid(False)
    ax.tick_params(length=0, colors="#1a1a1a")
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.set_title(label or ("all skills" if skill == TOTAL else skill), fontsize="medium")
    return ax


def shapes_of(table: RunTable) -> tuple[ShapeSkills, ...]:
    """Losses by skill and shape of a table of runs, and their total.

    Raises:
        FitError: The runs have no losses by skill on one data set, or one shape alone.
    """
    entropy = None if table.data is None else table.data.entropy_by_skill
    rows = losses_by_skill(entropy or {}, table.columns, table.loss, table.tokens, table.params)
    if len({(r.width, r.depth) for r in rows}) > 1:
        return rows
    raise FitError(
        f"{table.source or 'the runs'} have no losses by skill over several shapes on one data "
        "set, which a report without a fit needs. Fit them first: isoflop fit RUNS"
    )


def losses_by_skill(
    entropy: Mapping[str, float],
    columns: Mapping[str, Any],
    loss: Floats,
    tokens: Floats,
    params: Floats,
) -> tuple[ShapeSkills, ...]:
    """Losses by skill and shape, and in total; empty where the entropy is not known.

    Args:
        entropy: Entropy by skill [nats/token].
        columns: width, depth, `loss_<skill>`.
        loss: Whole loss [nats/token].
        tokens: (runs,).
        params: (runs,).
    """
    if not entropy:
        return ()
    skills = any(c.startswith(PREFIX) and c.removeprefix(PREFIX) in entropy for c in columns)
    whole = {**entropy, TOTAL: sum(entropy.values())}
    with_total = {**columns, f"{PREFIX}{TOTAL}": loss}
    return by_shape(with_total, tokens, params, whole) if skills else ()
