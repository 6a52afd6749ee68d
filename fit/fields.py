"""The fields of a question: their words on every door, and how each is read.

The command line makes an option of each, the service a parameter; `asking` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fit.quantity import (
    parse_bytes,
    parse_count,
    parse_flag,
    parse_flops,
    parse_name,
    parse_number,
    parse_share,
)

Reader = Callable[[str, str], float | str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a question."""

    read: Reader
    """Reads its text; the second argument is its name, for the message."""
    metavar: str
    about: str
    """One line of help, with its unit."""


def _field(read: Reader, metavar: str, about: str) -> Field:
    return Field(read=read, metavar=metavar, about=about)


BUDGETS = ("flops", "dollars", "hours", "deadline", "loss")
"""Ways to say a budget, of which a question has exactly one."""

FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "flops": _field(parse_flops, "C", "Budget in FLOP, such as 1e21."),
        "dollars": _field(parse_count, "$", "Budget in dollars; needs --price and --device."),
        "hours": _field(parse_count, "H", "Budget in device-hours; needs --device."),
        "deadline": _field(parse_count, "H", "Hours until it must be done; needs --devices."),
        "loss": _field(parse_number, "L", "Loss to be reached [nats/token]: how much compute?"),
        "price": _field(parse_count, "$", "Dollars per device-hour."),
        "device": _field(parse_name, "NAME", "a100, h100, ..., or its dense bf16 FLOP/s: 1.65e14."),
        "devices": _field(parse_count, "M", "Devices that train at once."),
        "mfu": _field(parse_share, "SHARE", "Share of the peak reached.  [of the runs, or 0.4]"),
        "params": _field(parse_count, "N", "Parameters, fixed."),
        "min_params": _field(parse_count, "N", "Parameters at least."),
        "max_params": _field(parse_count, "N", "Parameters at most."),
        "tokens": _field(parse_count, "D", "Training tokens, fixed."),
        "max_tokens": _field(parse_count, "D", "Training tokens at most."),
        "unique_tokens": _field(parse_count, "U", "Unique tokens there are; more are repeats."),
        "serve_tokens": _field(parse_count, "S", "Tokens served in its life, paid for too."),
        "min_ratio": _field(parse_number, "R", "Tokens per parameter at least."),
        "max_ratio": _field(parse_number, "R", "Tokens per parameter at most."),
        "memory": _field(parse_bytes, "SIZE", "Memory for the weights at serving, such as 8GB."),
        "bytes_per_param": _field(parse_number, "B", "Bytes per parameter at serving.  [2]"),
        "regret": _field(parse_flag, "", "Show what other sizes would cost."),
        "force": _field(parse_flag, "", "Answer from a fit that is not identified."),
    }
)  # fmt: skip
"""Every field, in the order of the help."""
