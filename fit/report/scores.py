"""Skills: the document and text of `isoflop skills`, and the laws of scores in a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fit.allocation.scaling_law import FURTHER, ScalingLaw, fit_of
from fit.data.readers import load
from fit.data.records import Floats, finite_or_null
from fit.data.table import score_columns
from fit.errors import FitError
from fit.fitting import FitOptions, fit_table
from fit.quantities import percent, power, short
from fit.report import context_plots, plots
from fit.report.figure_data import (
    SHOWN,
    SKILL_LEVEL,
    ShapeSkills,
    SkillExcess,
    skills_by_shape,
)
from fit.report.plots import ACCENT, BAND, BLUE, C_LABEL, DASHED, FAINT, LAW
from fit.report.tables import Table, left, math_power, right
from fit.report.text import DASH, table_text, wrapped
from fit.scores.law import THRESHOLDS, Places, ScoreInterval, ScoreLaw, score_laws, score_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = {
    "compute": "compute",
    "size": "size and tokens",
    "loss": "the predicted loss",
    "excess": "the predicted excess loss",
}
"""What a score is a function of, in words."""
THRESHOLDS_TEXT = f"Dotted lines are at {' and '.join(map(percent, THRESHOLDS))}."
COLOURS = (ACCENT, BLUE, "#5a8f3c", "#8a5aa3", "#c08a2b", "#3c8f8a", "#7a4a2b", "#666666")
MOST_ORDERED = 5
"""Scores on the first page of a report on shapes, the highest first."""
MOST_SCORES = 9
"""Panels of the figure, the scores that are passed first."""
MARGIN = 3.0
"""Budgets drawn beyond the runs and the further budget."""
CURVE = 120


def ordered(laws: Sequence[ScoreLaw], path: Places) -> tuple[ScoreLaw, ...]:
    """Laws in the order in which the scores pass the thresholds."""
    return tuple(
        sorted(laws, key=lambda law: (*(law.passes(t, path).value for t in THRESHOLDS), law.name))
    )


def budget_places(source: ScalingLaw, flops: Floats) -> Places:
    """The best splits of budgets."""
    best = source.best(flops)
    return Places(log_params=best.log_params, log_tokens=best.log_tokens, log_flops=np.log(flops))


def scores_document(
    source: ScalingLaw, budgets: Sequence[float] = (), chance: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The laws of all scores: where each passes the thresholds, and its value at budgets.

    Args:
        source: A fit.
        budgets: Asked for [FLOP]; the largest fitted and ten times it where there are none.
        chance: Level of chance by score, where it is known.

    Raises:
        FitError, QueryError: As `score_laws` and `score_path`.
    """
    laws, skipped = score_laws(source, chance)
    high = fit_of(source).range["flops"].high
    flops = np.array(budgets or (high, FURTHER * high), dtype=np.float64)
    if not laws:
        return {"laws": [], "skipped": [list(s) for s in skipped]}
    path, places = score_path(source), budget_places(source, flops)
    found = []
    for law in ordered(laws, path):
        values = law.intervals(places, next_run=True).T.tolist()
        found.append(
            {
                "name": law.name,
                "runs": len(law.score),
                "function_of": law.rival,
                "forecast_errors": dict(law.misses),
                "level": law.level,
                "passes": {f"{t:g}": _budget_document(law.passes(t, path)) for t in THRESHOLDS},
                "at": [
                    {"flops": c, "params": n, "tokens": d, "value": v, "low": lo, "high": hi}
                    for c, n, d, (v, lo, hi) in zip(
                        flops.tolist(),
                        np.exp(places.log_params).tolist(),
                        np.exp(places.log_tokens).tolist(),
                        values,
                        strict=True,
                    )
                ],
            }
        )
    return {"laws": found, "skipped": [list(s) for s in skipped]}


def _budget_document(budget: ScoreInterval) -> dict[str, float]:
    """A budget; 0 is below all that was looked at, infinity (null in JSON) beyond."""
    return {"value": budget.value, "low": budget.low, "high": budget.high}


def budget_text(low: float | None, value: float | None, high: float | None) -> str:
    """A budget at which a score passes a threshold, with its interval [FLOP]; None is infinity."""
    low, value, high = (math.inf if v is None else v for v in (low, value, high))
    if math.isinf(low):
        return "not in sight"
    if value == 0.0 == high:
        return "before the runs"
    start = "any" if low == 0 else _two(low)
    if math.isinf(value):
        return f"beyond {start}"
    end = "unbounded" if math.isinf(high) else _two(high)
    return f"{_two(value) if value else 'before'} ({start} to {end})"


