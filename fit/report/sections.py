"""The sections of a report after its first page: what is shown, in which order, in which words.

What stands under each figure of a report; mathematics between dollar signs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from fit.allocation.scaling_law import ScalingLaw, splits_budgets
from fit.forecasts.ledger import Ledger
from fit.forecasts.scoring import calibration
from fit.inference.intervals import METHODS
from fit.laws.families import law
from fit.quantities import percent, power
from fit.query.question import Answer
from fit.report import tables
from fit.report.listings import rate_lines
from fit.report.tables import (
    Block,
    FigureBlock,
    Paragraph,
    Section,
    Table,
    left,
    math_power,
    right,
    wide,
)
from fit.results import Fit, is_identified

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
MEANINGS = {
    "E": "nats/token, the loss of a perfect predictor",
    "A": 'nats/token $times$ $"parameters"^alpha$',
    "B": 'nats/token $times$ $"tokens"^beta$',
    "alpha": "how fast parameters pay",
    "beta": "how fast tokens pay",
    "a": "$N^*$ grows as $C^a$ where $C = k N D$",
    "b": "$D^*$ grows as $C^b$ where $C = k N D$",
}
"""Of the two-term law's parameters; other laws say theirs in their formula."""
COSTS = "What it costs"
PARTS = {
    "": ("loss-compute",),
    "Sizes and tokens": ("optimum", "isoflop", "surface", "models", "tokens"),
    COSTS: ("price", "serving", "repeats"),
    "Width and depth": ("skills",),
    "Fit and measurement": ("fit", "residuals"),
}
"""Sections of figures."""
NARROW = {"fit": 82, "price": 78, "serving": 78}
"""Figures that are not as wide as the text, in percent of it."""


def caption(name: str, words: Mapping[str, str]) -> str:
    """A figure's caption.

    Args:
        name: Of the figure.
        words: What the braces stand for; dollar signs in them would be mathematics, and are left
            out where they come from the input.
    """
    return CAPTIONS[name].format_map(words)


def chapters(
    source: ScalingLaw,
    drawn: Collection[str],
    words: Mapping[str, str],
    further: Answer | None,
    costs: Collection[Table] = (),
    ledger: Ledger | None = None,
) -> tuple[Section, ...]:
    """The sections of a report, those with nothing to show left out.

    Args:
        source: A fit as a source.
        drawn: Names of the figures there are.
        words: What captions say, see `captions_words`.
        further: The answer that page 1 recommends, where there is one.
        costs: Tables of the section on costs.
        ledger: Forecasts that were sealed, where there are any.
    """
    fit = source.fit
    assert fit is not None
    law = Section(title="The law", blocks=(_theta(fit),))
    first = () if splits_budgets(source) else (law,)
    shown = [
        Section(title=title, blocks=_pictures(names, drawn, words))
        for title, names in PARTS.items()
    ]
    place = list(PARTS).index(COSTS)
    shown[place] = Section(title=COSTS, blocks=(*costs, *shown[place].blocks))
    found = (
        *first,
        *shown,
        Section(title="Checks", blocks=_checks(fit, drawn, words)),
        *(() if first else (law,)),
        Section(title="Forecasts", blocks=_forecasts(ledger)),
        Section(title="Runs", blocks=_runs(fit)),
        Section(title="Method", blocks=_method(source)),
        Section(title="Data, options and versions", blocks=(_facts(fit), *_launch(further))),
    )
    return tuple(s for s in found if s.blocks)


def caption_words(source: ScalingLaw, further: str) -> dict[str, str]:
    """What stands in the braces of captions.

    Args:
        source: A fit as a source.
        further: The second budget of page 1 over the largest fitted.
    """
    fit = source.fit
    assert fit is not None
    level = percent(fit.interval.level)
    shown = splits_budgets(source) and is_identified(fit)
    basis = {k: v.replace("$", "") for k, v in tables.basis(fit).items()}
    return {
        **basis,
        "serving": "",
        "repeats": "",
        "length": "",
        "formula": source.law.formula,
        "dropped": str(len(fit.runs_dropped)),
        "level": level,
        "noise": f"{100 * fit.noise:.2g}%",
        "further": further,
        "target": tables.target_name(source.law.name),
        "frontier": "Thin lines are the law at single sizes. The black line is the frontier, the "
        "least loss that a budget buys, dashed where it extrapolates; the band is its "
        f"{level} confidence interval."
        if shown
        else "The law is not drawn: these runs do not tell it.",
        "bottoms": "Dashes lie outside the sizes that were trained; the black line joins the "
        "lowest points."
        if shown
        else "The curves end with the sizes that were trained, and no optimum is drawn: these runs "
        "do not tell it.",
    }


def _pictures(
    names: Collection[str], drawn: Collection[str], words: Mapping[str, str]
) -> tuple[Block, ...]:
    """Those figures that there are."""
    return tuple(
        FigureBlock(name=n, caption=caption(n, words), width=NARROW.get(n, 100))
        for n in names
        if n in drawn
    )


