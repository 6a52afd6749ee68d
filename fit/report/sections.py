"""The sections of a report after page 1: figures, tables and paragraphs, in their order.

Figures come from the registry in `figures.py`; rows of cells from `tables.py`; here they get
headings, captions and an order. Text between dollar signs is mathematics.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping

import numpy as np

from fit.allocation.scaling_law import ScalingLaw, fit_of, splits_budgets
from fit.diagnostics.forms import league_of_forms, share_of_floor, stands
from fit.forecasts.ledger import Ledger
from fit.forecasts.scoring import calibration
from fit.inference.intervals import METHODS
from fit.laws.families import law
from fit.quantities import count_noun, percent, power, short
from fit.query.documents import Answer
from fit.report import figures, tables
from fit.report.captions import caption_words, figure_block
from fit.report.figures import FigureInputs
from fit.report.listings import calibration_lines
from fit.report.scores import score_table
from fit.report.tables import (
    Block,
    NoteList,
    Paragraph,
    Section,
    Table,
    left,
    math_power,
    right,
    wide,
)
from fit.report.text import DASH, TIMES, convention_cells
from fit.results import Fit

FIRST_FIGURE = "loss-compute"
"""Figure 1, which stands on page 1."""
MEANINGS = {
    "E": "nats/token, the loss of a perfect predictor",
    "A": 'nats/token $times$ $"parameters"^alpha$',
    "B": 'nats/token $times$ $"tokens"^beta$',
    "alpha": "exponent of the parameters",
    "beta": "exponent of the tokens",
    "a": "$N^*$ grows as $C^a$ where $C = k N D$",
    "b": "$D^*$ grows as $C^b$ where $C = k N D$",
}
"""Parameters of the two-term law; for other laws the formula itself is shown instead."""


def report_sections(
    inputs: FigureInputs,
    drawn: Mapping[str, Collection[str]],
    recommendation: Answer | None,
    ledger: Ledger | None = None,
    further_notes: tuple[tuple[str, str], ...] = (),
) -> tuple[Section, ...]:
    """The appendix of a report, sections with nothing to show left out.

    Args:
        inputs: The fit as a source, and what is requested beside it.
        drawn: Figures that were drawn, and the labels of the marks seen in each.
        recommendation: The answer that page 1 recommends, where there is one.
        ledger: Sealed forecasts, where there are any.
        further_notes: Notes for which page 2 has no room.
    """
    source, fit = inputs.source, fit_of(inputs.source)
    law = Section(title="The law", blocks=(_theta(fit),))
    # A law that splits no budget has no answers on page 1: its parameters come first.
    first = not splits_budgets(source)
    further = caption_words(source)["further"]
    tables_after = {
        "scores": (score_table(source, inputs.scores),) if inputs.scores else (),
        "curves": (_exponents(inputs), _conventions(fit)),
        "holdout": (_holdout(fit), *_forms(inputs), _influence(fit, further)),
    }
    notes = (NoteList(rows=further_notes),) if further_notes else ()
    shown: dict[str, list[Block | None]] = {}
    for name, figure in figures.FIGURES.items():
        if figure.section in ("", figures.PRICES):  # on pages 1 and 2
            continue
        blocks = shown.setdefault(figure.section, [])
        blocks += (figure_block(name, inputs, drawn), *tables_after.get(name, ()))
    sections = (
        *([law] if first else []),
        *(Section(title=t, blocks=tuple(b for b in bs if b)) for t, bs in shown.items()),
        *([] if first else [law]),
        Section(title="Further notes", blocks=notes),
        Section(title="Forecasts", blocks=_forecasts(source, ledger)),
        Section(title="Method", blocks=_method(source)),
        Section(title="Data, options and versions", blocks=(_facts(fit), *_launch(recommendation))),
        Section(title="Runs", blocks=_runs(fit)),
    )
    return tuple(s for s in sections if s.blocks)


def _theta(fit: Fit) -> Table:
    """Parameters and exponents with their intervals."""
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
        caption=f"Parameters on raw counts, with {level} confidence intervals ({method})."
        + " The fit is refused: they are where its search ended." * fit.verdict.refused,
    )


def _exponents(inputs: FigureInputs) -> Table | None:
    """The exponent of N* by each approach, and N* at the largest budget."""
    fit = fit_of(inputs.source)
    if not fit.exponents:
        return None
    return Table(
        columns=(
            left("approach"),
            right("$a$"),
            left(f"{percent(fit.interval.level)} interval"),
            right("$N^*$"),
            wide("remark", "small"),
        ),
        rows=tuple(tuple(r) for r in tables.checks(fit, inputs.answers)),
        caption="Exponent $a$ of $N^* ~ C^a$ by each approach, and $N^*$ at the largest budget, "
        f"{math_power(power(fit.range['flops'].high))} FLOP.",
    )


def _conventions(fit: Fit) -> Table | None:
    """The law fitted to the same runs under other counting conventions."""
    if not fit.conventions or fit.verdict.refused:
        return None
    return Table(
        columns=(left("$N$ counts"), left("$C$ counts"), right("$a$"), right("$D\\/N$")),
        rows=tuple(tuple(convention_cells(c)) for c in fit.conventions),
        caption="The same runs under other counting conventions. $D\\/N$ is at the largest budget. "
        "At small scale the choice alone changes the exponent; an answer holds only in its own "
        "convention.",
    )


def _holdout(fit: Fit) -> Table | None:
    """The largest budget, predicted by the law fitted to the smaller ones."""
    h = fit.holdout
    if h is None:
        return None
    rows = tables.holdout(h, fit)
    text = (
        f"Holdout: runs from {math_power(power(h.budget))} FLOP up, predicted by a law fitted to "
        f"the smaller runs only{_unit(fit)}."
    )
    if h.covered is not None:
        text += f" {h.covered:.0%} of them lie in their prediction intervals."
    if len(h.runs) > len(rows):
        text += f" The first {len(rows)} of {len(h.runs)}."
    return Table(
        columns=(left("run", "raw"), right("predicted"), right("measured"), right("error")),
        rows=tuple(tuple(r) for r in rows),
        caption=text,
    )


def _unit(fit: Fit) -> str:
    """The unit of the predicted quantity, in brackets."""
    return {"loss": " [nats/token]", "batch": " [tokens]"}.get(tables.target_name(fit.law), "")


def _forms(inputs: FigureInputs) -> tuple[Block, ...]:
    """Every form's rolled errors and its answer beyond the runs, and what E has to say there."""
    source, flops = inputs.source, inputs.budget
    fit = fit_of(source)
    if fit.forecast is None or inputs.best is None:
        return ()
    best = source.best(np.array([flops]))
    n, d = math.exp(best.log_params[0]), math.exp(best.log_tokens[0])
    scores = league_of_forms(fit, n, d)
    if not scores:
        return ()
    held = [s.loss for s in scores if stands(s, scores)]
    share, loss, size = share_of_floor(source, flops)
    heads = ("below 1/3", "below 1/10")[: len(scores[0].errors)]
    table = Table(
        columns=(left("form"), *(right(f"from {h}") for h in heads), right("loss"), left("")),
        rows=tuple(
            (
                s.name,
                *(f"{e:.2%}" for e in s.errors),
                f"{s.loss:.4f}",
                "" if stands(s, scores) else "set aside",
            )
            for s in scores
        ),
        caption="Forms: error of ln loss (root mean square) of the costly runs, predicted by each "
        "form from those below 1/3 and 1/10 of the largest compute, and its loss at "
        f"{short(n)} parameters and {short(d)} tokens{_unit(fit)}. Set aside is a form with twice "
        "the least error. Answers come from the forecast.",
    )
    spread = (max(held) / min(held) - 1) / 2
    text = (
        f"Sensitivity at {math_power(power(flops))} FLOP. The forms that stand differ by "
        f"±{spread:.2%} in the loss. E accounts for {share:.0%} of the forecast's variance there: "
        f"with an E one standard error higher the loss is {tables.signed(loss, '+.2%')} and $N^*$ "
        f"{tables.signed(size, '+.1%')}."
    )
    return table, Paragraph(text=text)


