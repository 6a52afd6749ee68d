"""A question and its fields: nothing here computes.

Each field of `Question` is one row: its type, how its text is read, its help, and what it limits or
needs. The command line makes an option of each row, the service a parameter, the page an input. A
limit of another quantity needs one row here and, where its value is no bound of params, tokens or
their ratio itself, one rule in `constraints.limit_ends`.

`budget_fields` reads a budget as people write it, FLOP, money, or devices and a time in one text,
into the fields of a question: `1 ZFLOP`, `$5,000`, `5k$ on h100`, `8 h100 for 3 days`,
`1000 h100-hours`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fit.data.accounting import find_device
from fit.errors import FieldError, QueryError
from fit.quantities import (
    DEFAULT_MFU,
    has_money,
    is_compute,
    is_time,
    option_name,
    parse_bytes,
    parse_count,
    parse_dollars,
    parse_flag,
    parse_flops,
    parse_hours,
    parse_name,
    parse_number,
    parse_price,
    parse_share,
)

if TYPE_CHECKING:
    from fit.allocation.scaling_law import ScalingLaw

_FOR_A_TIME = re.compile(r"(.+?)\s*(?:\b(?:for|over|during)\s+|\s)(\d[\d.,_]*\s*[a-z]+)", re.I)
_DEVICE_TIME = re.compile(r"(\d[\d.,_]*(?:\s?[km]\b)?)\s*(.+?)[- ]?(hours?|h|days?|d|weeks?)", re.I)
_ON = re.compile(r"(.+?)\s+(?:on|of|with)\s+(?:an?\s+)?(.+)", re.I)
_COUNTED = re.compile(r"(\d[\d.,]*)\s*(?:[x\u00d7*]\s*)?(.+)", re.I)
_MONTHS = re.compile(r"\d\s*(months?|years?|yrs?)\b", re.I)
_ANY_DEVICE = re.compile(r"(gpu|device|card|accelerator|node)s?", re.I)

LAW_COLUMNS = {
    "width": "Width, for a law of shapes.",
    "depth": "Depth, for a law of shapes.",
    "unique_tokens": "Unique tokens there are, for a law of repeated data.",
    "params_total": "All parameters, for a law of experts.",
    "params_embedding": "Of the vocabulary, for its law (--params: the others).",
    "experts": "Experts, for a law of their number.",
    "flops": "Compute [FLOP], for a law of compute alone.",
    "batch_tokens": "Tokens of a batch, for a rule that needs them.",
}
"""Columns of a law that a question may fix, each with its option's help."""
BYTES_PER_PARAM = 2.0
"""Of weights at serving: bf16."""