def _theta(fit: Fit) -> Table:
    """The parameters with their intervals."""
    method = METHODS[fit.interval.method].caption
    meanings = MEANINGS if law(fit.law).two_terms is not None else {}
    rows = tuple(
        (f"${name.replace('*', '^*')}$", value, ends, meanings.get(name, ""))
        for name, value, ends in tables.theta(fit)
    )
    level = percent(fit.interval.level)
    return Table(
        columns=(
            left("", "symbol"),
            right("value", "number"),
            left(f"{level} interval", "span"),
            wide("unit or meaning", "meaning"),
        ),
        rows=rows,
        caption=f"Parameters on raw counts, with {level} confidence intervals ({method}).",
    )


def _checks(fit: Fit, drawn: Collection[str], words: Mapping[str, str]) -> tuple[Block, ...]:
    """Other approaches, other ways of counting, predictions of what was held out, influence."""
    blocks: list[Block] = [*_pictures(["approaches"], drawn, words)]
    if fit.exponents:
        blocks.append(_exponents(fit))
    if fit.conventions:
        blocks.append(_conventions(fit))
    blocks += _pictures(["holdout"], drawn, words)
    blocks += [b for b in (_holdout(fit), _rolling(fit)) if b is not None]
    blocks += _pictures(["influence"], drawn, words)
    blocks += [_influence(fit, words["further"])] if fit.influence else []
    return tuple(blocks)


def _exponents(fit: Fit) -> Table:
    """The exponent by each approach."""
    return Table(
        columns=(
            left("approach"),
            right("$a$"),
            left(f"{percent(fit.interval.level)} interval"),
            wide("remark", "small"),
        ),
        rows=tuple(tuple(r) for r in tables.checks(fit)),
        caption="Exponent $a$ of $N^* ~ C^a$ by each approach.",
    )


def _conventions(fit: Fit) -> Table:
    """The same runs counted otherwise."""
    return Table(
        columns=(left("$N$ counts"), left("$C$ counts"), right("$a$"), right("$D\\/N$")),
        rows=tuple(tuple(tables.convention(c)) for c in fit.conventions),
        caption="The same runs under other ways of counting. $D\\/N$ is at the largest budget. The "
        "choice alone moves the exponent at small scale; an answer holds in its own convention "
        "only.",
    )


def _holdout(fit: Fit) -> Table | None:
    """The largest budget, predicted by the smaller ones."""
    h = tables.holdout(fit)
    if h is None:
        return None
    text = (
        f"Holdout: runs of {math_power(h['budget'])} FLOP and more, predicted by a law fitted to "
        f"the smaller runs alone{_unit(fit)}."
    )
    if h["covered"] is not None:
        text += f" {h['covered']} of them lie in their prediction intervals."
    if h["count"] > len(h["rows"]):
        text += f" The first {len(h['rows'])} of {h['count']}."
    return Table(
        columns=(left("run", "raw"), right("predicted"), right("measured"), right("error")),
        rows=tuple(tuple(r) for r in h["rows"]),
        caption=text,
    )


def _unit(fit: Fit) -> str:
    """Unit of what is predicted."""
    return {"loss": " [nats/token]", "batch": " [tokens]"}.get(tables.target_name(fit.law), "")


def _rolling(fit: Fit) -> Table | None:
    """Each budget, predicted by all smaller ones."""
    rows = tables.rolling(fit)
    if len(rows) < 2:
        return None
    level = percent(fit.interval.level)
    heads = ("runs", "resting on", "mean error", "largest", f"in {level} prediction")
    return Table(
        columns=(right("budget [FLOP]", "number"), *(right(h) for h in heads)),
        rows=tuple(tuple(r) for r in rows),
        caption="Rolling holdout: each budget predicted by the law fitted to all smaller ones. "
        "Errors are predicted against measured.",
    )


def _influence(fit: Fit, further: str) -> Table:
    """What decides the answer."""
    return Table(
        columns=(
            left("left out", "raw"),
            right("change of $N^*$"),
            right("share"),
            right("cost [FLOP]", "number"),
        ),
        rows=tuple(tuple(r) for r in tables.influence(fit)),
        caption=f"What decides the answer: $N^*$ at {further} times the largest budget when a run "
        "(or all runs of one cluster) is left out and the law fitted again; its share of the "
        "squared changes of all, and what doing it again costs.",
    )


def _forecasts(ledger: Ledger | None) -> tuple[Block, ...]:
    """What was sealed before its run, and what came of it."""
    if ledger is None or not ledger.entries:
        return ()
    heads = ("FLOP", "forecast", "interval", "measured", "off", "")
    forms = ("number", "text", "span", "text", "text", "text")
    columns = (left("sealed forecast", "raw"), *map(right, heads, forms))
    said = (" ".join(t.split()).rstrip(".") for t in rate_lines(calibration(ledger)))
    text = " ".join(f"{t[:1].upper()}{t[1:]}." for t in said)
    table = Table(
        columns=columns,
        rows=tuple(tuple(r) for r in tables.forecasts(ledger)),
        caption="Forecasts that were sealed before their runs, by any fit beside this one.",
    )
    return (Paragraph(text=text, plain=True), table)