def _two(flops: float) -> str:
    """A budget to two digits, which is more than its interval has."""
    return power(float(f"{flops:.1e}"))


def scores_listing(scores: Mapping[str, Any]) -> str:
    """The laws of the scores as two tables: thresholds, then values at budgets."""
    laws = scores["laws"]
    lines = []
    if laws:
        first = laws[0]
        heads = ("score", *(f"passes {percent(float(t))} [FLOP]" for t in first["passes"]))
        rows = [(w["name"], *(budget_text(**p) for p in w["passes"].values())) for w in laws]
        lines += [table_text(heads, rows), ""]
        heads = (
            "score",
            *(f"at {_two(at['flops'])}" for at in first["at"]),
            "function of",
            "misses",
        )
        rows = [
            (w["name"], *map(value_text, w["at"]), w["function_of"], _miss_text(w)) for w in laws
        ]
        note = (
            f"Of the best splits of budgets, in percent, with {percent(first['level'])} intervals; "
            "misses: error in points of forecasts of the costlier runs by the cheaper ones."
        )
        lines += [table_text(heads, rows), "", *wrapped(note).split("\n")]
    lines += [wrapped(f"no law for {name}: {why}") for name, why in scores["skipped"]]
    return "\n".join(lines)


def value_text(at: Mapping[str, float]) -> str:
    """A score in percent with its interval."""
    value, low, high = (100 * at[k] for k in ("value", "low", "high"))
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


def _miss_text(law: Mapping[str, Any]) -> str:
    """The error of the chosen form in forecasts of costlier runs, in points."""
    misses = law["forecast_errors"]
    return f"{100 * misses[law['function_of']]:.1f}" if misses else DASH


def skills_document(
    runs: Sequence[str | Path] | Path,
    budgets: Sequence[float] = (),
    chance: Mapping[str, float] | None = None,
    **reading: Any,
) -> dict[str, Any]:
    """The `isoflop.skills/1` document.

    Args:
        runs: Folder of run records, or tables.
        budgets: At which scores are forecast [FLOP].
        chance: Level of chance by score, where it is known.
        **reading: How tables are read and rows selected, see `load`.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They have neither losses by skill over shapes nor scores, or too few for a law.
    """
    table = load(runs, **reading)
    scored = bool(score_columns(table.columns))
    if (budgets or chance) and not scored:
        raise FitError(
            f"--flops and --chance are of scores, and {table.source} has none: sweep with "
            "train.scores=accuracy, or name a column: --column score_NAME=YOURS."
        )
    document: dict[str, Any] = {"schema": "isoflop.skills/1", "level": SKILL_LEVEL, "shapes": []}
    entropy = None if table.data is None else table.data.entropy_by_skill
    if entropy is not None or not scored:
        document["shapes"] = [dataclasses.asdict(s) for s in skills_by_shape(table)]
    if scored:
        try:
            source = ScalingLaw.from_fit(fit_table(table, FitOptions(name="skills", resamples=0)))
            document["scores"] = scores_document(source, budgets, chance)
        except FitError as error:  # a grid of shapes at one length is worth a table
            if budgets or chance or not document["shapes"]:
                raise
            document["scores"] = {"laws": [], "skipped": [["the scores", str(error)]]}
    return dict(finite_or_null(document))


def skills_listing(document: Mapping[str, Any]) -> str:
    """Excess losses by shape in thousandths of a nat, accuracies by shape, and laws of scores."""
    rows, parts = document["shapes"], []
    if rows:
        cost = {s: max(row["excess"][s]["mean"] for row in rows) for s in rows[0]["excess"]}
        skills = sorted(cost, key=lambda s: -cost[s])[:SHOWN]
        note = "excess loss by skill [nats/1000 per token], mean over seeds and its 90% interval"
        parts += [_shape_rows(rows, skills, "excess", 1e3), note]
    if rows and rows[0]["scores"]:
        names = list(rows[0]["scores"])[:SHOWN]
        note = "scores [%], mean over seeds and its 90% interval"
        parts += [_shape_rows(rows, names, "scores", 100.0), note]
    if "scores" in document:
        parts.append(scores_listing(document["scores"]))
    return "\n\n".join(parts)


