"""What stands under each figure of a report; mathematics between dollar signs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BASIS = (
    "The law is ${formula}$ by {objective}, N counted as {params} and C as {flops}; {used} runs "
    "used, {dropped} dropped."
)
"""How the law came about; the captions of figures that show it alone end with it."""

CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "loss-compute": "Loss against training compute. Points are runs, coloured by compute. "
        "{frontier}",
        "optimum": "Compute-optimal parameters $N^*$ (left) and tokens $D^*$ (right) with their "
        "{level} intervals. Points are the runs that were trained, dashes extrapolation. Where "
        "there are any, diamonds are the bottoms of isoFLOP valleys, found without the law, and "
        "triangles published models at the 6 N D that they took.",
        "models": "Tokens per parameter against size: the law's best split with its {level} band, "
        "dashed where it extrapolates, the runs, and models whose size and tokens were published "
        "(hollow: of experts, by active parameters). They were trained on other data, and many to "
        "be served and not to be compute-optimal: beside the law, not a test of it.",
        "isoflop": "IsoFLOP curves: loss against size when a fixed budget is spent, by the law. "
        "{bottoms} Points are runs; a run lies on the curve of its own budget (its colour). "
        + BASIS,
        "surface": "The loss surface: thin lines join sizes and lengths of equal loss by the law, "
        "dotted ones those of equal compute, a decade apart. Points are runs. The thick line is "
        "the efficient frontier, the best split of every budget, dashed where it extrapolates.",
        "tokens": "Loss against size at equal token counts. Lines are the law, each named by its D "
        "at the right; points are runs. " + BASIS,
        "price": "Compute beyond each budget that takes the loss down by the next 0.01 "
        "nats/token, when both are split best; dashed beyond the runs, the band its {level} "
        "interval. Above the dotted line it is more than the budget itself. The curve ends at 300 "
        "times that, or where the law's E is nearer than the step.",
        "serving": "{serving}",
        "repeats": "{repeats}",
        "fit": "Measured against fitted {target}, and the residuals beneath in percent. The band "
        "is the noise of one run, {noise}, a robust standard deviation about the law. " + BASIS,
        "residuals": "Residuals against what the runs differ in; the band is one run's noise. A "
        "trend here means that the law bends: then the intervals are too narrow far from the "
        "runs.",
        "approaches": "Left: the exponent $a$ of $N^* ~ C^a$ by approaches 3, 2 and 1 with their "
        "{level} intervals, and by the same law under other ways of counting. Right: the $N^*$ of "
        "each approach, dashed beyond what it rests on.",
        "holdout": "Held-out budgets, each predicted by the law fitted to all smaller ones. Left: "
        "predicted over measured loss; one sign all the way means that the law bends. Right, where "
        "there are several: the share of runs inside their {level} prediction intervals, and the "
        "range in which it would lie by chance if these were true.",
        "influence": "What decides the answer: $N^*$ at {further} times the largest budget when a "
        "run, or a cluster of runs that share a trunk, is left out and the law fitted again.",
        "skills": "Loss by shape at {length} tokens: what each skill costs above a perfect "
        "predictor [nats/1000 per token], mean over seeds, half of its 90% interval beneath. Read "
        "along a row for what width buys, up a column for what depth buys; the darker, the better.",
    }
)


def caption(name: str, words: Mapping[str, str]) -> str:
    """A figure's caption.

    Args:
        name: Of the figure.
        words: What the braces stand for; dollar signs in them would be mathematics, and are left
            out where they come from the input.
    """
    return CAPTIONS[name].format_map(words)
