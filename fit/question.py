"""What can be asked: a budget, said in one of five ways, and what the model is held to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from fit.errors import FieldError
from fit.fields import BUDGETS
from fit.forms import option
from fit.source import Source

LIMITS = (
    "params",
    "min_params",
    "max_params",
    "memory",
    "tokens",
    "max_tokens",
    "min_ratio",
    "max_ratio",
)
"""Fields that limit the model's size, its tokens or their ratio."""
NEEDS = {
    "price": ("device",),
    "mfu": ("device",),
    "devices": ("device",),
    "dollars": ("price", "device"),
    "hours": ("device",),
    "deadline": ("devices", "device"),
    "bytes_per_param": ("memory",),
}
"""What a field means nothing without."""
REGION = {
    "params": ("min_params", "max_params"),
    "tokens": ("max_tokens",),
}
"""Fields that a fixed one leaves nothing to."""
BYTES_PER_PARAM = 2.0
"""Of weights at serving: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A budget to be split, or a loss to be reached, and what the model is held to.

    Exactly one of `flops`, `dollars`, `hours`, `deadline` and `loss` is given. With `serve_tokens`
    the budget pays for training and serving, and a loss is reached with the least of both.

    Raises:
        FieldError: No budget or two, a field without one that it needs, a value that cannot be
            meant.
    """

    source: Source
    flops: float | None = None
    """Budget C [FLOP] in the source's convention."""
    dollars: float | None = None
    """Budget [$], at `price` per hour of `device`."""
    hours: float | None = None
    """Budget in device-hours of `device`."""
    deadline: float | None = None
    """Hours until training must be done, on `devices` of `device`."""
    loss: float | None = None
    """Loss to be reached [nats/token]."""
    price: float | None = None
    """Of a device-hour [$/h]."""
    device: str | None = None
    """A name of `hardware.DEVICES`, or the peak of dense bf16 products [FLOP/s]."""
    devices: float | None = None
    """How many train at once."""
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the peak; None takes the fitted runs', or 0.4."""
    params: float | None = None
    """N is this."""
    min_params: float | None = None
    max_params: float | None = None
    tokens: float | None = None
    """D is this."""
    max_tokens: float | None = None
    unique_tokens: float | None = None
    """Tokens there are; a run past them repeats."""
    serve_tokens: float | None = None
    """Tokens that the model will read or write in its life."""
    min_ratio: float | None = None
    """D / N at least."""
    max_ratio: float | None = None
    memory: float | None = None
    """For the weights at serving [bytes]."""
    bytes_per_param: float | None = None
    """At serving; None is 2."""
    regret: bool = False
    """Say what other sizes would cost, even where nothing constrains the answer."""
    force: bool = False
    """Answer even from a fit that cannot tell the parameters apart."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_positive(f.name, value)
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            _refuse_budget(given)
        _check_together(self)

    @property
    def constrained(self) -> bool:
        """Whether more is asked than the best split of a budget."""
        asked = (*LIMITS, "loss", "serve_tokens")
        return any(getattr(self, name) is not None for name in asked)


def _check_positive(name: str, value: float) -> None:
    """Refuse numbers that cannot be meant."""
    what = "budget" if name == "flops" else name
    if not (math.isfinite(value) and value > 0):
        raise FieldError(f"{what} is '{value:g}'; a positive finite number is needed.", name)
    if name == "mfu" and value > 1:
        raise FieldError(f"mfu is '{value:g}'; a share up to 1 is needed, such as 0.4.", name)
    if name == "devices" and value != round(value):
        raise FieldError(f"devices is '{value:g}'; a whole number is needed.", name)


def _refuse_budget(given: list[str]) -> None:
    """No budget, or more than one."""
    words = [option(name) for name in given]
    known = "FLOPS (flops), --dollars, --hours (device-hours), --deadline and --loss"
    if not given:
        raise FieldError(f"no budget was given; exactly one of {known} is needed.", "flops")
    raise FieldError(
        f"the budget is given {len(given)} times, as {' and '.join(words)}; exactly one of {known} "
        "is needed.",
        given[1],
    )


def _check_together(q: Question) -> None:
    """Refuse fields that need or exclude one another."""
    for name, others in NEEDS.items():
        missing = [o for o in others if getattr(q, o) is None]
        if getattr(q, name) is not None and missing:
            words = " and ".join(option(o) for o in missing)
            raise FieldError(f"{option(name)} was given without {words}; give both.", missing[0])
    for name, others in REGION.items():
        twice = [o for o in others if getattr(q, o) is not None]
        if getattr(q, name) is not None and twice:
            raise FieldError(
                f"{option(name)} fixes what {option(twice[0])} limits; leave one of them out.",
                twice[0],
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
            "say the budget as FLOPS, --dollars, --hours or --loss.",
            "serve_tokens",
        )
