"""A budget as people write it: FLOP, money, or devices and a time, in one text.

`budget_fields` turns it into the fields of a question: `1 ZFLOP`, `$5,000`, `5k$ on h100`,
`8 h100 for 3 days`, `1000 h100-hours`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fit.data.accounting import find_device
from fit.errors import FieldError, QueryError
from fit.quantities import (
    has_money,
    is_compute,
    is_time,
    parse_count,
    parse_dollars,
    parse_flops,
    parse_hours,
)

_FOR_A_TIME = re.compile(r"(.+?)\s*(?:\b(?:for|over|during)\s+|\s)(\d[\d.,_]*\s*[a-z]+)", re.I)
_DEVICE_TIME = re.compile(r"(\d[\d.,_]*(?:\s?[km]\b)?)\s*(.+?)[- ]?(hours?|h|days?|d|weeks?)", re.I)
_MONEY_ON = re.compile(r"(.+?)\s+(?:on|of|with)\s+(.+)", re.I)
_COUNTED = re.compile(r"(\d[\d,]*)\s*(?:[x\u00d7*]\s*)?(.+)", re.I)
_ANY_DEVICE = re.compile(r"(gpu|device|card|accelerator|node)s?", re.I)


def budget_fields(text: str, given: Mapping[str, object]) -> dict[str, object]:
    """The fields of a question that a budget states.

    Args:
        text: What was typed.
        given: The other fields of the question.

    Returns:
        One of `flops`, `dollars`, `hours` and `deadline`, with `devices` and `device` where the
        text names them.

    Raises:
        FieldError: It states no budget or an ambiguous one, or a field that is given besides.
    """
    try:
        fields = _read(text.strip(), given)
    except FieldError:
        raise
    except QueryError as error:
        raise FieldError(str(error), "flops") from error
    for name in fields:
        if given.get(name) is not None and name != "flops":
            raise FieldError(f"{name} is given twice, in the budget '{text}' and by itself.", name)
    return fields


def _read(text: str, given: Mapping[str, object]) -> dict[str, object]:
    """The fields of a budget; a `QueryError` that is no `FieldError` is of the budget."""
    if is_compute(text):
        return {"flops": parse_flops(text)}
    on = _MONEY_ON.fullmatch(text)
    if has_money(on[1] if on else text):
        money: dict[str, object] = {"dollars": parse_dollars(on[1] if on else text, "budget")}
        return money | (_devices(on[2], text) if on else {})
    if (timed := _FOR_A_TIME.fullmatch(text)) and is_time(timed[2]):
        counted = {"devices": 1.0} | _devices(timed[1], text)
        return {"deadline": parse_hours(timed[2], "budget"), **counted}
    if is_time(text):
        if given.get("device") is None or given.get("devices") is None:
            example = f"8 h100 for {text}"
            raise FieldError(
                f"budget is '{text}', a time; the devices are needed too, as in '{example}'.",
                "flops",
            )
        return {"deadline": parse_hours(text, "budget")}
    if spent := _DEVICE_TIME.fullmatch(text):
        hours = parse_hours(f"1 {spent[3]}", "budget") * parse_count(spent[1], "budget")
        return {"hours": hours, **_devices(spent[2], text)}
    return {"flops": parse_flops(text)}  # raises


def _devices(words: str, text: str) -> dict[str, object]:
    """Number and name of devices, as far as words give them.

    Raises:
        FieldError: They name no known device.
    """
    words = words.strip()
    if _ANY_DEVICE.fullmatch(words):
        return {}
    if device := find_device(words):
        return {"device": device.name}
    counted = _COUNTED.fullmatch(words)
    if counted and _ANY_DEVICE.fullmatch(counted[2]):
        return {"devices": parse_count(counted[1], "devices")}
    if counted and (device := find_device(counted[2])):
        return {"devices": parse_count(counted[1], "devices"), "device": device.name}
    raise FieldError(
        f"budget is '{text}', and '{words}' is no known device; name one, as in '8 h100 for 3 "
        "days', or give FLOP: 1e21.",
        "flops",
    )