def _influence(fit: Fit, further: str) -> Table | None:
    """Change of N* when a run or a cluster is left out."""
    if not fit.influence or fit.verdict.refused:
        return None
    return Table(
        columns=(
            left("left out", "raw"),
            right("change of $N^*$"),
            right("share"),
            right("cost [FLOP]", "number"),
        ),
        rows=tuple(tuple(r) for r in tables.influence(fit)),
        caption=f"Influence: change of $N^*$ at {further} times the largest budget when a run (or "
        "all runs of one cluster) is left out and the law fitted again, its share of the sum of "
        "all squared changes, and the compute that repeating it would cost.",
    )


def _forecasts(source: ScalingLaw, ledger: Ledger | None) -> tuple[Block, ...]:
    """Forecasts of this fit that were sealed before their runs, and their outcomes."""
    if ledger is None or not (ledger.entries or ledger.unreadable):
        return ()
    about = ledger.about(fit_of(source), source.hash)
    sentences = [" ".join(t.split()).rstrip(".") for t in calibration_lines(calibration(about))]
    others = len(ledger.entries) - len(about.entries)
    if others:
        sentences.append(f"not counted, because of other fits: {count_noun(others, 'forecast')}")
    if ledger.unreadable:
        names = ", ".join(tables.clean(name, 60) for name, _ in ledger.unreadable)
        sentences.append(f"the ledger holds files that cannot be read: {names}")
    text = Paragraph(text=" ".join(f"{t[:1].upper()}{t[1:]}." for t in sentences), plain=True)
    if not about.entries:
        return (text,)
    heads = ("FLOP", "forecast", "interval", "measured", "error", "")
    forms = ("number", "text", "span", "text", "text", "text")
    table = Table(
        columns=(left("sealed forecast", "raw"), *map(right, heads, forms)),
        rows=tuple(tuple(r) for r in tables.forecasts(about)),
        caption="Forecasts that were sealed before their runs, by this fit or by fits of this law "
        "to the same runs or the same data.",
    )
    return (text, table)


