"""Words of `python -m sweep.plan` that are not Hydra's: what to measure, at what price, up to what.

measure=off          keep the formula; else a few steps of every shape are timed, once
price=2.5            dollars of one device-hour
workers=8            runs at a time, where the launcher does not say it
spend.hours=2        device-hours, spend.dollars=5 or spend.flops=1e13: thin the grid to that
spend.prior=NAME     law or fit that the thinned grid is chosen for, spend.target=1e15 its budget
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fit.errors import PlanError, QueryError
from fit.quantity import parse_count, parse_flops

LIMITS = ("hours", "dollars", "flops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a plan is to be priced and thinned."""

    measure: bool = True
    price: float | None = None
    """Of one device-hour [$]."""
    workers: int | None = None
    """Runs at a time; None for what the launcher says."""
    hours: float | None = None
    """Device-hours to spend at most."""
    dollars: float | None = None
    flops: float | None = None
    """FLOP to spend at most."""
    prior: str = "besiroglu2024"
    """Published law or folder of a fit."""
    target: float | None = None
    """Budget at which N* and the loss are wanted [FLOP]; None for ten times the largest run."""

    @property
    def limited(self) -> bool:
        """Whether the grid is to be thinned."""
        return any(getattr(self, name) is not None for name in LIMITS)


def split_terms(overrides: Sequence[str]) -> tuple[Terms, list[str]]:
    """Take the plan's own words out of a command line.

    Args:
        overrides: Words of the command, Hydra's among them.

    Returns:
        The terms, and the overrides that are Hydra's.

    Raises:
        PlanError: A value that the word cannot have, an unknown word of spend, or a spend in
            dollars without a price.
    """
    found: dict[str, Any] = {}
    rest = []
    for override in overrides:
        word, equals, value = override.partition("=")
        if word.startswith("spend.") and word not in WORDS:
            known = ", ".join(w for w in WORDS if w.startswith("spend."))
            raise PlanError(f"{word} is not a word of the plan; known are {known}.")
        if equals and word in WORDS:
            name, read = WORDS[word]
            found[name] = read(word, value)
        else:
            rest.append(override)
    terms = Terms(**found)
    if terms.dollars is not None and terms.price is None:
        raise PlanError("spend.dollars needs the price of a device-hour; add price=2.5, say.")
    if (terms.target or "prior" in found) and not terms.limited:
        needed = ", ".join(f"spend.{name}" for name in LIMITS)
        raise PlanError(f"spend.prior and spend.target thin a grid to a limit; add {needed}.")
    return terms, rest


def _switch(word: str, value: str) -> bool:
    """On or off."""
    if value not in ("on", "off"):
        raise PlanError(f"{word}={value}; on or off is needed.")
    return value == "on"


def _count(word: str, value: str) -> float:
    """A positive number."""
    try:
        return parse_count(value, word, examples="2.5 or 1e3")
    except QueryError as error:
        raise PlanError(str(error)) from error


def _flops(word: str, value: str) -> float:
    """A budget."""
    try:
        return parse_flops(value, word)
    except QueryError as error:
        raise PlanError(str(error)) from error


def _whole(word: str, value: str) -> int:
    """A positive whole number."""
    number = _count(word, value)
    if number != int(number):
        raise PlanError(f"{word}={value}; a whole number is needed.")
    return int(number)


def _text(word: str, value: str) -> str:
    """A name."""
    if not value:
        raise PlanError(f"{word} is empty; a published law or the folder of a fit is needed.")
    return value


WORDS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = MappingProxyType(
    {
        "measure": ("measure", _switch),
        "price": ("price", _count),
        "workers": ("workers", _whole),
        "spend.hours": ("hours", _count),
        "spend.dollars": ("dollars", _count),
        "spend.flops": ("flops", _flops),
        "spend.prior": ("prior", _text),
        "spend.target": ("target", _flops),
    }
)
"""Word -> field of `Terms` and how its value is read."""
