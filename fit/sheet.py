"""What a report says, as plain words and numbers for the template to set."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fit.doubts import DOUBTFUL_KAPPA, REFUSED_KAPPA, kappa_of, kappa_text
from fit.quantity import power, short, three
from fit.query import Answer, Number, Question, answer
from fit.result import Fit, Note
from fit.source import Source

FURTHER = 10.0
"""The second budget of page 1 over the largest one fitted."""
MOST_RUNS = 96
"""Runs in the table; of a larger sweep, those that lie farthest from the law."""
NAME_LENGTH = 40
DASH = "\N{EN DASH}"
_UNBROKEN = re.compile(r"[^\s-]{12}(?=[^\s-]{12})")
"""Stretches after which a word that goes on may be broken."""
CRITERIA = {
    "hc3": "HC3 sandwich by cluster, Student t reference",
    "pairs": "pairs bootstrap by cluster, percentiles",
    "wild": "wild bootstrap by cluster",
    "bca": "BCa bootstrap by cluster",
    "profile": "profile likelihood",
}
APPROACHES = {"isoflop": "2 (isoFLOP valleys)", "envelope": "1 (envelope of curves)"}


def sheet(source: Source) -> dict[str, Any]:
    """Everything on the pages of a report but its figures; plain JSON values.

    Args:
        source: A fit as a source.
    """
    fit = source.fit
    assert fit is not None
    top = fit.range["flops"].high
    answers = [answer(Question(source=source, flops=f * top, force=True)) for f in (1.0, FURTHER)]
    return {
        "name": clean(fit.name),
        "refused": kappa_of(fit) > REFUSED_KAPPA,
        "doubtful": fit.status != "converged",
        "further": three(FURTHER).rstrip("0").rstrip("."),
        "verdict": _verdict(answers[1]),
        "answers": [_answer(a) for a in answers],
        "level": f"{fit.interval.level:.0%}",
        "sure": _sure(fit),
        "wrong": _wrong(fit, answers[1]),
        "launch": _launch(fit, answers[1]),
        "formula": source.law.formula,
        "law": fit.law,
        "theta": _theta(fit),
        "basis": _basis(fit),
        "checks": _checks(fit),
        "conventions": [_convention(c) for c in fit.conventions],
        "holdout": _holdout(fit),
        "runs": _runs(fit),
        "dropped": [[clean(r, NAME_LENGTH), clean(why, 160)] for r, why in fit.runs_dropped[:20]],
        "dropped_count": len(fit.runs_dropped),
        "facts": _facts(fit),
        "noise": f"{100 * fit.noise:.2g}%",
        "quantile": f"{fit.interval.quantile:.3f}",
        "method": CRITERIA.get(fit.interval.method, fit.interval.method),
    }


def clean(text: str, most: int = 200) -> str:
    """A text that can be set: no control characters, its middle cut, long words breakable."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    if len(line) > most:
        half = (most - 1) // 2
        line = f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"
    return _UNBROKEN.sub(lambda found: f"{found[0]}\N{ZERO WIDTH SPACE}", line)


def _launch(fit: Fit, a: Answer) -> str | None:
    """The command that launches the second answer, where there is one to launch."""
    if not a.config or kappa_of(fit) > REFUSED_KAPPA:
        return None
    folder = shlex.quote(f"reports/{fit.name}")
    return clean(
        f"isoflop query {power(a.flops.value)} --fit {folder} --config | xargs python -m sweep"
    )


def _verdict(a: Answer) -> dict[str, str]:
    """The numbers of the sentence on top."""
    return {
        "flops": power(a.flops.value),
        "params": short(a.params.value),
        "tokens": short(a.tokens.value),
        "loss": f"{a.loss.value:.3f}",
        "low": _end(a.loss_next_run.low, ".3f"),
        "high": _end(a.loss_next_run.high, ".3f"),
    }


def _answer(a: Answer) -> dict[str, Any]:
    """One column of the table of answers: [value, interval] per row."""
    band, s = a.regret_band, a.shape
    shape = f"{s.width} wide, {s.depth} deep, {s.heads} heads" if s else DASH
    own = a.shape_params is not None and a.shape_tokens is not None
    return {
        "flops": power(a.flops.value),
        "params": _ends(a.params, short),
        "tokens": _ends(a.tokens, short),
        "ratio": _ends(a.tokens_per_param, three),
        "loss": _ends(a.loss, "{:.4f}".format),
        "next": _ends(a.loss_next_run, "{:.4f}".format),
        "band": f"{short(band.low)} to {short(band.high)}" if band else DASH,
        "reach": f"\N{MULTIPLICATION SIGN}{three(a.reach)}" if a.reach else DASH,
        "shape": shape,
        "own": f"{short(a.shape_params or 0)} on {short(a.shape_tokens or 0)}" if own else DASH,
        "lr": f"{a.lr:.3g}" if a.lr else DASH,
        "batch": f"{a.batch_tokens}" if a.batch_tokens else DASH,
    }


