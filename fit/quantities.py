"""Parse and format quantities: counts (7B, 1.4T), FLOP, memory, shares, times, units of columns.

- `parse_*` reads what people type: 8e3, 0.5M, 1B, 10,000 or 10_000; 10 PFLOP-days; $5k; 3 days. An
  error names the quantity and shows what may be typed.
- `short`, `power`, `gigabytes`, `duration`, `percent` and `three_digits` print numbers.
- `parse_units` reads the units of table columns, such as `params=M` or `loss=bits`.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping

from fit.errors import QueryError

DEFAULT_MFU = 0.4
"""Share of a device's peak that training is taken to reach where nothing was measured."""

UNITS: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
"""Factors that may follow a number; no `P` and `E`, since 1E21 is a number already."""
_WORDS = {"thousand": "k", "million": "M", "billion": "B", "trillion": "T"}
_FACTORS = {unit.lower(): factor for unit, factor in UNITS.items()} | {
    word: UNITS[unit] for word, unit in _WORDS.items()
}
_DIGITS = r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_FACTOR = rf"[kmbgt]|{'|'.join(_WORDS)}"
_NUMBER = re.compile(rf"\s*({_DIGITS})\s*({_FACTOR}|)\s*", re.ASCII | re.IGNORECASE)
"""A number, its thousands kept apart by commas or underscores if at all, and a factor."""
_COUNTED = re.compile(r"(.*\S)\s*\b(tokens?|param(?:eter)?s?)\s*", re.ASCII | re.IGNORECASE)
"""A count and the noun behind it: 15T tokens."""
_DECIMAL_COMMA = re.compile(r"\d,(\d{3})*(\d{1,2})(?!\d)", re.ASCII)
_SI = "kilo mega giga tera peta exa zetta yotta ronna quetta".split()
_FLOP_FACTORS = _FACTORS | {
    name: 1000.0**i for i, word in enumerate(_SI, 1) for name in (word, word[0])
}
"""Factors in front of FLOP, where a prefix is no exponent: k to Q, kilo to quetta, in any case."""
_FLOP_PREFIX = "|".join(sorted(_FLOP_FACTORS, key=len, reverse=True))
_COMPUTE = re.compile(
    rf"\s*({_DIGITS})\s*({_FLOP_PREFIX})\s?(flops?(?:/s)?|f)"
    r"(?:\s?[-*]\s?|\s)?([a-z]+|)\s*",
    re.ASCII | re.IGNORECASE,
)
"""FLOP with a prefix, perhaps times a time: 1 ZFLOP, 10 PFLOP-days, 10 petaflop/s-days."""
_MONEY = re.compile(r"(?:us)?\s?\$(.+)|(.+?)\s?(?:us)?\$|usd\s?(.+)|(.+?)\s?(?:usd|dollars?)", re.I)
_OTHER_MONEY = re.compile(r"[\u20ac\u00a3\u00a5]|\b(eur|euros?|gbp|pounds?|yen|chf)\b", re.I)
_PER_HOUR = re.compile(r"\s*(?:/|per)\s*(?:(?:gpu|device|card)[- ])?(?:h|hr|hour)\s*", re.I)
_TIME = re.compile(
    rf"\s*({_DIGITS}\s*k?)\s*(?:(?:gpu|device|card)[- ])?([a-z]+)\s*", re.I | re.ASCII
)
_HOURS: Mapping[str, float] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1 / 3600),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 1 / 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1.0),
    **dict.fromkeys(("d", "day", "days"), 24.0),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 168.0),
}
"""Units of time [h]; none for `m` and months, which are minutes to some and of no one length."""
EXAMPLES = "1e21, 2.5e9, 7B or 1.4T"
BYTES: Mapping[str, float] = {
    **dict.fromkeys(("", "b"), 1.0),
    **{f"{u}b": 1000.0**i for i, u in enumerate("kmgt", 1)},
    **{f"{u}ib": 1024.0**i for i, u in enumerate("kmgt", 1)},
}
"""Bytes per unit of memory: 8GB are 8e9 bytes and 8GiB are 8 * 2^30."""
LEAST_BYTES = 1e5
"""A smaller number without a unit is taken for one in GB that lacks it."""
SCALED = ("params", "tokens", "flops", "loss")
"""Columns that can have a unit."""
LOSS_UNITS: Mapping[str, str] = {
    "nats": "nats", "nats/token": "nats", "bits": "bits", "bits/token": "bits", "bpt": "bits",
    "bpb": "bpb", "bits/byte": "bpb", "ppl": "ppl", "perplexity": "ppl",
}  # fmt: skip
"""Names of the units of a loss: nats and bits per token, bits per byte, perplexity per token."""
Units = Mapping[str, float | str]
"""Column -> factor to raw counts, FLOP or nats per token; for the loss also its unit's name."""


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
    if match is None and (counted := _COUNTED.fullmatch(text)):
        if counted[2][:5].lower() in what:  # "token" in max_tokens
            match = _NUMBER.fullmatch(counted[1])
    if match is None:
        raise _refusal(text, what, examples)
    value = _float(match[1]) * _FACTORS[match[2].lower()]
    if not (math.isfinite(value) and value > 0):
        raise _refusal(text, what, examples)
    return value


