"""Numbers as people write and read them: 7B, 1.4T, 1e21 FLOP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from fit.errors import QueryError

UNITS: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
"""Factors that may follow a number; `P` and `E` are left out, 1E21 being a number already."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMmBbGgTt]?)\s*")


EXAMPLES = "1e21, 2.5e9, 7B or 1.4T"


def parse_count(text: str, what: str = "budget", *, examples: str = EXAMPLES) -> float:
    """Read a positive count such as `1e21`, `2.5e9`, `7B` or `1.4T`.

    Args:
        text: What the user typed.
        what: Name of the quantity, for the message.
        examples: What may be typed, for the message.

    Raises:
        QueryError: Not a number, not positive, or beyond what a float can hold.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise _refusal(text, what, examples)
    unit = match[2] if match[2] in UNITS else match[2].swapcase()
    value = float(match[1].replace("_", "")) * UNITS[unit]
    if not (math.isfinite(value) and value > 0):
        raise _refusal(text, what, examples)
    return value


def parse_flops(text: str, what: str = "budget") -> float:
    """Read a budget in FLOP such as `1e21`; a unit marks a count of something else.

    Args:
        text: What the user typed.
        what: Name of the quantity, for the message.

    Raises:
        QueryError: Not a positive finite number, or one with a unit.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or not match[2]:
        return parse_count(text, what, examples="1e21 or 2.5e9")
    raise QueryError(
        f"{what} is '{text.strip()}', which counts parameters or tokens; a number of FLOP is "
        f"needed, such as {power(parse_count(text, what))}."
    )


def check_count(value: float, what: str = "budget") -> float:
    """Return a number that is positive and finite.

    Raises:
        QueryError: It is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise _refusal(f"{value:g}", what, EXAMPLES)
    return value


def short(count: float) -> str:
    """A count with three significant digits and a unit: 9.47e7 -> 94.7M; a power from 1e15 on."""
    if not math.isfinite(count):
        return "unbounded" if count > 0 else "none"
    for unit in ("T", "B", "M", "k"):
        if count >= 0.9995 * UNITS[unit] and count < 0.9995e15:
            return f"{three(count / UNITS[unit])}{unit}"
    return three(count) if count < 1e3 else power(count)


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 run, 3 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def three(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 10,000."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e4:
        return power(value)
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))))
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    """A share in percent with the digits it was given, 99.9%."""
    return f"{100 * share:.10g}%"


def power(value: float) -> str:
    """A large number in three digits at most: 1e18, 5.76e23."""
    mantissa, exponent = f"{value:.2e}".split("e")
    trimmed = mantissa.rstrip("0").rstrip(".")
    return f"{trimmed}e{int(exponent)}"


def _refusal(text: str, what: str, examples: str) -> QueryError:
    """What is wrong with a count."""
    return QueryError(
        f"{what} is '{text.strip()}'; a positive finite number is needed, such as {examples}."
    )
