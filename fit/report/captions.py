"""Captions of the figures in a report: they say what is seen in each, and no more.

A caption is sentences; one that explains a mark stands in it only if that mark is seen in the
figure that was drawn (`RenderedFigure.shown`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from fit.allocation import costs
from fit.allocation.scaling_law import FURTHER, ScalingLaw, fit_of
from fit.inference.misspecification import EVENTS
from fit.quantities import count_noun, percent, short
from fit.report import check_plots, context_plots, scores, tables
from fit.report.figure_data import EQUAL_LOSS
from fit.report.figures import FIGURES, FigureInputs, limited_law, serving_costs_of
from fit.report.plots import ANSWER
from fit.report.tables import FigureBlock

CaptionPart = str | tuple[str, str] | Callable[[FigureInputs], str]
"""A sentence, one with the label of the mark that it explains, or one made from the data."""

BASIS = (
    "The law is ${formula}$, fitted by {objective}, with N counted as {params} and C as {flops}; "
    "{used} runs used, {dropped} dropped."
)
"""How the law was fitted; ends the caption of the figure that shows how well."""
RUNS = ("runs", "Points are runs.")
DASHES = ("extrapolation", "Dashes mark extrapolation.")
LAW_BAND = ("{level} confidence", "The grey band is the law's {level} confidence interval.")
NOISE_BAND = ("one run's noise", "The grey band is the noise of one run, {noise}.")


def figure_block(
    name: str, inputs: FigureInputs, drawn: Mapping[str, Collection[str]]
) -> FigureBlock | None:
    """A figure with its caption; None where it was not drawn.

    Args:
        name: A key of `FIGURES`.
        inputs: The data that it is drawn from.
        drawn: Figures that were drawn, and the labels of the marks seen in each.
    """
    if name not in drawn:
        return None
    caption = figure_caption(name, inputs, drawn[name])
    return FigureBlock(name=name, caption=caption, width=FIGURES[name].width)


def figure_caption(name: str, inputs: FigureInputs, shown: Collection[str]) -> str:
    """The caption of a figure.

    Args:
        name: A key of `FIGURES`.
        inputs: The data that it is drawn from.
        shown: Labels of the marks that are seen in it, as of its `RenderedFigure`.
    """
    words, sentences = caption_words(inputs.source), []
    for part in CAPTIONS[name]:
        if callable(part):
            sentences.append(part(inputs))
        elif isinstance(part, str):
            sentences.append(part.format_map(words))
        elif part[0].format_map(words) in shown:
            sentences.append(part[1].format_map(words))
    return " ".join(filter(None, sentences))


def caption_words(source: ScalingLaw) -> dict[str, str]:
    """The words that stand for the braces in captions."""
    fit = fit_of(source)
    return {
        **tables.basis_words(fit),
        "formula": source.law.formula,
        "level": percent(fit.interval.level),
        "noise": f"{100 * fit.noise:.2g}%",
        "further": f"{FURTHER:g}",
        "target": tables.target_name(source.law.name),
    }


def _undetermined(inputs: FigureInputs) -> str:
    """Why a figure shows runs and no law."""
    if inputs.best is not None:
        return ""
    return f"The law is not drawn: {tables.clean(inputs.verdict.reason, 400).rstrip('.')}."


def _price_end(inputs: FigureInputs) -> str:
    """Where the curve of prices ends before the budgets do."""
    assert inputs.best is not None
    price = costs.next_price(inputs.source, inputs.best.flops)
    if (price.value <= context_plots.MOST_TIMES * inputs.best.flops).all():
        return ""
    return (
        f"The curve ends at {context_plots.MOST_TIMES:g} times the budget, or where the law's "
        "irreducible loss E is less than 0.01 nats/token away."
    )


def _serving_caption(inputs: FigureInputs) -> str:
    costs_by_size, served = serving_costs_of(inputs), inputs.request.serve_tokens
    if costs_by_size is None or served is None:
        return ""
    return context_plots.lifetime_caption(costs_by_size, served)


def _repeats_caption(inputs: FigureInputs) -> str:
    if (limit := limited_law(inputs)) is None:
        return ""
    _, limited, unique = limit
    return context_plots.repeats_caption(inputs.source, limited, unique, inputs.budget)


def _phase_caption(inputs: FigureInputs) -> str:
    phase = fit_of(inputs.source).curves["phase"]
    return (
        "Residuals against tokens, by an event of the schedule: whether "
        f"{EVENTS[phase['event']][0]}. The difference is {phase['effect']:.2%} with a standard "
        f"error of {phase['error']:.2%} (F = {phase['statistic']:.1f}, p = "
        f"{phase['probability']:.1g})."
    )


def _curves_caption(inputs: FigureInputs) -> str:
    found = fit_of(inputs.source).curves["collapse"]
    lengths = found["lengths"]
    what = f" of {short(max(lengths))} tokens" if lengths else ""
    over = f", the mean of {count_noun(len(lengths), 'length')}" if len(lengths) > 1 else ""
    return (
        f"Training curves of {len(found['sizes'])} sizes{what}, less the loss at the end of the "
        "trunk and scaled to one final loss (left), and how far each size lies off their mean"
        f"{over}, over the part that is compared (right)."
    )


def _collapse_result(inputs: FigureInputs) -> str:
    found = fit_of(inputs.source).curves["collapse"]
    if found["probability"] is None:
        return (
            f"Sizes differ by {found['discrepancy']:.2g} nats/token; whether that is more than "
            "seeds do, one seed cannot say."
        )
    return (
        f"Sizes differ by {found['discrepancy']:.2g} nats/token beyond what the noise of "
        f"{found['noise']:.2g} explains (p = {found['probability']:.2g})."
    )


def _gap_result(inputs: FigureInputs) -> str:
    gaps = check_plots.training_gaps(fit_of(inputs.source), inputs.curves)
    return (
        f"Right: held-out less training loss at the end of {count_noun(len(gaps), 'run')}, by a "
        "line through the last tenth of the curve, with its standard error; runs of one seed and "
        "length saw the same batches, and their errors are common. The mean is "
        f"{1e3 * gaps[:, 1].mean():+.1f} and the median error of a run "
        f"{1e3 * np.median(gaps[:, 2]):.1f} thousandths of a nat per token."
    )


CAPTIONS: Mapping[str, tuple[CaptionPart, ...]] = {
    "loss-compute": (
        "Loss against training compute.",
        ("runs", "Points are runs, coloured by compute."),
        ("law at one size", "Thin lines are the law at fixed model sizes."),
        ("law", "The black line is the efficient frontier, the lowest loss of each budget."),
        DASHES,
        ("{level} confidence", "The band is its {level} confidence interval."),
        ("fitted E", "The grey dotted line is the fitted $E$."),
        ("known entropy", "The red dash-dotted line is the known entropy of the data."),
        (
            ANSWER,
            "The star is the answer above, its bar the {level} prediction interval of one run.",
        ),
        _undetermined,
    ),
    "optimum": (
        "Compute-optimal parameters $N^*$ (left) and tokens $D^*$ (right) against compute.",
        ("law", "Lines are the law."),
        DASHES,
        LAW_BAND,
        ("runs", "Points are the runs that were trained."),
        (ANSWER, "The star is the answer of page 1, its bar the {level} interval."),
        ("published models", "Triangles are published models at a compute of 6 N D."),
    ),
    "isoflop": (
        "Loss against model size.",
        ("law at one budget", "Coloured curves are the law at a fixed budget, by its colour."),
        ("optimum N*", "The black line joins the minima of such curves."),
        ("extrapolation", "Dashes lie outside the sizes or beyond the budgets of the runs."),
        ("runs", "Points are runs, coloured by their budgets."),
        _undetermined,
    ),
    "surface": (
        "The loss surface over parameters and tokens.",
        (EQUAL_LOSS, "Thin lines are contours of equal loss by the law."),
        ("equal compute", "Dotted lines join points of equal compute at powers of ten."),
        RUNS,
        ("efficient frontier", "The thick line is the best split of each budget."),
        DASHES,
    ),
    "models": (
        "Tokens per parameter against model size.",
        ("law", "The black line is the law's best split."),
        DASHES,
        LAW_BAND,
        RUNS,
        (
            "published models",
            "Triangles are models whose size and tokens were published. They were trained on "
            "other data, and many were to be served rather than compute-optimal: they give "
            "context and do not test the law.",
        ),
        ("mixtures of experts", "Hollow ones are mixtures of experts, by active parameters."),
        (context_plots.REFERENCE_LABEL, "The thin grey line is a published law."),
    ),
    "tokens": (
        "Loss against model size at fixed numbers of tokens.",
        ("law at one D", "Lines are the law, labelled with D at the right where there is room."),
        RUNS,
    ),
    "price": (
        "Additional compute that lowers the loss by the next 0.01 nats/token, against the "
        "budget, when both budgets are split best.",
        ("law", "The black line is the law."),
        DASHES,
        LAW_BAND,
        ("equal to the budget", "Above the dotted line it exceeds the budget itself."),
        _price_end,
    ),
    "serving": (_serving_caption,),
    "repeats": (
        _repeats_caption,
        ("unique tokens limited", "The red line on the left has the limit."),
        ("law", "The black one has unlimited fresh tokens."),
        DASHES,
        LAW_BAND,
        RUNS,
        ("best split", "The red line on the right is the best split with the limit."),
        ("nearly as good as fresh", "Below the solid line repeats are nearly as good as new."),
        ("of little value beyond", "Above the dotted line they are of little value."),
    ),
    "training": (
        "Loss against tokens by size, darker the smaller.",
        ("training loss", "Lines (left) are the longest training of each size."),
        ("held-out loss", "Points are held-out losses at the end of all runs."),
        ("known entropy", "The red dash-dotted line is the known entropy of the data."),
        _gap_result,
        (check_plots.ONE_EPOCH, "Blue points are runs that saw no data twice."),
        (check_plots.REPEATED, "Red points are runs of more than one epoch."),
    ),
    "ladder": (
        "Perplexity, e to the loss in nats per token: as many equally likely tokens would be as "
        "hard to predict. All steps are measured on the held-out sample.",
        ("n-gram", "N-grams have interpolated Kneser-Ney smoothing."),
        ("model", "Of each size of model the best run is shown."),
        ("limit", "At the end stands what no model can pass."),
    ),
    "skills": (lambda inputs: context_plots.skills_caption(inputs.shapes),),
    "scores": (
        "Scores against compute.",
        RUNS,
        ("one model in training", "Faint lines join the lengths of one training."),
        ("law", "The black line is the law of each score along the compute-optimal path."),
        DASHES,
        ("{level} interval", "The grey band is its {level} interval."),
        ("thresholds", scores.THRESHOLDS_TEXT),
    ),
    "scores-loss": (
        "Scores against the loss above its floor: what seems to appear at once in compute is "
        "smooth in the loss.",
        ("curve of the loss", "Lines are the laws of scores that follow the loss best."),
    ),
    "fit": (
        "Measured against fitted {target} (left), and the residuals in percent (right).",
        RUNS,
        ("law", "On the black line both agree."),
        (
            "one run's noise",
            "The band is the noise of one run, {noise}, a robust standard deviation about the law.",
        ),
        BASIS,
    ),
    "residuals": (
        "Residuals against the quantities in which the runs differ.",
        RUNS,
        NOISE_BAND,
        "A trend here means that the data deviate from the law systematically; the intervals "
        "are then too narrow far from the runs.",
    ),
    "phase": (
        _phase_caption,
        (check_plots.MET, "Red: runs that meet the event."),
        (check_plots.NOT_MET, "Blue: the others."),
        "Bars are means of a length.",
    ),
    "curves": (
        _curves_caption,
        (check_plots.A_SIZE, "Lines are sizes, darker the smaller."),
        (check_plots.TRUNK_END, "The dotted line marks the end of the trunk."),
        (
            check_plots.SEEDS_BAND,
            "The grey band is the noise of one run, from runs that differ in their seed alone.",
        ),
        _collapse_result,
    ),
    "holdout": (
        "Held-out budgets, each predicted by the law fitted to all smaller ones: "
        "deviation of the predicted from the measured value.",
        ("runs", "Points are runs of the largest budget."),
        ("mean of a budget", "Diamonds are the mean of a budget."),
        ("largest error", "Thin lines reach to its largest error, on either side."),
        NOISE_BAND,
        "Errors of one sign throughout mean that the data deviate from the law systematically.",
        ("runs inside", "Right: the share of runs inside their {level} prediction intervals."),
        (
            "what {level} intervals allow",
            "The bars are the range that chance allows if the intervals are correct.",
        ),
    ),
}
"""Captions by the name of the figure in `figures.FIGURES`."""