def parse_flops(text: str, what: str = "budget") -> float:
    """Read a budget in FLOP: `1e21`, `1 ZFLOP`, `10 PFLOP-days`; `7B` is a count, and refused.

    Args:
        text: What the user typed.
        what: Name of the quantity, for the message.

    Raises:
        QueryError: Not a positive finite number, one with a unit of another quantity, or a rate.
    """
    match = _NUMBER.fullmatch(text)
    if match is not None and match[2]:
        count = parse_count(text, what)
        raise QueryError(
            f"{what} is '{text.strip()}', which counts parameters or tokens; a number of FLOP is "
            f"needed, such as {power(count)}, and dollars are written ${text.strip()}."
        )
    if match is None and (compute := _COMPUTE.fullmatch(text)):
        return _compute(compute, text, what)
    return parse_count(text, what, examples="1e21, 1 ZFLOP or 10 PFLOP-days")


def _compute(match: re.Match[str], text: str, what: str) -> float:
    """FLOP of a match of `_COMPUTE`."""
    prefix, name, time = match[2].lower(), match[3].lower(), match[4].lower()
    value = _float(match[1]) * _FLOP_FACTORS[prefix]
    seconds = _HOURS.get(time, 0.0) * 3600 if time else 1.0
    if not seconds or (not time and name in ("f", "flop/s", "flops/s")):
        raise QueryError(
            f"{what} is '{text.strip()}', a rate or no known unit; compute is needed, such as 1e21 "
            "FLOP, or a rate times a time: 10 PFLOP-days."
        )
    return check_count(value * seconds, what)


def parse_dollars(text: str, what: str) -> float:
    """Read money in dollars: `5000`, `$5,000`, `5k$` or `5k USD`.

    Raises:
        QueryError: It is not positive, or another currency.
    """
    if _OTHER_MONEY.search(text):
        raise QueryError(f"{what} is '{text.strip()}'; dollars are needed, such as $5,000 or 5k$.")
    match = _MONEY.fullmatch(text.strip())
    amount = next(g for g in match.groups() if g) if match else text
    try:
        return parse_count(amount, what)
    except QueryError:
        raise _refusal(text, what, "5000, $5,000 or 5k$") from None


def parse_price(text: str, what: str) -> float:
    """Read dollars per device-hour: `2.5`, `$2.50` or `$2.50/h`.

    Raises:
        QueryError: It is not.
    """
    if match := re.fullmatch(rf"(.+?){_PER_HOUR.pattern}", text, re.I):
        text = match[1]
    return parse_dollars(text, what)


def parse_hours(text: str, what: str) -> float:
    """Read a time in hours: `72`, `72h`, `3d`, `3 days`, `90 min` or `2 weeks`.

    Raises:
        QueryError: It is not, or its unit is ambiguous.
    """
    examples = "72 (hours), 3d, 90 min or 2 weeks"
    match = _TIME.fullmatch(text)
    if match and match[2].lower() in _HOURS:
        return check_count(_HOURS[match[2].lower()] * parse_count(match[1], what), what)
    if text.rstrip().endswith("m"):  # 2.8M are a million hours
        raise _refusal(text, what, f"{examples} ('m' could be minutes or months)")
    return parse_count(text, what, examples=examples)


def is_compute(text: str) -> bool:
    """Whether a text is a number alone, or one with a factor or a unit of compute."""
    return bool(_NUMBER.fullmatch(text) or _COMPUTE.fullmatch(text))