Reader = Callable[[str, str], float | str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionField:
    """One field of a question: how it is read, its help, and what it limits or needs."""

    read: Reader
    """Reads its text; the second argument is its name, for the message."""
    metavar: str
    about: str
    """One line of help, with its unit."""
    budget: bool = False
    """Whether it states the budget, as exactly one field does."""
    limits: str | None = None
    """The quantity that it limits: `params`, `tokens` or `tokens_per_param`."""
    end: str = "both"
    """The end that it limits: `low`, `high`, or `both` for a fixed value."""
    needs: tuple[str, ...] = ()
    """Fields without which it means nothing."""
    excludes: tuple[str, ...] = ()
    """Limits that a fixed value leaves no room for."""


def _row(read: Reader, metavar: str, about: str, **more: Any) -> Any:
    """A field of `Question`: None or False by default, its row of the table as metadata."""
    row = QuestionField(read=read, metavar=metavar, about=about, **more)
    return field(default=False if read is parse_flag else None, metadata={"row": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A budget to be split, or a loss to be reached, and limits of the model.

    Exactly one of `flops`, `dollars`, `hours`, `deadline` and `loss` is given. With `serve_tokens`
    the budget pays for training and serving, and a loss is reached with the least of both.

    Raises:
        FieldError: No budget or two, a field without one that it needs, or a number that is not
            positive and finite.
    """

    source: ScalingLaw
    flops: float | None = _row(
        parse_flops, "C", "Budget: 1e21, '$5k on h100', '8 h100 for 3 days'.", budget=True
    )
    dollars: float | None = _row(
        parse_dollars,
        "$",
        "Budget in dollars, such as 5k; needs --device.",
        budget=True,
        needs=("device",),
    )
    hours: float | None = _row(
        parse_hours,
        "H",
        "Budget in device-hours; needs --device.",
        budget=True,
        needs=("device",),
    )
    deadline: float | None = _row(
        parse_hours,
        "H",
        "Time until it must be done, such as 3d; needs --devices.",
        budget=True,
        needs=("devices", "device"),
    )
    loss: float | None = _row(
        parse_number, "L", "Loss to be reached [nats/token]: how much compute?", budget=True
    )
    price: float | None = _row(
        parse_price, "$", "Dollars per device-hour.  [stored, for dollars]", needs=("device",)
    )
    device: str | None = _row(
        parse_name, "NAME", "a100, h100, ..., or its dense bf16 FLOP/s: 1.65e14."
    )
    devices: float | None = _row(parse_count, "M", "Devices that train at once.", needs=("device",))
    mfu: float | None = _row(
        parse_share,
        "SHARE",
        f"Share of the peak reached.  [of the runs, or {DEFAULT_MFU:g}]",
        needs=("device",),
    )
    params: float | None = _row(
        parse_count,
        "N",
        "Parameters, fixed.",
        limits="params",
        excludes=("min_params", "max_params"),
    )
    min_params: float | None = _row(
        parse_count, "N", "Parameters at least.", limits="params", end="low"
    )
    max_params: float | None = _row(
        parse_count, "N", "Parameters at most.", limits="params", end="high"
    )
    tokens: float | None = _row(
        parse_count, "D", "Training tokens, fixed.", limits="tokens", excludes=("max_tokens",)
    )
    max_tokens: float | None = _row(
        parse_count, "D", "Training tokens at most.", limits="tokens", end="high"
    )
    unique_tokens: float | None = _row(
        parse_count, "U", "Unique tokens there are; more are repeats."
    )
    serve_tokens: float | None = _row(parse_count, "S", "Tokens served in its life, paid for too.")
    min_ratio: float | None = _row(
        parse_number, "R", "Tokens per parameter at least.", limits="tokens_per_param", end="low"
    )
    max_ratio: float | None = _row(
        parse_number, "R", "Tokens per parameter at most.", limits="tokens_per_param", end="high"
    )
    memory: float | None = _row(
        parse_bytes,
        "SIZE",
        "Memory for the weights at serving, such as 8GB.",
        limits="params",
        end="high",
    )
    bytes_per_param: float | None = _row(
        parse_number,
        "B",
        f"Bytes per parameter at serving.  [{BYTES_PER_PARAM:g}]",
        needs=("memory",),
    )
    regret: bool = _row(parse_flag, "", "Show what other sizes would cost.")
    force: bool = _row(parse_flag, "", "Answer although the verdict is `refuse`.")

    def __post_init__(self) -> None:
        for name in FIELDS:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_positive(name, value)
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) != 1:
            _refuse_budgets(budgets)
        _check_together(self)

    @property
    def constrained(self) -> bool:
        """Whether it is more than the best split of a budget."""
        names = (*LIMITS, "loss", "serve_tokens")
        return any(getattr(self, name) is not None for name in names)


FIELDS: Mapping[str, QuestionField] = MappingProxyType(
    {f.name: f.metadata["row"] for f in dataclasses.fields(Question) if "row" in f.metadata}
)
"""The row of every field, in the order of the help."""
REPORT_FIELDS = tuple(name for name in FIELDS if name not in ("regret", "force"))
"""Fields of a question that a report takes: all but what other sizes cost, which it always shows,
and an answer against the verdict, which it never gives."""
BUDGETS = tuple(name for name, row in FIELDS.items() if row.budget)
"""Ways to state a budget, of which a question has exactly one."""
LIMITS = tuple(name for name, row in FIELDS.items() if row.limits is not None)
"""Fields that limit the model's size, its tokens or their ratio."""


def _check_positive(name: str, value: float) -> None:
    """Refuse numbers out of range."""
    what = "budget" if name == "flops" else name
    if not (math.isfinite(value) and value > 0):
        raise FieldError(f"{what} is '{value:g}'; a positive finite number is needed.", name)
    if name == "mfu" and value > 1:
        raise FieldError(f"mfu is '{value:g}'; a share up to 1 is needed, such as 0.4.", name)
    if name == "devices" and value != round(value):
        raise FieldError(f"devices is '{value:g}'; a whole number is needed.", name)


def _refuse_budgets(names: list[str]) -> None:
    """Refuse a question with no budget, or with more than one."""
    words = [option_name(name) for name in names]
    ways = "FLOPS (flops), --dollars, --hours (device-hours), --deadline and --loss"
    if not names:
        raise FieldError(f"no budget was given; exactly one of {ways} is needed.", "flops")
    raise FieldError(
        f"the budget is given {len(names)} times, as {' and '.join(words)}; exactly one of {ways} "
        "is needed.",
        names[1],
    )


def _check_together(q: Question) -> None:
    """Refuse fields that need or exclude one another."""
    for name, row in FIELDS.items():
        if getattr(q, name) is None:
            continue
        missing = [other for other in row.needs if getattr(q, other) is None]
        if missing:
            words = " and ".join(option_name(other) for other in missing)
            raise FieldError(
                f"{option_name(name)} was given without {words}; give both.", missing[0]
            )
        excluded = [other for other in row.excludes if getattr(q, other) is not None]
        if excluded:
            raise FieldError(
                f"{option_name(name)} fixes what "
                f"{option_name(excluded[0])} limits; leave one of them out.",
                excluded[0],
            )
    if q.params is not None and q.tokens is not None:
        raise FieldError(
            "--params and --tokens fix both, so that nothing is left to choose; ask: isoflop "
            "predict --params N --tokens D",
            "tokens",
        )
    if q.deadline is not None and q.serve_tokens is not None:
        raise FieldError(
            "--deadline limits the training alone and leaves nothing to pay --serve-tokens from; "
            "state the budget as FLOPS, --dollars, --hours or --loss.",
            "serve_tokens",
        )


def question(source: ScalingLaw, fields: Mapping[str, object]) -> Question:
    """A question from fields by name, as people type them or programs send them.

    Args:
        source: The fit or published law that answers.
        fields: Values by the names of `FIELDS`: text (`1e21`, `7B`, `8GB`, `40%`), numbers or
            booleans. None, and a flag that is not set, is as if it were not there.

    Raises:
        FieldError: A field that is unknown, cannot be read, is out of range, is missing or one too
            many; its `field` says which.
    """
    if isinstance(budget := fields.get("flops"), str):
        others = {name: value for name, value in fields.items() if name != "flops"}
        stated = budget_fields(budget, others)
        fields = {**others, **stated}
        if stated.keys() & {"dollars", "hours"} and fields.get("device") is None:
            raise FieldError(without_device(budget), "device")
    values = {name: _read(name, value) for name, value in fields.items() if value is not None}
    return Question(source=source, **values)  # type: ignore[arg-type]


def without_device(text: str, what: str = "budget") -> str:
    """What to say of a budget in money or time that names no device."""
    example = f"{text} on h100" if has_money(text) else "8 h100 for 3 days"
    return f"{what} is '{text}', without a device; name it, as in '{example}', or give FLOP: 1e21."


def _read(name: str, value: object) -> float | str | bool:
    """The value of one field."""
    if name not in FIELDS:
        raise FieldError(f"unknown field '{name}'; known are {', '.join(FIELDS)}.", name)
    text = str(value)
    try:
        return FIELDS[name].read(text, "budget" if name == "flops" else name)
    except QueryError as error:
        raise FieldError(str(error), name) from error


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
        fields = _read_budget(text.strip(), given)
    except FieldError:
        raise
    except QueryError as error:
        raise FieldError(str(error), "flops") from error
    for name in fields:
        if given.get(name) is not None and name != "flops":
            raise FieldError(f"{name} is given twice, in the budget '{text}' and by itself.", name)
    return fields


def _read_budget(text: str, given: Mapping[str, object]) -> dict[str, object]:
    """The fields of a budget; a `QueryError` that is no `FieldError` is of the budget."""
    if is_compute(text):
        return {"flops": parse_flops(text)}
    on = _ON.fullmatch(text)
    what = on[1] if on else text
    if on and is_compute(what) and "f" in what.lower():
        raise FieldError(
            f"budget is '{text}': compute takes no device; give '{what}', and for its hours and "
            f"cost --device {on[2]}.",
            "flops",
        )
    if months := _MONTHS.search(text):
        raise FieldError(
            f"budget is '{text}': {months[1]} have no one length; give days or weeks, as in '8 "
            "h100 for 90 days'.",
            "flops",
        )
    if has_money(what):
        money: dict[str, object] = {"dollars": parse_dollars(what, "budget")}
        return money | (_devices(on[2], text) if on else {})
    spent = _DEVICE_TIME.fullmatch(what)
    together = spent is not None and _ANY_DEVICE.fullmatch(spent[2]) is not None
    if on and is_time(what) and not together:
        counted = {"devices": 1.0} | _devices(on[2], text)
        return {"deadline": parse_hours(what, "budget"), **counted}
    if (timed := _FOR_A_TIME.fullmatch(text)) and is_time(timed[2]):
        counted = {"devices": 1.0} | _devices(timed[1], text)
        return {"deadline": parse_hours(timed[2], "budget"), **counted}
    if is_time(text) and not together:
        if given.get("device") is None or given.get("devices") is None:
            example = f"8 h100 for {text}"
            raise FieldError(
                f"budget is '{text}', a time; the devices are needed too, as in '{example}'.",
                "flops",
            )
        return {"deadline": parse_hours(text, "budget")}
    if spent:
        hours = parse_hours(f"1 {spent[3]}", "budget") * parse_count(spent[1], "budget")
        named = _devices(on[2], text) if on else {}
        if on and "devices" in named:
            raise FieldError(
                f"budget is '{text}': hours of all devices together, and a number of devices; "
                f"leave the number out, or give the time of each: '3 days on {on[2]}'.",
                "flops",
            )
        return {"hours": hours, **_devices(spent[2], text), **named}
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
    if counted and not parse_count(counted[1], "devices").is_integer():
        raise FieldError(
            f"budget is '{text}', and '{words}' is no whole number of devices; name one, as in '8 "
            "h100 for 3 days'.",
            "flops",
        )
    if counted and _ANY_DEVICE.fullmatch(counted[2]):
        return {"devices": parse_count(counted[1], "devices")}
    if counted and (device := find_device(counted[2])):
        return {"devices": parse_count(counted[1], "devices"), "device": device.name}
    raise FieldError(
        f"budget is '{text}', and '{words}' is no known device; name one, as in '8 h100 for 3 "
        "days', or give FLOP: 1e21.",
        "flops",
    )
