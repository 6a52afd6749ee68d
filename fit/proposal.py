"""The next runs and what they are expected to buy, as a document; nothing that computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fit.accounting import Shape
from fit.record import finite_or_null
from fit.result import Note

PROPOSAL_SCHEMA = "isoflop.proposal/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Half an interval at the target."""

    params_factor: float
    """N* times or divided by this; infinite where nothing is known."""
    loss_margin: float
    """Loss plus or minus this [nats/token]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a part of the spend buys."""

    share: float
    """Of the spend asked for; 1.1 is a tenth more."""
    flops: float
    runs: int
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """One run to make."""

    params: float
    tokens: float
    flops: float
    flops_spent: float
    """What it adds to the bill, trunk shared [FLOP]."""
    replicate: int
    """Which copy, or which trunk of its size, from 0."""
    seed: int | None
    """Of the trunk; seeds of the fitted runs are not used again. None without shapes."""
    shape: Shape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The next runs and what they are worth."""

    source: str
    law: str
    convention: Mapping[str, str]
    flops: float
    params: float
    """N* at the target by the present law."""
    loss: float
    spend: float
    level: float
    noise: float
    shared: float
    """Share of the error variance that runs of one trunk are taken to have in common."""
    before: Precision | None
    """None where there are no runs yet."""
    after: Precision
    steps: tuple[Step, ...]
    runs: tuple[NextRun, ...]
    notes: tuple[Note, ...] = ()
    schema: str = PROPOSAL_SCHEMA

    @property
    def flops_spent(self) -> float:
        """The bill [FLOP]."""
        return sum(r.flops_spent for r in self.runs)

    def document(self) -> dict[str, Any]:
        """The `isoflop.proposal/1` document."""
        document = dataclasses.asdict(self)
        ordered = {"schema": document.pop("schema"), "flops_spent": self.flops_spent, **document}
        return dict(finite_or_null(ordered))