def is_time(text: str) -> bool:
    """Whether a text is a number with a unit of time."""
    match = _TIME.fullmatch(text)
    return match is not None and match[2].lower() in _HOURS


def has_money(text: str) -> bool:
    """Whether a text states an amount of money, in whatever currency."""
    return bool(_MONEY.fullmatch(text.strip()) or _OTHER_MONEY.search(text))


def parse_number(text: str, what: str) -> float:
    """Read a positive number without a unit, such as a loss or a ratio.

    Raises:
        QueryError: It is not.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or match[2]:
        raise _refusal(text, what, "3.2 or 20")
    return parse_count(text, what, examples="3.2 or 20")


def parse_share(text: str, what: str) -> float:
    """Read a share above 0 and up to 1, such as `0.4` or `40%`.

    Raises:
        QueryError: It is not.
    """
    bare = text.strip()
    match = _NUMBER.fullmatch(bare.removesuffix("%"))
    value = _float(match[1]) / (100 if bare.endswith("%") else 1) if match and not match[2] else 0.0
    if not 0 < value <= 1:
        raise QueryError(f"{what} is '{bare}'; a share up to 1 is needed, such as 0.4 or 40%.")
    return value


def parse_bytes(text: str, what: str) -> float:
    """Read a size in memory such as `8GB` (8e9 bytes), `8GiB` or `8e9`.

    Raises:
        QueryError: It is not, or a number below 1e6 without a unit.
    """
    match = re.fullmatch(r"\s*([0-9_,.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    factor = None if match is None else BYTES.get(match[2].lower())
    if match is None or factor is None:
        raise _refusal(text, what, "8GB, 80GiB or 8e9 (bytes)")
    count = parse_count(match[1], what, examples="8GB, 80GiB or 8e9 (bytes)")
    if not match[2] and count < LEAST_BYTES:
        raise QueryError(
            f"{what} is '{text.strip()}', without a unit; write it, such as 8GB (or B for bytes)."
        )
    return factor * count


def parse_flag(text: str, what: str) -> bool:
    """Read yes or no.

    Raises:
        QueryError: It is neither.
    """
    word = text.strip().lower()
    if word not in ("1", "true", "yes", "0", "false", "no"):
        raise QueryError(f"{what} is '{text.strip()}'; true or false is needed.")
    return word in ("1", "true", "yes")


def parse_name(text: str, what: str) -> str:
    """Read a name.

    Raises:
        QueryError: It is empty.
    """
    if not text.strip():
        raise QueryError(f"{what} is empty; a name is needed.")
    return text.strip()


def check_count(value: float, what: str = "budget") -> float:
    """Return a number that is positive and finite.

    Raises:
        QueryError: It is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise _refusal(f"{value:g}", what, EXAMPLES)
    return value


def read_count(value: object, what: str) -> float:
    """A positive count, given as a number or as text such as `7B`.

    Raises:
        QueryError: It is not.
    """
    if isinstance(value, str):
        return parse_count(value, what)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _refusal(" ".join(str(value).split())[:40], what, EXAMPLES)
    try:
        return check_count(float(value), what)
    except OverflowError as error:
        raise _refusal("beyond every float", what, EXAMPLES) from error


def short(count: float) -> str:
    """A count with three significant digits and a suffix, 94.7M; as a power from 1e15 on."""
    if not math.isfinite(count):
        return "unbounded" if count > 0 else "none"
    for unit in ("T", "B", "M", "k"):
        if count >= 0.9995 * UNITS[unit] and count < 0.9995e15:
            return f"{three_digits(count / UNITS[unit])}{unit}"
    return three_digits(count) if count < 1e3 else power(count)


def interval_text(low: float, high: float, form: Callable[[float], str], *, least: float) -> str:
    """An interval in words where an end is open.

    Args:
        low: Lower end; open where it is not above `least`.
        high: Upper end; open where it is infinite.
        form: Formats an end.
        least: The least that the quantity can be: 0 of a count or a loss, -inf of others.
    """
    if math.isnan(low) or math.isnan(high) or (low <= least and high == math.inf):
        return "not determined"
    if low == -math.inf:
        return f"at most {form(high)}"
    return f"at least {form(low)}" if high == math.inf else f"[{form(low)}, {form(high)}]"