def _sure(fit: Fit) -> list[list[str]]:
    """Checks in words: [verdict, text], the verdict one of good, fair, bad."""
    kappa, shown = kappa_of(fit), f"condition number {kappa_text(fit)}"
    well = f"The runs tell the parameters apart: {shown}, healthy below {DOUBTFUL_KAPPA:g}."
    badly = f"The runs barely tell the parameters apart: {shown}."
    rows = [
        [
            "good" if fit.status == "converged" else "bad",
            f"The fit is {fit.status.replace('_', ' ')} on {fit.runs_used} runs.",
        ],
        [
            "good" if kappa < DOUBTFUL_KAPPA else "fair" if kappa < REFUSED_KAPPA else "bad",
            well if kappa < DOUBTFUL_KAPPA else badly,
        ],
    ]
    rows += [_holdout_check(fit)] if fit.holdout else []
    rows += [_agreement(fit)] if fit.cross_checks else []
    known, found = fit.data.get("entropy"), fit.theta.get("E")
    if known and found:
        low, high = fit.interval.bounds.get("E", (math.nan, math.nan))
        inside = low <= known <= high
        where = "inside" if inside else "outside"
        text = f"The data's entropy is known, {known:.4f} nats/token: {where} the interval of E."
        rows.append(["good" if inside else "fair", text])
    return rows


def _holdout_check(fit: Fit) -> list[str]:
    """How the smaller runs predicted the largest budget."""
    h = fit.holdout
    assert h is not None
    error = abs(h.max_relative_error)
    grade = "good" if error < 0.01 else "fair" if error < 0.03 else "bad"
    mean = _signed(h.mean_relative_error, "+.2%")
    text = (
        f"Fitted without the largest budget, the law predicts it to {mean} on average, {error:.2%} "
        f"at worst ({len(h.runs)} runs)."
    )
    return [grade, text]


def _agreement(fit: Fit) -> list[str]:
    """Whether the other approaches agree."""
    given = [c for c in fit.cross_checks if c.a is not None]
    if not given:
        return ["fair", "No other approach could be run on these runs as a cross-check."]
    values = ", ".join(f"{APPROACHES.get(c.name, c.name)}: {c.a:.3f}" for c in given)
    if any(c.disagrees for c in given):
        return ["bad", f"The exponent of N* disagrees with approach {values}."]
    return ["good", f"The exponent of N* agrees with approach {values}."]


def _wrong(fit: Fit, further: Answer) -> list[list[str]]:
    """What could make the answer wrong, the gravest first: [severity, text]."""
    order = ("serious", "warning", "info")
    notes: list[Note] = [*further.warnings, *fit.notes]
    unique = {n.message: n for n in sorted(notes, key=lambda n: order.index(n.severity))}
    rows = [[n.severity, _sentence(clean(n.message, 400))] for n in list(unique.values())[:7]]
    standing = (
        "The law is assumed to hold beyond the runs: the intervals cover the runs' noise, not a "
        "law that bends. A recipe tuned at one size and poor at another bends it."
    )
    return [*rows, ["info", standing]]


def _sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _theta(fit: Fit) -> list[list[str]]:
    """Parameters and exponents: [symbol, value, interval]."""
    both = {**fit.theta, **fit.exponents}
    return [[name, _digits(value), _bounds(fit, name)] for name, value in both.items()]


def _checks(fit: Fit) -> list[list[str]]:
    """Exponent of N* by each approach: [approach, a, interval, remark]."""
    rows = [["3 (this law)", _digits(fit.exponents.get("a")), _bounds(fit, "a"), "the answer's"]]
    for c in fit.cross_checks:
        ends = DASH if c.a_interval is None else "{:.3f} to {:.3f}".format(*c.a_interval)
        remark = clean(c.reason or "", 220)
        if c.a is not None:
            verdict = "disagrees beyond the joint interval" if c.disagrees else "agrees"
            remark = f"{verdict}. {remark}" if remark else verdict
        rows.append([APPROACHES.get(c.name, c.name), _digits(c.a), ends, remark])
    return rows


def _convention(row: Mapping[str, Any]) -> list[str]:
    """One way of counting: [N, C, a, D/N]."""
    a, ratio = row.get("a"), row.get("tokens_per_param")
    return [
        str(row.get("params", DASH)),
        str(row.get("flops", DASH)),
        DASH if a is None else f"{a:.3f}",
        DASH if ratio is None else three(float(ratio)),
    ]


