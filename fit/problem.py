"""What a model is held to, as limits on ln N, ln D and ln D/N, and what it has to pay for."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from fit.accounting import count_params
from fit.ladder import Cost, Ladder
from fit.laws import Law
from fit.question import BYTES_PER_PARAM, LIMITS, Question
from fit.record import Floats
from fit.source import Source

FORWARD_SHARE = 3.0
"""FLOP of training on a token over those of serving it: a backward pass costs two forward ones."""
MOST_LOG = 200.0
"""The ln of more parameters or tokens than anybody could mean."""
ON = {"params": "params", "tokens": "tokens", "ratio": "tokens_per_param", "memory": "params"}
"""What a field limits, by the last word of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a question; ends in ln, infinite where open."""

    name: str
    """The question's field."""
    on: str
    """`params`, `tokens` or `tokens_per_param`."""
    value: float
    """As the question has it."""
    low: float
    high: float
    wider: tuple[float, float]
    """The ends with twice the limit: half of a floor, both sides of a fixed value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Which N and D are allowed, and what they cost: training, and serving where asked."""

    law: Law
    cost: Cost
    limits: tuple[Limit, ...] = ()
    served: float = 0.0
    """Tokens served, paid from the same budget."""

    def ends(self, on: str) -> tuple[float, float]:
        """The ln of the least and of the most allowed of `params`, `tokens` or their ratio."""
        some = [limit for limit in self.limits if limit.on == on]
        least = -math.inf if on == "tokens_per_param" else 0.0
        return max([least, *(s.low for s in some)]), min([math.inf, *(s.high for s in some)])

    def floor(self, log_params: Floats) -> Floats:
        """The ln of the fewest training tokens allowed at ln N."""
        return np.maximum(self.ends("tokens")[0], log_params + self.ends("tokens_per_param")[0])

    def ceiling(self, log_params: Floats) -> Floats:
        """The ln of the most training tokens allowed at ln N."""
        return np.minimum(self.ends("tokens")[1], log_params + self.ends("tokens_per_param")[1])

    def sizes(self) -> tuple[float, float]:
        """The ln N between which some number of tokens is allowed; crossed where none is."""
        (low, high), (few, many) = self.ends("params"), self.ends("tokens")
        least, most = self.ends("tokens_per_param")
        return max(low, few - most), min(high, many - least, MOST_LOG)

    def paid(self, log_params: Floats, log_flops: float) -> Floats:
        """The ln of the training tokens that a budget pays at ln N once serving is paid."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(log_flops - per_token)
        share = np.exp(np.log(self.served / FORWARD_SHARE) + per_token - log_flops)
        with np.errstate(divide="ignore"):
            return np.asarray(log_flops - per_token + np.log1p(-np.minimum(share, 1.0)))

    def spent(self, log_params: Floats, log_tokens: Floats) -> Floats:
        """The ln of the FLOP of training and serving."""
        per_token = self.cost.log_flops_per_token(log_params)
        if not self.served:
            return np.asarray(per_token + log_tokens)
        with np.errstate(invalid="ignore"):  # NaN where a theta has no place
            both = np.logaddexp(log_tokens, np.log(self.served / FORWARD_SHARE))
        return np.asarray(per_token + both)

    def without(self, name: str) -> Problem:
        """The same, a limit lifted."""
        return dataclasses.replace(self, limits=tuple(x for x in self.limits if x.name != name))

    def doubled(self, name: str) -> Problem:
        """The same with twice a limit."""
        limits = tuple(
            dataclasses.replace(x, low=x.wider[0], high=x.wider[1]) if x.name == name else x
            for x in self.limits
        )
        return dataclasses.replace(self, limits=limits)


def problem_of(question: Question, source: Source) -> Problem:
    """The limits of a question on a source, which has the question's unique tokens already."""
    given = {n: getattr(question, n) for n in LIMITS}
    limits = tuple(_limit(question, source, n, v) for n, v in given.items() if v is not None)
    served = question.serve_tokens or 0.0
    return Problem(law=source.law, cost=source.cost, limits=limits, served=served)


def _limit(question: Question, source: Source, name: str, value: float) -> Limit:
    """One limit from its field."""
    at, double = math.log(value), math.log(2)
    low, high = (-math.inf if name.startswith("max_") else at), at
    wider = (low - double, high + double)
    if name.startswith("min_"):
        high, wider = math.inf, (at - double, math.inf)
    if name == "memory":
        each = question.bytes_per_param or BYTES_PER_PARAM
        low, high = -math.inf, largest_params(source.ladder, value / each)
        wider = (low, largest_params(source.ladder, 2 * value / each))
    on = ON[name.rpartition("_")[2]]
    return Limit(name=name, on=on, value=value, low=low, high=high, wider=wider)


def largest_params(ladder: Ladder | None, stored: float) -> float:
    """The ln N of the model on the ladder whose parameters, all of them, are `stored`.

    N may leave out the embedding or idle experts, which take memory all the same. Without a
    ladder it is `stored` itself.
    """
    if ladder is None:
        return math.log(stored)
    counts = np.log(ladder.along(lambda s: (ladder.count(s)[0], count_params(s).total)))
    total, gap = counts[:, 1], counts[:, 0] - counts[:, 1]
    return float(np.log(stored) + np.interp(np.log(stored), total, gap))
