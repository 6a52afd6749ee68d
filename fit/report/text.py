"""Answers, predictions, fits and laws as plain text for a terminal of 80 columns.

The layout functions (`row`, `wrapped_row`, `wrapped`, `table_text`, `note_rows`) serve
`listings.py` too; `approach_name` and `convention_cells` are shared with the report.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

from fit.laws.families import law
from fit.quantities import (
    count_noun,
    interval_text,
    loss_difference,
    percent,
    perplexity,
    power,
    short,
    three_digits,
    unit_with_perplexity,
    with_commas,
)
from fit.query.documents import (
    Answer,
    AnswerCost,
    Constraint,
    Gain,
    Number,
    Prediction,
    Regret,
    mapped,
)
from fit.query.sensitivity import limit_text
from fit.query.warnings import cross_check_remark, forecast_remark
from fit.results import NATS_PER_TOKEN, CrossCheck, Fit, loss_unit
from fit.verdict import SEVERITIES, Note, Verdict, kappa_text

WIDTH = 80
TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
LABEL = 17
"""Columns that labels on the left take."""
LEAST_NAME = 12
"""Characters that the first column of a table keeps, however wide the others are."""
APPROACHES = {"isoflop": ("approach 2", "isoFLOP"), "envelope": ("approach 1", "envelope")}
REGRET_HEADER = ("size", "params", "loss up", "compute up", "serve", "even at")
FOUR_DECIMALS = "{:.4f}".format
MOST_PERCENT = 100.0
"""A larger share is written as a factor."""
REGRET_LEGEND = (
    "Loss up at the same budget [nats/token], training compute up at the same loss, FLOP per "
    "served token, and the served tokens at which the same loss costs the same in all."
)


def answer_text(
    answer: Answer, launch: str, limits: Sequence[str] = (), most: int | None = None
) -> str:
    """An answer as a small table, with the command that launches it and rows of `limit_rows`.

    Of its notes the `most` important ones are printed, or all.
    """
    head = wrapped(f"{power(answer.flops.value)} FLOP, by {answer.source} ({_basis(answer)})")
    rows = [
        *_verdict_rows(answer.verdict, answer.warnings),
        row("parameters", _with_interval(answer.params, short)),
        row("tokens", _with_interval(answer.tokens, short)),
        row("tokens per param", _with_interval(answer.tokens_per_param, three_digits)),
        *_loss_rows(answer),
    ]
    if answer.regret_band is not None:
        band = f"{short(answer.regret_band.low)} to {short(answer.regret_band.high)} parameters"
        rows.append(row("just as good", f"{band}: within one run's noise"))
    rows += [*_reach_rows(answer), *limits, *_launch_rows(answer, launch)]
    notes = answer.verdict.ranked(answer.warnings)
    return _joined([head, "", *rows, *note_rows(notes, most)])


def prediction_text(prediction: Prediction, most: int | None = None) -> str:
    """A prediction as a small table, with so many notes; see `answer_text`."""
    sizes = f"{short(prediction.params)} parameters on {short(prediction.tokens)} tokens"
    head = wrapped(f"{sizes}, by {prediction.source} ({_basis(prediction)})")
    verdict, notes = prediction.verdict, prediction.warnings
    rows = [*_verdict_rows(verdict, notes), row("compute", f"{power(prediction.flops)} FLOP")]
    for name, value in prediction.given.items():
        rows.append(row(name.replace("_", " "), f"{value:g}" if value < 1e5 else short(value)))
    rows += [*_loss_rows(prediction), *_reach_rows(prediction)]
    return _joined([head, "", *rows, *note_rows(verdict.ranked(notes), most)])


def fit_text(fit: Fit) -> str:
    """A fit: its parameters with intervals, its checks and its notes."""
    dropped = f", {len(fit.runs_dropped)} dropped" if fit.runs_dropped else ""
    family = law(fit.law)
    head = wrapped(f"{fit.name}: {family.formula}" + f" ({family.about})" * bool(family.about))
    heading = f"{percent(fit.interval.level)} confidence ({fit.interval.method})"
    rows = [
        *_verdict_rows(fit.verdict, fit.notes),
        row("status", f"{fit.status.replace('_', ' ')}, kappa {kappa_text(fit)}"),
        row("runs", f"{fit.runs_used} used{dropped}; {convention_text(fit.convention)}"),
        row("noise", f"{100 * fit.noise:.2g}% of the {family.target}, one run about the law"),
        *_replicate_rows(fit),
        *_curve_rows(fit),
        *(wrapped_row("forecast", said) if (said := forecast_remark(fit)) else ()),
        "",
        row("", f"{'value':>10}  {heading}"),
        *(_parameter_row(fit, name, value) for name, value in fit.theta.items()),
        *(_parameter_row(fit, name, value) for name, value in fit.exponents.items()),
    ]
    rows += _entropy_rows(fit)
    checks = [*_holdout_rows(fit), *(r for c in fit.cross_checks for r in _check_rows(fit, c))]
    checks += [*_convention_rows(fit), *_influence_rows(fit)]
    return _joined([head, "", *rows, "", *checks, *note_rows(fit.notes)])


def _verdict_rows(verdict: Verdict, notes: Iterable[Note]) -> list[str]:
    """The verdict and the sentence that decides it: what stands first at every door."""
    code = next((f" [{n.code}]" for n in notes if verdict.decided_by(n)), "")
    return [*wrapped_row("verdict", f"{verdict.verdict.upper()}: {verdict.reason}{code}"), ""]


def hint_text(answer: Answer) -> str:
    """A first answer in one sentence."""
    n, d = _with_interval(answer.params, short), _with_interval(answer.tokens, short)
    return wrapped(
        f"At {power(answer.flops.value)} FLOP ({_reach_text(answer.reach)} the largest budget): "
        f"{n} parameters on {d} tokens, loss {_with_interval(answer.loss, FOUR_DECIMALS)} "
        f"{unit_with_perplexity(loss_unit(answer.convention), answer.loss.value)} "
        f"({answer.verdict.verdict})."
    )


def table_text(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = WIDTH) -> str:
    """A table with its first column left aligned and shortened to fit, the others right aligned."""
    cells = [tuple(header), *(tuple(one_line(c) for c in r) for r in rows)]
    others = sum(max(len(r[i]) for r in cells) + 2 for i in range(1, len(header)))
    room = max(width - others, len(header[0]), LEAST_NAME)
    cells = [(shortened(r[0], room), *r[1:]) for r in cells]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    lines = []
    for line in cells:
        right = (c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))
        lines.append("  ".join([line[0].ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def note_rows(notes: Iterable[Note], most: int | None = None) -> list[str]:
    """Notes, the most severe first, beside its severity; those beyond `most` are counted."""
    ranked = sorted(notes, key=lambda n: -SEVERITIES.index(n.severity))
    shown = [wrapped_row(n.severity, f"{n.message} [{n.code}]") for n in ranked[:most]]
    left = len(ranked) - len(shown)
    more = [row("", f"{count_noun(left, 'more note')}: --notes")] if left else []
    return ["", *(line for lines in shown for line in lines), *more] if ranked else []


def shortened(text: str, width: int) -> str:
    """A text cut in the middle to a width: either end of a run's name may be what identifies it."""
    if len(text) <= width:
        return text
    kept = max(width - 1, 2)
    return f"{text[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"