def _runs(fit: Fit) -> tuple[Block, ...]:
    """The run table, and what was left out of the fit."""
    found = tables.runs(fit)
    shown, total = len(found["rows"]), found["total"]
    text = (
        f"The {shown} of {total} runs that lie farthest from the law, by compute; all stand in "
        "fit.json."
    )
    what = tables.target_name(fit.law)
    heads = ("width\N{MULTIPLICATION SIGN}depth", "$N$", "$D$")
    columns = (
        wide("run", "raw"),
        *(right(h) for h in heads),
        right("$C$ [FLOP]", "number"),
        *(right(h) for h in ("lr", f"{what}{_unit(fit)}", "residual [%]")),
    )
    kept = [i for i in range(len(columns)) if any(r[i] != tables.DASH for r in found["rows"])]
    table = Table(
        columns=tuple(columns[i] for i in kept),
        rows=tuple(tuple(r[i] for i in kept) for r in found["rows"]),
        caption=text if shown < total else "",
        dense=True,
    )
    if not fit.runs_dropped:
        return (table,)
    rows = tables.dropped(fit)
    more = len(fit.runs_dropped) - len(rows)
    dropped = Table(
        columns=(left("left out of the fit", "raw"), wide("why")),
        rows=tuple(tuple(r) for r in rows),
        caption=f"Left out of the fit; {more} more are not listed." if more else "",
        dense=True,
    )
    return (table, dropped)


def _method(source: ScalingLaw) -> tuple[Block, ...]:
    """How it was done, with sources."""
    fit = source.fit
    assert fit is not None
    basis = {k: v.replace("$", "") for k, v in tables.basis(fit).items()}
    what = tables.target_name(source.law.name)
    of_loss = (
        "$L$ the held-out loss in nats per token, fitted to $ln L$"
        if what == "loss"
        else (f"the best {what}, fitted to its logarithm")
    )
    law = Paragraph(
        lead="Law",
        text=f"${source.law.formula}$, with $N$ parameters ({basis['params']}), $D$ training "
        f"tokens and {of_loss} by {basis['objective']}. What is minimised is robust: one bad run "
        "in forty moves a least-squares optimum by a third. Scales are for raw counts."
        + (f" Here {source.law.about}." if source.law.about else ""),
    )
    intervals = Paragraph(
        lead="Intervals",
        text=f"{METHODS[fit.interval.method].caption}, {percent(fit.interval.level)}, "
        f"quantile {tables.digits(fit.interval.quantile)}, {basis['clusters']} clusters: runs that "
        "share a trunk share their errors, so they are resampled and summed together. "
        f"{basis['draws']} bootstrap draws are kept in fit.json. A confidence interval is about "
        "the law; a prediction interval, of the next run, adds the noise of one run.",
    )
    sources = Paragraph(
        lead="Sources",
        text="Hoffmann et al. 2022, arXiv:2203.15556 (the law, three approaches); Besiroglu et "
        "al. 2024, arXiv:2404.10102 (robust refit); Porian et al. 2024, arXiv:2406.19146 "
        "(counting); MacKinnon & White 1985 (HC3); published models: each with its source in "
        "figures/models-sources.csv.",
    )
    return (law, intervals, *_optimum(source, basis), sources)


def _optimum(source: ScalingLaw, basis: Mapping[str, str]) -> tuple[Block, ...]:
    """How budgets are split."""
    if not splits_budgets(source):
        return ()
    how = "as in the runs, by their own $C\\/(N D)$"
    if source.ladder is not None:
        how = (
            f"counted from the shape ({basis['flops']}), along the ladder of shapes that was "
            "trained: depth as in the runs inside their widths, the aspect of the largest run "
            "beyond"
        )
    text = (
        "$N^*$ and $D^*$ minimise $L(N, D)$ at equal compute, with the cost of a token "
        f"{how}. \N{LEFT DOUBLE QUOTATION MARK}Just as good\N{RIGHT DOUBLE QUOTATION MARK} is the "
        "range of $N$ whose loss stays within one run's noise of the least."
    )
    return (Paragraph(lead="Optimum", text=text),)


def _facts(fit: Fit) -> Table:
    """Data, conventions, source and versions, in two columns."""
    rows = tables.facts(fit)
    half = -(-len(rows) // 2)
    second = [*rows[half:], ["", ""]][:half]
    return Table(
        columns=(left("", "meaning"), wide("", "span"), left("", "meaning"), wide("", "span")),
        rows=tuple((*a, *b) for a, b in zip(rows[:half], second, strict=True)),
        dense=True,
    )


def _launch(further: Answer | None) -> tuple[Block, ...]:
    """The whole command that launches the recommendation, which needs no fit."""
    if further is None or not further.config:
        return ()
    budget = math_power(power(further.flops.value))
    text = f"The shape of page 1 at {budget} FLOP, every setting spelled out:"
    code = f"python -m sweep {tables.one_line(tables.quoted(further.config))}"
    return (Paragraph(lead="Launch", text=text, code=code),)
