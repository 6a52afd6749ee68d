"""Documents as plain aligned text for a terminal of 80 columns.

What limits an answer, what that is worth, what it costs: rows for a terminal of 80 columns.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

from fit.laws.families import law
from fit.laws.law import Law
from fit.laws.published import Preset
from fit.quantities import count_noun, percent, power, short, three_digits
from fit.query.question import (
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
from fit.query.warnings import cross_check_remark
from fit.results import CrossCheck, Fit, Note, is_doubtful, kappa_text

WIDTH = 80
LABEL = 17
"""Columns of the labels on the left."""
LEAST_NAME = 12
"""Columns that the first of a table keeps, whatever the others take."""
APPROACHES = {"isoflop": ("approach 2", "isoFLOP"), "envelope": ("approach 1", "envelope")}
HEADER = ("size", "params", "loss up", "compute up", "serve", "even at")
MOST_PERCENT = 100.0
"""A larger share is said as a factor."""
LEGEND = (
    "Loss up at the same budget [nats/token], training compute up at the same loss, FLOP per "
    "served token, and the served tokens at which the same loss costs the same in all."
)


def answer_text(answer: Answer, launch: str, limits: Sequence[str] = ()) -> str:
    """An answer as a small table.

    Args:
        answer: The answer.
        launch: The command that prints its overrides.
        limits: Rows on what limits it and what it costs; see `constraint_text`.
    """
    head = wrapped(f"{power(answer.flops.value)} FLOP, by {answer.source} ({_basis(answer)})")
    rows = [
        _row("parameters", _counted(answer.params)),
        _row("tokens", _counted(answer.tokens)),
        _row("tokens per param", _measured(answer.tokens_per_param, three_digits)),
        *_loss_rows(answer),
    ]
    if answer.regret_band is not None:
        band = f"{short(answer.regret_band.low)} to {short(answer.regret_band.high)} parameters"
        rows.append(_row("just as good", f"{band}: within one run's noise"))
    elif answer.level is not None:
        rows.append(_row("just as good", "not told this far beyond the runs"))
    rows += [*_reach_rows(answer), *limits, *_launch_rows(answer, launch)]
    return _joined([head, "", *rows, *note_rows(answer.warnings)])


def prediction_text(prediction: Prediction) -> str:
    """A prediction as a small table."""
    sizes = f"{short(prediction.params)} parameters on {short(prediction.tokens)} tokens"
    head = wrapped(f"{sizes}, by {prediction.source} ({_basis(prediction)})")
    rows = [_row("compute", f"{power(prediction.flops)} FLOP")]
    rows += [_row(k.replace("_", " "), _given(v)) for k, v in prediction.given.items()]
    rows += [*_loss_rows(prediction), *_reach_rows(prediction)]
    return _joined([head, "", *rows, *note_rows(prediction.warnings)])


def fit_text(fit: Fit) -> str:
    """A fit: parameters with intervals, how it was judged, how it predicts."""
    dropped = f", {len(fit.runs_dropped)} dropped" if fit.runs_dropped else ""
    family = law(fit.law)
    about = f" ({family.about})" if family.about else ""
    head = wrapped(f"{fit.name}: {family.formula}{about}")
    doubt = "DOUBTFUL, see the notes: " if is_doubtful(fit) else ""
    status = f"{doubt}{fit.status.replace('_', ' ')}, kappa {kappa_text(fit)}"
    heading = f"{percent(fit.interval.level)} confidence ({fit.interval.method})"
    rows = [
        _row("status", status),
        _row("runs", f"{fit.runs_used} used{dropped}; {_convention(fit.convention)}"),
        _row("noise", f"{100 * fit.noise:.2g}% of the {family.target}, one run about the law"),
        *_replicate_rows(fit),
        "",
        _row("", f"{'value':>10}  {heading}"),
        *(_parameter_row(fit, name, value) for name, value in fit.theta.items()),
        *(_parameter_row(fit, name, value) for name, value in fit.exponents.items()),
    ]
    rows += _entropy_rows(fit)
    checks = [*_holdout_rows(fit), *(_check_row(fit, c) for c in fit.cross_checks)]
    checks += _convention_rows(fit)
    checks += _influence_rows(fit)
    return _joined([head, "", *rows, "", *checks, *note_rows(fit.notes)])


def hint_text(answer: Answer) -> str:
    """A first answer in one sentence."""
    n, d = _counted(answer.params), _counted(answer.tokens)
    return wrapped(
        f"At {power(answer.flops.value)} FLOP ({_times(answer.reach)} the largest budget): "
        f"{n} parameters on {d} tokens, loss {_measured(answer.loss, _four)} nats/token."
    )


def laws_text(presets: Iterable[Preset]) -> str:
    """The published laws, one a paragraph."""
    blocks = ["Published laws; ask one with: isoflop query 1e21 --law NAME"]
    for p in presets:
        values = ", ".join(f"{k} {v:.5g}" for k, v in p.theta.items())
        facts = [values, f"{_convention(p.convention)}; data: {p.data}", p.source, p.note]
        lines = [wrapped(f, "  ") for f in facts if f]
        blocks.append("\n".join([f"{p.name}: {law(p.law).formula}", *lines]))
    return "\n\n".join(blocks)


def families_text(families: Iterable[Law]) -> str:
    """The families that can be fitted, one a line or two."""
    lines = ["Families; fit one to runs with: isoflop fit RUNS --law NAME"]
    for f in families:
        needs = [c for c in f.columns if c not in ("params", "tokens")]
        needs += [] if f.target == "loss" else [f.target]
        also = [t for t in (f.about, f"needs {', '.join(needs)}" if needs else "") if t]
        lines.append(wrapped("; ".join([f"{f.name}: {f.formula}", *also]), "  "))
    return "\n".join(lines)


def table_text(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = WIDTH) -> str:
    """Columns, the first left and the others right aligned; the first gives way to the width."""
    cells = [tuple(header), *(tuple(one_line(c) for c in r) for r in rows)]
    others = sum(max(len(r[i]) for r in cells) + 2 for i in range(1, len(header)))
    room = max(width - others, len(header[0]), LEAST_NAME)
    cells = [(shortened(r[0], room), *r[1:]) for r in cells]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        right = (c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def note_rows(notes: Iterable[Note]) -> list[str]:
    """Notes, the gravest first, each wrapped beside its severity."""
    order = ("serious", "warning", "info")
    ranked = sorted(notes, key=lambda n: order.index(n.severity))
    rows = [line for n in ranked for line in _wrap_row(n.severity, n.message)]
    return ["", *rows] if rows else []


def shortened(text: str, width: int) -> str:
    """A text of at most a width, its middle left out; both ends of a run's name tell it apart."""
    if len(text) <= width:
        return text
    kept = max(width - 1, 2)
    return f"{text[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"