def duration(seconds: float) -> str:
    """A time with three significant digits and a unit: 42 s, 3.50 min, 2.10 h, 4.00 d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{seconds:.0f} s"


def gigabytes(size: float) -> str:
    """Bytes with three significant digits and a decimal unit: 8e9 -> 8.00GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            return f"{three_digits(size / factor)}{unit}"
    return f"{three_digits(size)}B"


def count_noun(number: int, noun: str) -> str:
    """A number and its noun: 1 run, 3 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def three_digits(value: float) -> str:
    """Three significant digits; with an exponent only below 0.001 and from 10,000 on."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e4:
        return power(value)
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))))
    return f"{value:.{digits}f}"


def perplexity(loss: float) -> float:
    """Of a loss [nats/token]: as many equally likely tokens would be as hard to predict."""
    return math.exp(loss) if loss < 700 else math.inf


def unit_with_perplexity(unit: str, loss: float) -> str:
    """The unit of a loss and, if it is nats/token, the perplexity."""
    nats = LOSS_UNITS.get(unit) == "nats"
    return f"{unit} (perplexity {three_digits(perplexity(loss))})" if nats else unit


def loss_difference(loss: float) -> str:
    """A difference of losses, with four decimals where it is small; infinity is `never`."""
    if not math.isfinite(loss):
        return "never"
    return f"{loss:.4f}" if abs(loss) < 1 else three_digits(loss)


def with_commas(value: float) -> str:
    """Hours or dollars, such as 1,234 or 0.0123."""
    return f"{value:,.0f}" if 1e3 <= value < 1e12 else three_digits(value)


def percent(share: float) -> str:
    """A share in percent, without rounding: 0.999 -> 99.9%."""
    return f"{100 * share:.10g}%"


def power(value: float) -> str:
    """Three significant digits at most, with an exponent: 1e18, 5.76e23."""
    mantissa, exponent = f"{value:.2e}".split("e")
    trimmed = mantissa.rstrip("0").rstrip(".")
    return f"{trimmed}e{int(exponent)}"


def _float(digits: str) -> float:
    """The value of digits whose thousands may be kept apart."""
    return float(digits.replace("_", "").replace(",", ""))


def _refusal(text: str, what: str, examples: str) -> QueryError:
    """The error for what is not a positive finite number."""
    if _DECIMAL_COMMA.search(text):
        examples = f"{examples} (a comma separates thousands, a point decimals)"
    return QueryError(
        f"{what} is '{text.strip()}'; a positive finite number is needed, such as {examples}."
    )


def parse_units(texts: Iterable[str]) -> dict[str, float | str]:
    """Factors that convert columns to raw counts, FLOP and nats per token.

    Args:
        texts: `column=unit` each; a unit is k, M, B, T or a number, for a loss a number or one of
            `LOSS_UNITS`.

    Raises:
        QueryError: Another column, an unknown unit, or one column twice.
    """
    factors: dict[str, float | str] = {}
    for text in texts:
        column, _, unit = (part.strip() for part in text.partition("="))
        if column not in SCALED:
            raise QueryError(
                f"--unit is '{text}'; only {', '.join(SCALED)} have units. Name one of them."
            )
        if column in factors:
            raise QueryError(f"--unit names {column} twice; one unit is needed. Remove the other.")
        factors[column] = _factor(column, unit, text)
    return factors


def check_units(units: Units) -> dict[str, float | str]:
    """Units as `parse_units` gives them, from numbers and names.

    Raises:
        QueryError: Another column or unit.
    """
    return {
        k: v for column, unit in units.items() for k, v in parse_units([f"{column}={unit}"]).items()
    }


def _factor(column: str, unit: str, text: str) -> float | str:
    """Raw counts per unit, or the unit of a loss."""
    if column == "loss" and unit.lower() in LOSS_UNITS:
        return LOSS_UNITS[unit.lower()]
    if column != "loss" and unit and unit in UNITS:
        return UNITS[unit]
    try:
        factor = float(unit)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        names = "nats, bits, bpb, ppl" if column == "loss" else ", ".join(u for u in UNITS if u)
        raise QueryError(f"--unit is '{text}'; {names} or a positive number such as 1e6 is needed.")
    return factor


def option_name(column: str) -> str:
    """The command line's option for a column: `--unique-tokens` for `unique_tokens`."""
    return f"--{column.replace('_', '-')}"