def _runs(fit: Fit) -> tuple[Block, ...]:
    """The runs that were fitted, and those that were left out."""
    rows, total = tables.runs(fit), len(fit.points.run)
    text = f"{count_noun(total, 'run')}, those farthest from the law first; all are in fit.json."
    what = tables.target_name(fit.law)
    heads = (f"width{TIMES}depth", "$N$", "$D$")
    columns = (
        wide("run", "raw"),
        *(right(h) for h in heads),
        right("$C$ [FLOP]", "number"),
        *(right(h) for h in ("lr", f"{what}{_unit(fit)}", "residual [%]")),
    )
    kept = [i for i in range(len(columns)) if any(r[i] != DASH for r in rows)]
    table = Table(
        columns=tuple(columns[i] for i in kept),
        rows=tuple(tuple(r[i] for i in kept) for r in rows),
        caption=text,
        dense=True,
        fills_page=True,
    )
    if not fit.runs_dropped:
        return (table,)
    listed = tables.dropped(fit)
    more = len({why for _, why in fit.runs_dropped}) - len(listed)
    dropped = Table(
        columns=(left("left out of the fit", "raw"), wide("reason")),
        rows=tuple(tuple(r) for r in listed),
        caption=f"Left out of the fit; {count_noun(more, 'reason')} more are in fit.json."
        if more
        else "",
        dense=True,
    )
    return (dropped, table)


def _method(source: ScalingLaw) -> tuple[Block, ...]:
    """How the law, its intervals and the best split were obtained, with sources."""
    fit = fit_of(source)
    basis = tables.basis_words(fit)
    what = tables.target_name(source.law.name)
    of_loss = (
        "$L$ the held-out loss in nats per token, fitted to $ln L$"
        if what == "loss"
        else f"the best {what}, fitted to its logarithm"
    )
    robust = (
        ""
        if fit.objective.name.startswith("l2")
        else "The objective is robust: one bad run in forty shifts a least-squares optimum by a "
        "third. "
    )
    law = Paragraph(
        lead="Law",
        text=f"${source.law.formula}$, with $N$ parameters ({basis['params']}), $D$ training "
        f"tokens and {of_loss} by {basis['objective']}. {robust}Coefficients are for raw counts."
        + (f" Here {source.law.about}." if source.law.about else ""),
    )
    intervals = Paragraph(
        lead="Intervals",
        text=f"{METHODS[fit.interval.method].caption}, "
        f"{percent(fit.interval.level)}, quantile {tables.digits(fit.interval.quantile)}, "
        f"{basis['clusters']} clusters: the errors of runs that share a trunk are correlated, so "
        f"such runs are resampled and summed together. {basis['draws']} bootstrap draws are "
        "stored in fit.json. A confidence interval describes the law; a prediction interval "
        "describes the next run and adds the noise of one run.",
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
    """How budgets are split between parameters and tokens."""
    if not splits_budgets(source) or fit_of(source).verdict.refused:
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
    """Data, conventions, source and versions, in two pairs of columns."""
    rows = tables.facts(fit)
    half = -(-len(rows) // 2)
    second = [*rows[half:], ["", ""]][:half]
    return Table(
        columns=(left("", "meaning"), wide("", "span"), left("", "meaning"), wide("", "span")),
        rows=tuple((*a, *b) for a, b in zip(rows[:half], second, strict=True)),
        dense=True,
    )


def _launch(recommendation: Answer | None) -> tuple[Block, ...]:
    """The complete command that launches the recommendation without reading the fit."""
    if recommendation is None or not recommendation.config:
        return ()
    budget = math_power(power(recommendation.flops.value))
    text = f"The shape recommended on page 1 at {budget} FLOP, with every setting:"
    code = f"python -m sweep {tables.one_line(shlex.join(recommendation.config))}"
    return (Paragraph(lead="Launch", text=text, code=code),)
