"""A proposal as plain text for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from fit.proposal import NextRun, Precision, Proposal, Step
from fit.quantity import counted, power, short, three
from fit.text import LABEL, WIDTH, note_rows, table_text

TIMES, PLUS_MINUS = "\N{MULTIPLICATION SIGN}/", "\N{PLUS-MINUS SIGN}"


def proposal_text(proposal: Proposal, folder: Path, launch: str | None) -> str:
    """The runs, their bill, what they buy, and how to launch them.

    Args:
        proposal: The next runs.
        folder: Where the plan was written.
        launch: Arguments of `python -m sweep -m`; None where nothing can be launched.
    """
    p = proposal
    head = f"next runs for {power(p.flops)} FLOP, by {p.source} ({p.law})"
    rows = [
        head,
        "",
        table_text(("run", "N", "D", "D/N", "FLOP", "spent"), [_run_row(r) for r in p.runs]),
        "",
        _row("runs", f"{_counts(p)}, {_bill(p)}"),
        _row("now", _now(p)),
        _row("after", _worth(p.after, p)),
        "",
        table_text(("spend", "FLOP", "runs", "N*", "loss"), [_step_row(s) for s in p.steps]),
        "",
        *_wrapped(_verdict(p)),
        "",
        *_wrapped(_small_print(p)),
        *note_rows(p.notes),
        "",
        *_launch_rows(folder, launch),
    ]
    return "\n".join(line.rstrip() for line in rows)


def _row(label: str, text: str) -> str:
    """A label and its text."""
    return f"  {label:<{LABEL}} {text}"


def _run_row(run: NextRun) -> tuple[str, ...]:
    """One run."""
    s = run.shape
    name = f"copy {run.replicate}" if s is None else f"w{s.width}-d{s.depth}-s{run.seed}"
    return (
        name,
        short(run.params),
        short(run.tokens),
        three(run.tokens / run.params),
        f"{run.flops:.2e}",
        f"{run.flops_spent:.2e}",
    )


def _counts(p: Proposal) -> str:
    """How many runs, and in how many trunks where they share any."""
    trunks = len({(r.shape, r.seed) for r in p.runs})
    if not p.shared or trunks == len(p.runs):
        return str(len(p.runs))
    return f"{len(p.runs)} in {counted(trunks, 'trunk')}"


def _bill(p: Proposal) -> str:
    """What is spent, and what shared trunks save."""
    alone = sum(r.flops for r in p.runs)
    text = f"{power(p.flops_spent)} of {power(p.spend)} FLOP"
    saved = 1 - p.flops_spent / alone
    return f"{text}; shared trunks save {saved:.0%}" if saved > 0.005 else text


def _now(p: Proposal) -> str:
    """The present interval."""
    return "no runs yet" if p.before is None else _worth(p.before, p)


def _worth(precision: Precision, p: Proposal) -> str:
    """An interval in words."""
    n, margin = short(p.params), precision.loss_margin
    if not math.isfinite(precision.params_factor):
        return "nothing is known: too few runs"
    return (
        f"N* {n} {TIMES}{precision.params_factor:.3g}, "
        f"loss {p.loss:.4f} {PLUS_MINUS}{margin:.2g} nats/token"
    )


def _step_row(step: Step) -> tuple[str, ...]:
    """What a part of the spend buys."""
    precision = step.precision
    return (
        f"{step.share:.0%}",
        power(step.flops),
        str(step.runs),
        f"{TIMES}{precision.params_factor:.3g}",
        f"{PLUS_MINUS}{precision.loss_margin:.2g}",
    )


def _verdict(p: Proposal) -> str:
    """What the next tenth would buy, in two sentences."""
    last, more = p.steps[-2], p.steps[-1]
    factors = [s.precision.params_factor for s in (last, more)]
    margins = [s.precision.loss_margin for s in (last, more)]
    if not all(map(math.isfinite, factors)):
        return "So few runs give no interval. Spend more, or allow more runs (--runs)."
    if more.flops <= last.flops:
        return f"{more.share - 1:.0%} more spend buys no further run."
    amount = power(more.flops - last.flops)
    return (
        f"{more.share - 1:.0%} more spend ({amount} FLOP) narrows N*'s interval from "
        f"{TIMES}{factors[0]:.4g} to {TIMES}{factors[1]:.4g}, and the loss's from "
        f"{PLUS_MINUS}{margins[0]:.3g} to {PLUS_MINUS}{margins[1]:.3g} nats/token. "
        "Stop where that is not worth its price."
    )


def _small_print(p: Proposal) -> str:
    """What the expectation rests on."""
    text = (
        f"Intervals are {p.level:.0%} ones at {power(p.flops)} FLOP, expected to first order if "
        f"the law holds; one run's noise is taken as {p.noise:.2%} of the loss"
    )
    return text + (f", {p.shared:.0%} of its square shared by a trunk." if p.shared else ".")


def _wrapped(text: str) -> list[str]:
    """A paragraph."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _launch_rows(folder: Path, launch: str | None) -> list[str]:
    """The commands that check and launch the plan."""
    if launch is None:
        return [
            f"plan     {folder}/proposal.json",
            "         (this law knows no shapes, so there is nothing to launch)",
        ]
    own = launch.split(" ", 1)
    rows = [f"plan     {folder}"]
    for label, module in (("check", "sweep.plan"), ("launch", "sweep -m")):
        command = f"python -m {module} {launch}"
        if len(command) + 9 > WIDTH:
            rows += [f"{label:8} python -m {module} {own[0]} \\", f"{'':11}{own[1]}"]
        else:
            rows.append(f"{label:8} {command}")
    return rows
