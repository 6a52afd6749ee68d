"""What the section on costs says: the price of the next 0.01 nats, serving, repeats, in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fit import tables
from fit.bands import fit_of, frontier_of, further_budget
from fit.blocks import Table, left, math_power, right
from fit.prices import USUAL_MFU, Asked, lifetimes, next_price, repeated
from fit.quantity import percent, power, short, three
from fit.query import Question, answer
from fit.repeats import ENDLESS, borrows
from fit.reply import Regret
from fit.source import Source

TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING: Mapping[str, str] = MappingProxyType({"serving": "", "repeats": ""})


def price_table(source: Source, asked: Asked) -> Table | None:
    """The next 0.01 nats at the two budgets of page 1; None without a frontier.

    Raises:
        QueryError: The device is not known, or a number cannot be meant.
    """
    best = frontier_of(source)
    if best is None:
        return None
    budgets = np.array([fit_of(source).range["flops"].high, further_budget(source)])
    price = next_price(source, budgets)
    level = percent(best.level)
    rows = []
    for i, flops in enumerate(budgets):
        value = float(price.value[i])
        if not np.isfinite(value):
            rows.append((power(flops), "never", "the law's E is nearer", tables.DASH, tables.DASH))
            continue
        ends = f"{power(float(price.low[i]))} to {_end(float(price.high[i]))}"
        money = asked.dollars(value)
        dollars = tables.DASH if money is None else _dollars(money)
        rows.append((power(flops), power(value), ends, f"{TIMES}{three(value / flops)}", dollars))
    text = "The price of the next 0.01 nats/token, when both budgets are split best."
    columns = (
        left("budget [FLOP]", "number"),
        right("FLOP more", "number"),
        left(f"{level} interval", "span"),
        right("over the budget"),
    )
    if asked.dollars(1.0) is None:
        return Table(columns=columns, rows=tuple(r[:4] for r in rows), caption=text)
    text += (
        f" Dollars at {three(asked.price or 0)} per hour of {asked.device}, MFU "
        f"{three(asked.mfu or USUAL_MFU)}{'' if asked.mfu else ' (assumed)'}."
    )
    return Table(columns=(*columns, right("dollars")), rows=tuple(rows), caption=text)


def regret_table(source: Source) -> Table | None:
    """What other sizes cost than the one that page 1 recommends; None without a frontier."""
    if frontier_of(source) is None:
        return None
    found = answer(Question(source=source, flops=further_budget(source), regret=True))
    rows = tuple(_regret(r) for r in found.regret)
    columns = (
        right("size over $N^*$"),
        right("parameters"),
        right("loss, same budget"),
        right("training, same loss"),
        right("FLOP per served token", "number"),
        right("serving"),
        right("pays after serving"),
    )
    text = (
        "Other sizes than the recommended one: the loss that they give up at the same budget "
        "[nats/token], the training compute that they need for the same loss, and what they save "
        "in serving. The last column is how many served tokens make up for the dearer training."
    )
    return Table(columns=columns, rows=rows, caption=text) if rows else None


def _regret(r: Regret) -> tuple[str, ...]:
    """One size."""
    pays = r.break_even_tokens
    up = r.compute_up.value
    saved = tables.signed(-r.serving_saved, "+.0%") if r.serving_saved else tables.DASH
    return (
        f"{TIMES}{r.size:g}",
        short(r.params),
        tables.signed(r.loss_up.value, "+.4f") if r.size != 1 else tables.DASH,
        _dearer(up) if r.size != 1 else tables.DASH,
        power(r.serving_flops_per_token),
        saved,
        short(pays.value) if pays is not None and np.isfinite(pays.value) else tables.DASH,
    )


def _dearer(share: float) -> str:
    """Training compute over the least, less one."""
    return tables.signed(share, "+.1%") if np.isfinite(share) else "not at any"


def cost_words(source: Source, asked: Asked) -> dict[str, str]:
    """The captions of what was asked for: serving and repeats."""
    return {"serving": _serving(source, asked), "repeats": _repeats(source, asked)}


def _serving(source: Source, asked: Asked) -> str:
    """Which size is cheapest in all."""
    if asked.serve_tokens is None:
        return ""
    found = lifetimes(source, further_budget(source), asked.serve_tokens)
    if found is None:
        return ""
    i = found.cheapest
    n, d = float(found.params[i]), float(found.tokens[i])
    at_optimum = float(np.interp(found.optimum, found.params, found.total))
    return (
        f"Training and serving {short(asked.serve_tokens)} tokens at one loss, "
        f"{found.loss:.4f} nats/token, that of page 1's recommendation. Cheapest in all: "
        f"{short(n)} parameters ({three(n / found.optimum)} of the compute-optimal) trained on "
        f"{short(d)} tokens, {1 - float(found.total[i]) / at_optimum:.0%} less than with $N^*$. "
        "A served token costs a third of a trained one (Sardana et al. 2024, arXiv:2401.00448)."
    )


def _repeats(source: Source, asked: Asked) -> str:
    """What few unique tokens cost."""
    if asked.unique_tokens is None:
        return ""
    scarce, endless = (repeated(source, u) for u in (asked.unique_tokens, ENDLESS))
    if scarce is None or endless is None:
        return ""
    flops = further_budget(source)
    fresh, limited = (s.best(np.array([flops])) for s in (endless, scarce))
    lost = float(np.exp(limited.log_loss[0]) - np.exp(fresh.log_loss[0]))
    n, d = float(np.exp(limited.log_params[0])), float(np.exp(limited.log_tokens[0]))
    return (
        f"With {short(asked.unique_tokens)} unique tokens. Left: the least loss of each budget, "
        "and with fresh tokens throughout. Right: how often the best split sees the data. At "
        f"{math_power(power(flops))} FLOP it is {short(n)} parameters on {short(d)} tokens, "
        f"{three(d / asked.unique_tokens)} epochs, and the limit costs {lost:.4f} nats/token."
    ) + (
        " What repeats are worth is borrowed from Muennighoff et al. 2023, arXiv:2305.16264, and "
        "has no interval."
        if borrows(scarce.law)
        else ""
    )


def _dollars(money: float) -> str:
    """A price; nobody pays by the thousandth of a cent."""
    if money < 0.01:
        return "under a cent"
    return f"${money:,.2f}" if money < 1e4 else f"${short(money)}"


def _end(value: float) -> str:
    """The upper end of an interval."""
    return power(value) if np.isfinite(value) else "unbounded"