def _shape_rows(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], kind: str, unit: float
) -> str:
    """A table of one row per shape and length, a column per name."""
    headings = ("width", "depth", "params", "tokens", "seeds", *names)
    cells = [
        [
            str(row["width"]),
            str(row["depth"]),
            short(row["params"]),
            short(row["tokens"]),
            str(row["seeds"]),
            *(_cell(row[kind][s], unit) for s in names),
        ]
        for row in rows
    ]
    return table_text(headings, cells)


def _cell(excess: Mapping[str, float | None], unit: float) -> str:
    """Mean and half of its interval, in parts of a unit."""
    mean, error = excess["mean"], excess["error"]
    if mean is None:
        return DASH
    if error is None:
        return f"{unit * mean:.2f}"
    half = f"{unit * error:.2f}" if unit * error >= 0.005 else "<0.01"
    return f"{unit * mean:.2f} \N{PLUS-MINUS SIGN}{half}"


def draw_score(ax: Axes, law: ScoreLaw, source: ScalingLaw) -> Axes:
    """A score against compute: its runs, and the law along the best splits with its interval.

    Args:
        ax: Axes to draw on.
        law: Of the score.
        source: The fit.

    Returns:
        The same axes.
    """
    low, high = np.exp(law.span)
    flops = np.geomspace(low / MARGIN, high * FURTHER * MARGIN, CURVE)
    value, lower, upper = 100 * law.intervals(budget_places(source, flops))
    inside = flops <= high
    ax.fill_between(
        flops, lower, upper, color=BAND, alpha=0.2, lw=0, label=f"{percent(law.level)} interval"
    )
    ax.plot(flops[inside], value[inside], color=LAW, lw=1.1, label="law")
    ax.plot(flops[~inside], value[~inside], color=LAW, lw=1.1, ls=DASHED, label="extrapolation")
    for threshold in THRESHOLDS:
        ax.axhline(100 * threshold, color=FAINT, lw=0.7, ls=":", label="thresholds")
    for trunk in np.unique(law.cluster):
        chosen = np.flatnonzero(law.cluster == trunk)
        order = chosen[np.argsort(law.places.log_flops[chosen])]
        if len(order) > 1:
            x, y = np.exp(law.places.log_flops[order]), 100 * law.score[order]
            ax.plot(x, y, color=BLUE, lw=0.5, alpha=0.35, label="one model in training")
    ax.plot(
        np.exp(law.places.log_flops), 100 * law.score, "o", ms=2.2, color=BLUE, ls="none",
        label="runs",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(flops[0], flops[-1])
    ax.set_ylim(-3, 103)
    plots.flops_axis(ax.xaxis)
    plots.style_axes(ax, x=C_LABEL, y="Score [%]")
    ax.set_title(law.name, fontsize="medium")
    return ax


def draw_score_by_loss(ax: Axes, laws: Sequence[ScoreLaw]) -> Axes:
    """All scores against the excess of the whole loss over its floor, falling to the right.

    Args:
        ax: Axes to draw on.
        laws: Of the scores; those of the loss or the excess have their curve.

    Returns:
        The same axes.
    """
    for law, colour in zip(laws, COLOURS, strict=False):
        excess = np.exp(law.log_loss) - law.floor
        kept = excess > 0
        ax.plot(
            excess[kept],
            100 * law.score[kept],
            "o",
            ms=2.4,
            color=colour,
            ls="none",
            label=law.name,
        )
        if law.rival in ("loss", "excess") and kept.any():
            at = np.geomspace(excess[kept].min(), excess[kept].max(), CURVE)
            nowhere = np.zeros(CURVE)
            places = Places(log_params=nowhere, log_tokens=nowhere, log_flops=nowhere)
            features = places.features(law.rival, np.log(law.floor + at), law.floor)
            mode = law.curve.mode[None]
            score = law.curve.score(mode, law.curve.eta(mode, features[None]))[0]
            ax.plot(at, 100 * score, color=colour, lw=0.9, label="curve of the loss")
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_ylim(-3, 103)
    plots.style_axes(ax, x="Loss above its floor [nats/token], falling to the right", y="Score [%]")
    names = {law.name for law in laws}
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncol": 4}
    ax.legend(*_handles(ax, names), frameon=False, fontsize=7.5, **place)
    return ax


def shown_scores(rows: Sequence[ShapeSkills]) -> dict[str, str]:
    """Scores that all shapes have and their labels: those of written stories, else the others."""
    names = [n for n in rows[0].scores if all(np.isfinite(r.scores[n].mean) for r in rows)]
    written = [n for n in names if n.startswith("stories.")]
    mean = {n: np.mean([r.scores[n].mean for r in rows]) for n in written or names}
    chosen = sorted(mean, key=lambda n: -mean[n])[:MOST_ORDERED]
    return {n: n.removeprefix("stories.") for n in chosen}


def draw_order(figure: Figure, shapes: Sequence[ShapeSkills]) -> Figure | None:
    """Scores against model size, and beneath by width and depth; None without scores.

    Args:
        figure: Empty.
        shapes: Of one length those are drawn that a report shows.

    Returns:
        The same figure.
    """
    rows = context_plots.shapes_shown(shapes)
    if not (graded := shown_scores(rows)):
        return None
    grid = figure.add_gridspec(2, len(graded), height_ratios=(1.5, 1))
    ax = figure.add_subplot(grid[0, :])
    for (name, label), colour in zip(graded.items(), COLOURS, strict=False):
        best: dict[float, SkillExcess] = {}
        for row in sorted(rows, key=lambda r: r.scores[name].mean):
            best[row.params] = row.scores[name]
        sizes = sorted(best)
        mean = np.array([100 * best[n].mean for n in sizes])
        half = np.array([best[n].error if math.isfinite(best[n].error) else 0.0 for n in sizes])
        ax.vlines(sizes, mean - 100 * half, mean + 100 * half, color=colour, lw=0.8, alpha=0.6)
        ax.plot(sizes, mean, "o-", ms=3.5, lw=1.1, color=colour, label=label)
    ax.set_xscale("log")
    ax.set_xlim(min(r.params for r in rows) / 1.2, max(r.params for r in rows) * 1.2)
    ax.set_ylim(0, 103)
    plots.count_axis(ax.xaxis)
    plots.style_axes(ax, x=plots.N_LABEL, y="Right words [%]")
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    ax.legend(frameon=False, ncols=len(graded), borderpad=0.1, **above)
    for place, (name, label) in enumerate(graded.items()):
        panel = figure.add_subplot(grid[1, place])
        context_plots.skill_by_shape(panel, rows, name, label=label, scores=True)
        if place:
            panel.set_ylabel("")
    return figure


def _handles(ax: Axes, names: set[str]) -> tuple[list[Any], list[str]]:
    """Legend entries of the scores."""
    pairs = [p for p in zip(*ax.get_legend_handles_labels(), strict=True) if p[1] in names]
    return [h for h, _ in pairs], [n for _, n in pairs]


def score_table(source: ScalingLaw, laws: Sequence[ScoreLaw]) -> Table:
    """Where each score passes the thresholds, its value at a further budget, and its form."""
    path = score_path(source)
    further = FURTHER * fit_of(source).range["flops"].high
    rows = []
    for law in laws:
        (value,), (low,), (high,) = law.intervals(
            budget_places(source, np.array([further])), next_run=True
        )
        passed = (law.passes(t, path) for t in THRESHOLDS)
        rows.append(
            (
                law.name,
                *(budget_text(b.low, b.value, b.high) for b in passed),
                value_text({"value": value, "low": low, "high": high}),
                FORMS[law.rival],
                f"{100 * law.misses[law.rival]:.1f}" if law.misses else DASH,
            )
        )
    at = math_power(_two(further))
    heads = (*(f"passes {percent(t)} [FLOP]" for t in THRESHOLDS), f"at {at} FLOP [%]")
    return Table(
        columns=(left("score"), *map(right, heads), left("function of"), right("misses")),
        rows=tuple(rows),
        caption="The compute at which each score passes a threshold on the compute-optimal path, "
        f"and its value for a run at {FURTHER:g} times the largest budget, with "
        f"{percent(laws[0].level)} intervals. A score is a sigmoid; forecasts average those of "
        "compute, size and loss by how well each forecast the costlier runs from the cheaper ones. "
        "The best is named; misses are the errors of its forecasts, in points.",
        dense=True,
    )