def one_line(text: str) -> str:
    """A text without line breaks or other control characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _joined(lines: Iterable[str]) -> str:
    """Lines without trailing blanks."""
    return "\n".join(line.rstrip() for line in lines)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph of the terminal's width."""
    return textwrap.fill(
        one_line(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def row(label: str, text: str) -> str:
    """A label and its text on one line."""
    return f"  {label:<{LABEL}} {one_line(text)}"


def wrapped_row(label: str, text: str) -> list[str]:
    """A label and its text, wrapped into the column beside it."""
    room = WIDTH - LABEL - 3
    lines = textwrap.wrap(one_line(text), room, break_on_hyphens=False) or [""]
    return [row(label if i == 0 else "", line) for i, line in enumerate(lines)]


def approach_name(name: str) -> str:
    """Name of a cross-check, such as `approach 2, isoFLOP`."""
    return ", ".join(APPROACHES.get(name, (name,)))


def convention_cells(convention: Mapping[str, object]) -> list[str]:
    """The law under one counting convention: [N, C, exponent a, D/N at the largest budget]."""
    a, ratio = convention.get("a"), convention.get("tokens_per_param")
    return [
        str(convention.get("params", DASH)),
        str(convention.get("flops", DASH)),
        f"{a:.3f}" if isinstance(a, float) else DASH,
        three_digits(ratio) if isinstance(ratio, float) else DASH,
    ]


def _with_interval(number: Number, form: Callable[[float], str]) -> str:
    """A value with its interval, where there is one."""
    if number.low is None or number.high is None or number.low == number.high:
        return form(number.value)
    ends = interval_text(number.low, number.high, form, least=0.0)
    return f"{form(number.value)} {ends if ends[0] == '[' else f'({ends})'}"


def _loss_rows(result: Answer | Prediction) -> list[str]:
    """Loss by the law with its confidence interval, its perplexity, and the interval of one run."""
    quantity = result.quantity if isinstance(result, Prediction) else "loss"
    per_token = f" {loss_unit(result.convention)}"
    form, unit = (FOUR_DECIMALS, per_token) if quantity == "loss" else (three_digits, "")
    rows = [row(quantity.replace("_", " "), f"{_with_interval(result.loss, form)}{unit}")]
    run = result.loss_next_run
    if run.low is not None and run.high is not None and result.level is not None:
        rows[0] += f", {percent(result.level)} confidence"
        ends = f"{_with_interval(run, form)}{unit}"
        rows.append(row("one run there", f"{ends}, {percent(result.level)} prediction"))
    if unit == f" {NATS_PER_TOKEN}":
        text = _with_interval(mapped(result.loss, perplexity), three_digits)
        rows.insert(1, row("perplexity", text))
    return rows


def _reach_rows(result: Answer | Prediction) -> list[str]:
    """A row with the reach, and whether the answer extrapolates."""
    if result.reach is None:
        return []
    codes = {w.code for w in result.warnings}
    inside = "below the smallest" if "below_range" in codes else "inside the runs"
    where = "extrapolates" if result.reach > 1 or "extrapolates_far" in codes else inside
    return [row("reach", f"{_reach_text(result.reach)} the largest budget fitted: {where}")]


def _reach_text(reach: float | None) -> str:
    """The budget over the largest one fitted, as a factor."""
    if reach is None:
        return "?"
    return f"{TIMES}{three_digits(reach)}"


def _launch_rows(answer: Answer, launch: str) -> list[str]:
    """The shape, its learning rate and batch, and the command that launches it."""
    s = answer.shape
    if s is None or answer.shape_params is None or answer.shape_tokens is None:
        return []
    counts = f"{short(answer.shape_params)} parameters on {short(answer.shape_tokens)} tokens"
    shape = f"width {s.width}, depth {s.depth}, heads {s.heads}"
    rows = ["", row("shape", shape), row("", counts)]
    if answer.lr is not None:
        rows.append(row("learning rate", f"{answer.lr:.3g}, peak of the hidden matrices"))
    if answer.batch_tokens is not None:
        rows.append(row("batch", f"{answer.batch_tokens} tokens a step at the end"))
    if answer.launch_refusal is not None:
        return [*rows, *wrapped_row("launch", answer.launch_refusal)]
    return [*rows, "", *_command_rows(launch)]


def _command_rows(command: str) -> list[str]:
    """A command, broken where its second part begins if it is too long for a line."""
    if len(command) + 2 <= WIDTH:
        return [f"  {command}"]
    first, mark, second = command.rpartition(" > ")  # a quoted folder may hold one too
    if not mark:
        return [f"  {command}"]
    lines = [""]
    for word in re.split(r" (?=--)(?=(?:[^']*'[^']*')*[^']*$)", first):  # outside of quotes
        long = len(lines[-1]) + len(word) > WIDTH - 5 and lines[-1]
        lines = [*lines, word] if long else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    rows = [f"  {line} \\" if i == 0 else f"    {line} \\" for i, line in enumerate(lines)]
    return [*rows, f"    > {second}"]


def _basis(result: Answer | Prediction) -> str:
    """The law and the convention in which it counts."""
    return f"{result.law}; {convention_text(result.convention)}"


def convention_text(convention: Mapping[str, str]) -> str:
    """How parameters and FLOP are counted."""
    return f"N {convention.get('params', '?')}, C {convention.get('flops', '?')}"


def _parameter_row(fit: Fit, name: str, value: float) -> str:
    """A parameter with its interval."""
    low, high = fit.interval.bounds.get(name, (float("nan"), float("nan")))
    loss = unit_with_perplexity(loss_unit(fit.convention), value)
    unit = {"E": loss, "a": "N* ~ C^a", "b": "D* ~ C^b"}.get(name, "")
    is_held = name in dict(fit.options.get("hold") or ())
    ends = interval_text(low, high, lambda end: f"{end:.4g}", least=-math.inf)
    ends = "held" if is_held else ends
    return row(name, f"{value:>10.4g}  {ends}  {unit}")


def _replicate_rows(fit: Fit) -> list[str]:
    """The noise between repeated runs, estimated without the law."""
    replicates = fit.replicates
    if replicates is None:
        return []
    text = f"{100 * replicates.noise:.2g}% of the loss, between runs of one size and length"
    if replicates.probability is not None:
        text += f"; lack of fit p = {replicates.probability:.2g}"
    return wrapped_row("replicates", text)


def _curve_rows(fit: Fit) -> list[str]:
    """How closely the training curves of sizes agree."""
    if (found := fit.curves.get("collapse")) is None:
        return []
    text = f"{len(found['sizes'])} sizes differ by {found['discrepancy']:.2g} nats, normalised"
    if found["probability"] is not None:
        text += f"; seeds of a size by {found['noise']:.2g} (p = {found['probability']:.2g})"
    return wrapped_row("curves", text)


def _entropy_rows(fit: Fit) -> list[str]:
    """The known entropy of the data, and how far the fitted E is from it."""
    entropy, fitted = fit.data.get("entropy"), fit.theta.get("E")
    if entropy is None or fitted is None:
        return []
    text = f"{entropy:>10.4f}  fitted E {fitted - entropy:+.4f} from it"
    low, high = fit.interval.bounds.get("E", (-math.inf, math.inf))
    if low <= entropy <= high:
        inside = "; inside its interval" if "E" in fit.interval.bounds else ""
        return [row("known entropy", f"{text}{inside}")]
    # With four digits, an entropy just outside is printed as equal to the end of the interval.
    beyond = max(low - entropy, entropy - high)
    missed = 100 * (1 - fit.interval.level)
    return [
        row("known entropy", f"{text}; outside its interval"),
        row("", f"by {beyond:.1g}; of sweeps that follow the law, {missed:.2g}% miss by chance"),
    ]


def _holdout_rows(fit: Fit) -> list[str]:
    """Errors of the largest budget, predicted from the smaller ones."""
    h = fit.holdout
    if h is None:
        return []
    held_out = f"{count_noun(len(h.runs), 'run')} from {power(h.budget)} FLOP up"
    side = "low" if h.mean_relative_error < 0 else "high"  # notes say which side runs lie on
    text = (
        f"{held_out}: predictions from the smaller ones are {abs(h.mean_relative_error):.2%} too "
        f"{side} on average, {h.max_relative_error:.2%} off at most"
    )
    return wrapped_row("holdout", text) + _rolling_rows(fit)


def _rolling_rows(fit: Fit) -> list[str]:
    """Errors of each larger budget, predicted from all smaller ones."""
    if len(fit.rolling) < 2:
        return []
    errors = " ".join(f"{r.mean_relative_error:+.2%}" for r in fit.rolling)
    runs = sum(r.runs for r in fit.rolling)
    inside = sum(r.covered * r.runs for r in fit.rolling) / runs
    text = (
        f"each of {len(fit.rolling)} budgets by the smaller ones: {errors}; {inside:.0%} of "
        f"{count_noun(runs, 'run')} in their {fit.interval.level:.0%} intervals"
    )
    return wrapped_row("rolling", text)


def _check_rows(fit: Fit, check: CrossCheck) -> list[str]:
    """The exponent by another approach, or the reason why it has no value."""
    label, what = APPROACHES.get(check.name, (check.name, ""))
    if check.a is None:
        return wrapped_row(label, f"{what}: no value: {check.reason}")
    ends = "" if check.a_interval is None else " [{:.3g}, {:.3g}]".format(*check.a_interval)
    remark = cross_check_remark(fit, check)
    return wrapped_row(label, f"{what}: a = {check.a:.3g}{ends}, {remark}")


def _influence_rows(fit: Fit) -> list[str]:
    """The run whose removal changes N* most."""
    runs = [i for i in fit.influence if i.kind == "run"]
    if not runs:
        return []
    text = f"without {runs[0].run} N* at 10 times the largest budget moves by "
    return wrapped_row("influence", f"{text}{math.expm1(runs[0].shift):+.1%}, the most of any run")


def _convention_rows(fit: Fit) -> list[str]:
    """Exponent and D/N under each counting convention."""
    rows = []
    for n, c, a, ratio in map(convention_cells, fit.conventions):
        result = "no fit" if DASH in (a, ratio) else f"a = {a}, D/N = {ratio}"
        rows.append(row("counted as", f"N {n}, C {c}: {result}"))
    return [*rows, row("", "(D/N at the largest budget, under the same count)")] if rows else []


def limit_rows(answer: Answer) -> list[str]:
    """Rows on costs, constraints and other sizes, as far as the question has them."""
    rows = [] if answer.cost is None else _cost_rows(answer.cost)
    if answer.epochs is not None:
        rows += wrapped_row("epochs", f"{three_digits(answer.epochs)} of the unique tokens")
    rows = ["", *rows] if rows else []
    if answer.constraints:
        rows.append("")
        for c in answer.constraints:
            rows += wrapped_row("binds" if c.binds else "does not bind", constraint_text(c))
    if answer.regret:
        table = table_text(REGRET_HEADER, [_regret_cells(r) for r in answer.regret], WIDTH - 2)
        note = textwrap.wrap(REGRET_LEGEND, WIDTH - 2)
        rows += ["", *(f"  {line}" for line in [*table.splitlines(), *note])]
    return rows


def _cost_rows(cost: AnswerCost) -> list[str]:
    """Compute, device-hours and dollars."""
    text = f"{_ranged(cost.training_flops, power)} FLOP"
    rows = wrapped_row("training", text)
    if cost.serving_flops is not None:
        rows += wrapped_row("serving", f"{_ranged(cost.serving_flops, power)} FLOP")
    if cost.device_hours is None or cost.mfu is None:
        return rows
    count = "" if cost.devices is None else f"{cost.devices} "
    parts = [f"{_ranged(cost.device_hours, with_commas)} device-hours"]
    if cost.hours is not None:
        parts.append(f"{_ranged(cost.hours, with_commas)} hours")
    if cost.dollars is not None:
        parts.append(f"${_ranged(cost.dollars, with_commas)}")
    text = f"{', '.join(parts)}; MFU {three_digits(cost.mfu)}"
    return [*rows, *wrapped_row(f"on {count}{cost.device}"[:LABEL], text)]


def constraint_text(c: Constraint) -> str:
    """One constraint, and what relaxing it gains."""
    if c.name == "budget":
        name = f"the budget, {power(c.limit)} FLOP"
    else:
        name = f"{c.name.replace('_', ' ')} {limit_text(c.name, c.limit)}"
    if c.worth is None:
        return name
    lifted, doubled = c.worth.lifted, c.worth.doubled
    if lifted is None:
        return f"{name}; twice it: {_gain_text(doubled)}"
    fixed = c.name in ("params", "tokens")
    twice = (
        "half it" if c.name.startswith("min_") else "within a factor of 2" if fixed else "twice it"
    )
    if doubled == lifted or abs(doubled.loss.value - lifted.loss.value) < 1e-6:
        return f"{name}; without it, or with {twice}: {_gain_text(lifted)}"
    return f"{name}; without it: {_gain_text(lifted)}; {twice}: {_gain_text(doubled)}"


def _gain_text(gain: Gain) -> str:
    """How much lower the loss is, and the compute that would be worth as much."""
    loss = f"loss less by {_ranged(gain.loss, loss_difference)}"
    if gain.multiplier is None:
        return loss
    return f"{loss}, worth {TIMES}{_ranged(gain.multiplier, three_digits)} the compute"


def _regret_cells(r: Regret) -> tuple[str, ...]:
    """One row of the table of other sizes."""
    even = "-" if r.break_even_tokens is None else short(r.break_even_tokens.value)
    size = f"{TIMES}{r.size:g}"
    if r.size == 1:
        return size, short(r.params), "-", "-", "-", "-"
    serving = f"{-100 * r.serving_saved:+.0f}%"
    cells = _ranged(r.loss_up, loss_difference), _compute_increase(r.compute_up)
    return size, short(r.params), *cells, serving, even


def _ranged(
    number: Number, form: Callable[[float], str], end: Callable[[float], str] | None = None
) -> str:
    """A value with its interval, unless both ends print alike; ends may have another form."""
    end, low, high = end or form, number.low, number.high
    if low is None or high is None or form(low) == form(high) or not math.isfinite(number.value):
        return form(number.value)
    return f"{form(number.value)} [{end(low)}, {end(high)}]"


def _compute_increase(number: Number) -> str:
    """An increase in percent, or as a factor where it is large, with its interval."""
    if not math.isfinite(number.value):
        return "never"
    if number.value > MOST_PERCENT / 100:
        text = _ranged(
            mapped(number, lambda v: v + 1), lambda v: short(v) if v >= 1e3 else three_digits(v)
        )
        return f"{TIMES}{text}"
    return _ranged(number, lambda v: f"{100 * v:+.0f}%", lambda v: f"{100 * v:.0f}")