def _holdout(fit: Fit) -> dict[str, Any] | None:
    """The held-out budget: [run, predicted, measured, error] per run."""
    h = fit.holdout
    if h is None:
        return None
    rows = [
        [clean(run, NAME_LENGTH), f"{p:.4f}", f"{m:.4f}", _signed(p / m - 1, "+.2%")]
        for run, p, m in zip(h.runs, h.predicted, h.measured, strict=True)
    ]
    covered = None if h.covered is None else f"{h.covered:.0%}"
    return {"budget": power(h.budget), "rows": rows[:24], "covered": covered, "count": len(rows)}


def _runs(fit: Fit) -> dict[str, Any]:
    """The run table: [run, shape, N, D, C, lr, loss, residual] per run, by compute."""
    p = fit.points
    order = np.argsort(-np.abs(p.residual), kind="stable")[:MOST_RUNS]
    order = order[np.argsort(p.flops[order], kind="stable")]
    rows = []
    for i in order:
        rows.append(
            [
                clean(p.run[i], NAME_LENGTH),
                _shape(p.columns, int(i)),
                short(p.params[i]),
                short(p.tokens[i]),
                f"{p.flops[i]:.2e}".replace("e+", "e"),
                _column(p.columns, "lr", int(i), "{:.2g}"),
                f"{p.loss[i]:.4f}",
                _signed(100 * math.expm1(p.residual[i]), "+.2f"),
            ]
        )
    return {"rows": rows, "total": len(p.run), "used": fit.runs_used}


def _facts(fit: Fit) -> list[list[str]]:
    """Data, conventions, source and versions: [name, value]."""
    ranges = {
        "params": ("Parameters fitted", short),
        "tokens": ("Tokens fitted", short),
        "flops": ("Compute fitted [FLOP]", power),
        "tokens_per_param": ("Tokens per parameter", three),
        "loss": ("Loss [nats/token]", three),
    }
    rows = [
        [label, f"{form(fit.range[key].low)} to {form(fit.range[key].high)}"]
        for key, (label, form) in ranges.items()
        if key in fit.range
    ]
    rows += [[f"data: {k.replace('_', ' ')}", _value(v)] for k, v in fit.data.items() if v]
    rows += [[f"source: {k}", _value(v)] for k, v in fit.source.items()]
    rows += [[f"option: {k}", _value(v)] for k, v in fit.options.items() if v is not None]
    rows += [[f"version: {k}", _value(v)] for k, v in sorted(fit.versions.items())]
    return rows


def _basis(fit: Fit) -> dict[str, str]:
    """How things were counted and minimised."""
    delta = fit.objective.delta
    threshold = "" if delta is None else f", threshold {delta:.3g}"
    return {
        "params": str(fit.convention.get("params", "as given")),
        "flops": str(fit.convention.get("flops", "as given")),
        "objective": f"{fit.objective.name}{threshold}",
        "used": str(fit.runs_used),
        "clusters": str(len(np.unique(fit.points.cluster))),
        "draws": str(len(fit.draws)),
    }


def _shape(columns: Mapping[str, Any], row: int) -> str:
    """Width by depth of a run."""
    if not {"width", "depth"} <= columns.keys():
        return DASH
    return f"{columns['width'][row]:.0f}\N{MULTIPLICATION SIGN}{columns['depth'][row]:.0f}"


def _column(columns: Mapping[str, Any], name: str, row: int, form: str) -> str:
    """A cell of an optional column."""
    value = columns[name][row] if name in columns else math.nan
    return form.format(value) if math.isfinite(value) else DASH


def _ends(number: Number, form: Any) -> list[str]:
    """A value and its interval."""
    if number.low is None or number.high is None:
        return [form(number.value), DASH]
    return [form(number.value), f"{form(number.low)} to {form(number.high)}"]


def _end(value: float | None, form: str) -> str:
    """One end of an interval."""
    return DASH if value is None else format(value, form)


def _signed(value: float, form: str) -> str:
    """A number with its sign, a minus and not a hyphen."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _bounds(fit: Fit, name: str) -> str:
    """The interval of a parameter or exponent."""
    bounds = fit.interval.bounds.get(name)
    return DASH if bounds is None else f"{_digits(bounds[0])} to {_digits(bounds[1])}"


def _digits(value: float | None) -> str:
    """Four significant digits."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "unbounded"
    return f"{value:#.4g}".rstrip(".") if abs(value) < 1e5 else power(value)


def _value(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return clean(", ".join(f"{k} {_value(v)}" for k, v in value.items()), 300)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return clean(", ".join(_value(v) for v in value), 300)
    return clean(str(value), 120)