def one_line(text: str) -> str:
    """A text without line breaks or other control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


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


def _row(label: str, text: str) -> str:
    """A label and its text."""
    return f"  {label:<{LABEL}} {one_line(text)}"


def _wrap_row(label: str, text: str) -> list[str]:
    """A label and a wrapped text beside it."""
    room = WIDTH - LABEL - 3
    lines = textwrap.wrap(one_line(text), room, break_on_hyphens=False) or [""]
    return [_row(label if i == 0 else "", line) for i, line in enumerate(lines)]


def _counted(number: Number) -> str:
    """A count with its interval."""
    return _measured(number, short)


def _measured(number: Number, form: object) -> str:
    """A value with its interval."""
    assert callable(form)
    if number.low is None or number.high is None or number.low == number.high:
        return str(form(number.value))
    return f"{form(number.value)} [{form(number.low)}, {form(number.high)}]"


def _four(loss: float) -> str:
    """A loss with four digits."""
    return f"{loss:.4f}"


def _given(value: float) -> str:
    """A width or a depth in full, counts in short."""
    return f"{value:g}" if value < 1e5 else short(value)


def _loss_rows(found: Answer | Prediction) -> list[str]:
    """Loss of the law and of the next run."""
    quantity = found.quantity if isinstance(found, Prediction) else "loss"
    form, unit = (_four, " nats/token") if quantity == "loss" else (three_digits, "")
    rows = [_row(quantity.replace("_", " "), f"{_measured(found.loss, form)}{unit}")]
    run = found.loss_next_run
    if run.low is not None and run.high is not None and found.level is not None:
        rows[0] += f", {percent(found.level)} confidence"
        ends = f"{form(run.value)} [{form(run.low)}, {form(run.high)}]{unit}"
        rows.append(_row("one run there", f"{ends}, {percent(found.level)} prediction"))
    return rows


def _reach_rows(found: Answer | Prediction) -> list[str]:
    """How far beyond the runs."""
    if found.reach is None:
        return []
    where = "extrapolates" if found.reach > 1 else "inside the runs"
    if any(w.code == "below_range" for w in found.warnings):
        where = "below the smallest"
    return [_row("reach", f"{_times(found.reach)} the largest budget fitted: {where}")]


def _times(reach: float | None) -> str:
    """A factor."""
    if reach is None:
        return "?"
    return f"\N{MULTIPLICATION SIGN}{three_digits(reach)}"


def _launch_rows(answer: Answer, launch: str) -> list[str]:
    """The shape and how to launch it."""
    s = answer.shape
    if s is None or answer.shape_params is None or answer.shape_tokens is None:
        return []
    counts = f"{short(answer.shape_params)} parameters on {short(answer.shape_tokens)} tokens"
    shape = f"width {s.width}, depth {s.depth}, heads {s.heads}"
    rows = ["", _row("shape", shape), _row("", counts)]
    if answer.lr is not None:
        rows.append(_row("learning rate", f"{answer.lr:.3g}, peak of the hidden matrices"))
    if answer.batch_tokens is not None:
        rows.append(_row("batch", f"{answer.batch_tokens} tokens a step at the end"))
    refused = [_row("launch", "refused, see the notes; --force launches it all the same")]
    return [*rows, *(["", *_command_rows(launch)] if answer.launch_refusal is None else refused)]


def _command_rows(command: str) -> list[str]:
    """A command, broken before its pipe where it is too long for a line."""
    if len(command) + 2 <= WIDTH:
        return [f"  {command}"]
    first, pipe, second = command.partition(" | ")
    if not pipe:
        return [f"  {command}"]
    lines = [""]
    for word in re.split(r" (?=--)", first):
        long = len(lines[-1]) + len(word) > WIDTH - 5 and lines[-1]
        lines = [*lines, word] if long else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    rows = [f"  {line} \\" if i == 0 else f"    {line} \\" for i, line in enumerate(lines)]
    return [*rows, f"    | {second}"]


def _basis(found: Answer | Prediction) -> str:
    """Law and convention in brackets."""
    return f"{found.law}; {_convention(found.convention)}"


def _convention(convention: Mapping[str, str]) -> str:
    """How params and FLOPs were counted."""
    return f"N {convention.get('params', '?')}, C {convention.get('flops', '?')}"


def _parameter_row(fit: Fit, name: str, value: float) -> str:
    """A parameter with its interval."""
    low, high = fit.interval.bounds.get(name, (float("nan"), float("nan")))
    unit = {"E": "nats/token", "a": "N* ~ C^a", "b": "D* ~ C^b"}.get(name, "")
    held = name in dict(fit.options.get("hold") or ())
    ends = "held" if held else f"[{low:.4g}, {high:.4g}]"
    return _row(name, f"{value:>10.4g}  {ends}  {unit}")


def _replicate_rows(fit: Fit) -> list[str]:
    """The noise that needs no law."""
    found = fit.replicates
    if found is None:
        return []
    text = f"{100 * found.noise:.2g}% of the loss, between runs of one size and length"
    if found.probability is not None:
        text += f"; lack of fit p = {found.probability:.2g}"
    return _wrap_row("replicates", text)


def _entropy_rows(fit: Fit) -> list[str]:
    """The known entropy of the data against E."""
    known, found = fit.data.get("entropy"), fit.theta.get("E")
    if known is None or found is None:
        return []
    low, high = fit.interval.bounds.get("E", (float("nan"), float("nan")))
    where = "inside" if low <= known <= high else "outside"
    text = f"{known:>10.4f}  fitted E {found - known:+.4f} from it; {where} its interval"
    return [_row("known entropy", text)]


def _holdout_rows(fit: Fit) -> list[str]:
    """How the smaller runs predict the largest."""
    h = fit.holdout
    if h is None:
        return []
    held = f"{count_noun(len(h.runs), 'run')} from {power(h.budget)} FLOP up"
    text = (
        f"{held}, predicted by the smaller ones: {h.mean_relative_error:+.2%} on average, "
        f"{h.max_relative_error:.2%} at most"
    )
    return _wrap_row("holdout", text) + _rolling_rows(fit)


def _rolling_rows(fit: Fit) -> list[str]:
    """How the smaller runs predict each larger budget, in one line."""
    if len(fit.rolling) < 2:
        return []
    errors = " ".join(f"{r.mean_relative_error:+.2%}" for r in fit.rolling)
    runs = sum(r.runs for r in fit.rolling)
    inside = sum(r.covered * r.runs for r in fit.rolling) / runs
    text = (
        f"each of {len(fit.rolling)} budgets by the smaller ones: {errors}; {inside:.0%} of "
        f"{count_noun(runs, 'run')} in their {fit.interval.level:.0%} intervals"
    )
    return _wrap_row("rolling", text)


def _check_row(fit: Fit, check: CrossCheck) -> str:
    """One cross-check."""
    label, what = APPROACHES.get(check.name, (check.name, ""))
    if check.a is None:
        return _joined(_wrap_row(label, f"{what}: no value: {check.reason}"))
    ends = "" if check.a_interval is None else " [{:.3g}, {:.3g}]".format(*check.a_interval)
    return _joined(
        _wrap_row(label, f"{what}: a = {check.a:.3g}{ends}, {cross_check_remark(fit, check)}")
    )


def _influence_rows(fit: Fit) -> list[str]:
    """The run that moves the answer most."""
    runs = [i for i in fit.influence if i.kind == "run"]
    if not runs:
        return []
    text = f"without {runs[0].run} N* at 10 times the largest budget moves by "
    return _wrap_row("influence", f"{text}{math.expm1(runs[0].shift):+.1%}, the most of any run")


def _convention_rows(fit: Fit) -> list[str]:
    """The exponent under each counting convention, and of which budget D/N is."""
    rows = [_convention_row(c) for c in fit.conventions]
    return [*rows, _row("", "(D/N at the largest budget, under the same count)")] if rows else []


def _convention_row(row: Mapping[str, object]) -> str:
    """The exponent under one counting convention."""
    a, ratio = row.get("a"), row.get("tokens_per_param")
    if not isinstance(a, float) or not isinstance(ratio, float):
        return _row("counted as", f"N {row.get('params')}, C {row.get('flops')}: no fit")
    text = f"N {row.get('params')}, C {row.get('flops')}: a = {a:.3g}, D/N = {three_digits(ratio)}"
    return _row("counted as", text)


def limit_rows(answer: Answer) -> list[str]:
    """Costs, limits and other sizes, as far as they were asked."""
    rows = [] if answer.cost is None else _cost_rows(answer.cost)
    if answer.epochs is not None:
        rows += _wrapped_row("epochs", f"{three_digits(answer.epochs)} of the unique tokens")
    rows = ["", *rows] if rows else []
    if answer.constraints:
        rows.append("")
        for c in answer.constraints:
            rows += _wrapped_row("binds" if c.binds else "does not bind", _worth_text(c))
    if answer.regret:
        table = table_text(HEADER, [_regret_cells(r) for r in answer.regret], WIDTH - 2)
        note = textwrap.wrap(LEGEND, WIDTH - 2)
        rows += ["", *(f"  {line}" for line in [*table.splitlines(), *note])]
    return rows


def _cost_rows(bill: AnswerCost) -> list[str]:
    """Compute, hours and money."""
    text = f"{_ranged(bill.training_flops, power)} FLOP"
    rows = _wrapped_row("training", text)
    if bill.serving_flops is not None:
        rows += _wrapped_row("serving", f"{_ranged(bill.serving_flops, power)} FLOP")
    if bill.device_hours is None or bill.mfu is None:
        return rows
    count = "" if bill.devices is None else f"{bill.devices} "
    parts = [f"{_ranged(bill.device_hours, _grouped)} device-hours"]
    if bill.hours is not None:
        parts.append(f"{_ranged(bill.hours, _grouped)} hours")
    if bill.dollars is not None:
        parts.append(f"${_ranged(bill.dollars, _grouped)}")
    return [*rows, *_wrapped_row(f"on {count}{bill.device}"[:LABEL], f"{', '.join(parts)}; MFU "
                         f"{three_digits(bill.mfu)}")]  # fmt: skip


def _worth_text(c: Constraint) -> str:
    """One limit, and what relaxing it gains."""
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
    """What is gained."""
    loss = f"loss less by {_ranged(gain.loss, _nats)}"
    if gain.multiplier is None:
        return loss
    return (
        f"{loss}, worth \N{MULTIPLICATION SIGN}{_ranged(gain.multiplier, three_digits)} the compute"
    )


def _regret_cells(r: Regret) -> tuple[str, ...]:
    """One line of the table of other sizes."""
    even = "-" if r.break_even_tokens is None else short(r.break_even_tokens.value)
    size = f"\N{MULTIPLICATION SIGN}{r.size:g}"
    if r.size == 1:
        return size, short(r.params), "-", "-", "-", "-"
    serving = f"{-100 * r.serving_saved:+.0f}%"
    cells = _ranged(r.loss_up, _nats), _compute(r.compute_up)
    return size, short(r.params), *cells, serving, even


def _ranged(
    number: Number, form: Callable[[float], str], end: Callable[[float], str] | None = None
) -> str:
    """A value with its interval, unless that is the value itself; its ends may have a form."""
    end, low, high = end or form, number.low, number.high
    if low is None or high is None or form(low) == form(high) or not math.isfinite(number.value):
        return form(number.value)
    return f"{form(number.value)} [{end(low)}, {end(high)}]"


def _nats(loss: float) -> str:
    """A difference of losses, four digits behind the point where it is small."""
    if not math.isfinite(loss):
        return "never"
    return f"{loss:.4f}" if abs(loss) < 1 else three_digits(loss)


def _compute(number: Number) -> str:
    """A share, or a factor where it is large, with its interval; the unit is said once."""
    if not math.isfinite(number.value):
        return "never"
    if number.value > MOST_PERCENT / 100:
        text = _ranged(
            mapped(number, lambda v: v + 1), lambda v: short(v) if v >= 1e3 else three_digits(v)
        )
        return f"\N{MULTIPLICATION SIGN}{text}"
    return _ranged(number, lambda v: f"{100 * v:+.0f}%", lambda v: f"{100 * v:.0f}")


def _grouped(value: float) -> str:
    """Hours or dollars: 1,234 or 0.0123."""
    return f"{value:,.0f}" if 1e3 <= value < 1e12 else three_digits(value)


def _wrapped_row(label: str, text: str) -> list[str]:
    """A label and a wrapped text beside it."""
    lines = textwrap.wrap(text, WIDTH - LABEL - 3, break_on_hyphens=False)
    return [f"  {label if i == 0 else '':<{LABEL}} {line}" for i, line in enumerate(lines)]
