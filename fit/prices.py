"""What the next hundredth of a nat costs, what serving does, and what repeats are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit.bands import Curve, fit_of
from fit.derived import derived_interval
from fit.hardware import device, hours_of_flops
from fit.inference import smallest_params, tokens_for_loss
from fit.record import Floats
from fit.source import Source

STEP = 0.01
"""Nats per token."""
FARTHEST = 1e5
"""Budgets over the largest asked at which the lower loss is still looked for."""
SPACING = 0.05
"""Of the table in ln C. A line through it is off by gamma^2 (L - E) SPACING^2 / 8, below 2e-5 nats
for the published laws: 0.2% of the step."""
SIZES = 400
"""Sizes looked at for a lifetime."""
USUAL_MFU = 0.4
"""Published: 38-46% for large models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a report is asked for beside the fit."""

    serve_tokens: float | None = None
    """Tokens that the model will read and write in its life."""
    unique_tokens: float | None = None
    """Tokens that there are; more are repeats."""
    price: float | None = None
    """Of a device-hour [$]."""
    device: str | None = None
    """A name of `hardware.DEVICES`."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the device's peak."""

    def dollars(self, flops: float) -> float | None:
        """What compute costs, where a price and a device are given.

        Raises:
            QueryError: No such device, or a number that cannot be meant.
        """
        if self.price is None or self.device is None:
            return None
        peak = device(self.device).flops_per_second
        return self.price * hours_of_flops(flops, peak, self.mfu or USUAL_MFU)


def next_price(source: Source, flops: Floats, step: float = STEP) -> Curve:
    """Compute that takes the loss of the best split of a budget down by a step, beyond the budget.

    Args:
        source: A fit as a source, whose law splits budgets.
        flops: Budgets (k,), ascending [FLOP].
        step: Nats per token.

    Returns:
        FLOP beyond each budget, (k,), with intervals; infinite where E is nearer than the step.
    """
    first, last = float(np.log(flops[0])), float(np.log(FARTHEST * flops[-1]))
    table = np.linspace(first, last, int((last - first) / SPACING) + 2)
    at = source.splits(np.exp(table))
    places = np.log(flops)

    def logs(theta: Floats) -> Floats:
        falling = -np.exp(at(theta).log_loss)  # (m, table), ascending
        rows = []
        for row in falling:
            wanted = np.interp(places, table, row) + step
            reached = np.interp(wanted, row, table)
            rows.append(places + np.log(np.expm1(np.maximum(reached - places, 1e-9))))
        return np.array(rows)

    fit = fit_of(source)
    value = np.exp(logs(fit.vector()[None, :])[0])
    low, high = derived_interval(fit, logs)
    end = 0.99 * (np.exp(table[-1]) - flops)
    return Curve(
        value=np.where(value < end, value, np.inf),
        low=low,
        high=np.where(high < end, high, np.inf),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Models of one loss and many sizes: what training each takes, and what serving it does."""

    loss: float
    served_tokens: float
    params: Floats
    """(k,), ascending."""
    tokens: Floats
    training: Floats
    """[FLOP]."""
    serving: Floats
    """[FLOP]."""
    optimum: float
    """N* of the budget: the least training [parameters]."""

    @property
    def total(self) -> Floats:
        """Both together."""
        return self.training + self.serving

    @property
    def cheapest(self) -> int:
        """The row that costs least in all."""
        return int(np.argmin(self.total))


def lifetimes(source: Source, flops: float, served_tokens: float) -> Lifetimes | None:
    """What models of other sizes cost that reach the loss of a budget's best split.

    Args:
        source: A fit as a source.
        flops: The budget [FLOP].
        served_tokens: Tokens that the model will read and write in its life.

    Returns:
        Sizes around the optimum; None where the law is no sum of two power laws. Serving a token
        takes a third of what training on it does.

    Source: Sardana et al. 2024, arXiv:2401.00448.
    """
    if source.law.expand is None:
        return None
    best = source.best(np.array([flops]))
    loss, optimum = float(np.exp(best.log_loss[0])), float(np.exp(best.log_params[0]))
    least = smallest_params(source.law, source.theta, loss)
    params = np.geomspace(1.02 * least, 4 * optimum, SIZES)
    tokens = tokens_for_loss(source.law, source.theta, params, loss)
    per_token = np.exp(source.cost.log_flops_per_token(np.log(params)))
    return Lifetimes(
        loss=loss,
        served_tokens=served_tokens,
        params=params,
        tokens=tokens,
        training=tokens * per_token,
        serving=served_tokens * per_token / 3,
        optimum=optimum,
    )


def repeated(source: Source, unique_tokens: float) -> Source | None:
    """The same law where only so many tokens are unique; None where it cannot be said.

    A law without repeats borrows what they are worth, see `repeats.over_repeats`.
    """
    known = "unique_tokens" in source.law.columns or source.law.exponents is not None
    return source.given(unique_tokens=unique_tokens) if known else None
