"""A law that can be asked: a fit, with intervals and a ladder of shapes, or a published preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fit.accounting import FLOPS_PER_PARAM_TOKEN
from fit.allocate import Split, split
from fit.ladder import Cost, Ladder, constant_cost, cost_of, ladder_of
from fit.laws import PRESETS, Law, Preset, law
from fit.record import Floats
from fit.repeats import over_repeats
from fit.result import Fit, Span
from fit.store import fit_hash, read_fit


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an answer comes from."""

    name: str
    law: Law
    theta: Floats
    """(p,), on raw counts."""
    convention: Mapping[str, str]
    range: Mapping[str, Span]
    """Of the runs fitted, as far as known: params, tokens, flops, tokens_per_param."""
    fit: Fit | None = None
    preset: Preset | None = None
    hash: str | None = None
    """Of the bytes of the fit's file, where it was read from one."""

    @classmethod
    def of(cls, what: Source | Fit | Path | str) -> Source:
        """A source from a fit, its folder or file, or the name of a published law.

        Raises:
            RecordError: There is no such fit.
        """
        if isinstance(what, Source):
            return what
        if isinstance(what, Fit):
            return cls.from_fit(what)
        if str(what) in PRESETS and not Path(what).exists():
            return cls.from_preset(PRESETS[str(what)])
        return cls.at(Path(what))

    @classmethod
    def at(cls, path: Path) -> Source:
        """The fit in a report folder or a `fit.json`.

        Raises:
            RecordError: Missing, corrupt, foreign or of a newer major version.
        """
        return cls.from_fit(read_fit(path), hash=fit_hash(path))

    @classmethod
    def from_fit(cls, fit: Fit, hash: str | None = None) -> Source:
        """A fit as a source, with the hash of its file where it has one."""
        return cls(
            name=fit.name,
            law=law(fit.law),
            theta=fit.vector(),
            convention=fit.convention,
            range=fit.range,
            fit=fit,
            hash=hash,
        )

    @classmethod
    def from_preset(cls, preset: Preset) -> Source:
        """A published law as a source."""
        family = law(preset.law)
        return cls(
            name=preset.name,
            law=family,
            theta=np.array([preset.theta[p] for p in family.parameters], dtype=np.float64),
            convention=preset.convention,
            range=_with_flops(preset.range or {}),
            preset=preset,
        )

    def given(self, **columns: float) -> Source:
        """The same with columns fixed that its law needs beside params and tokens.

        Unique tokens can be fixed for any law of params and tokens: see `repeats.over_repeats`.

        Raises:
            QueryError: The law has no such column.
        """
        if not columns:
            return self
        law = over_repeats(self.law) if "unique_tokens" in columns else self.law
        found = dataclasses.replace(self, law=law.at(**columns))
        # Neither depends on the law's columns, and counting the ladder anew takes milliseconds.
        found.__dict__.update({k: v for k, v in self.__dict__.items() if k in ("ladder", "cost")})
        return found

    @cached_property
    def ladder(self) -> Ladder | None:
        """The shapes behind the fit, where they are known."""
        return None if self.fit is None else ladder_of(self.fit)

    @cached_property
    def cost(self) -> Cost:
        """FLOP per token as a function of N."""
        return constant_cost() if self.fit is None else cost_of(self.fit, self.ladder)

    def best(self, flops: Floats) -> Split:
        """The best split of budgets (k,) at the point estimate; fields (k,)."""
        self.law.check_split()
        return split(self.law, self.theta, flops, self.cost)

    def splits(self, flops: Floats) -> Callable[[Floats], Split]:
        """The best split of budgets (k,) as a function of thetas (m, p); fields (m, k).

        The last split is kept: an interval asks for the point estimate's again.
        """
        self.law.check_split()
        kept: dict[bytes, Split] = {}

        def at(theta: Floats) -> Split:
            key = theta.tobytes()
            found = kept.get(key)
            if found is None:
                found = split(self.law, theta, flops, self.cost)
                kept.clear()
                kept[key] = found
            return found

        return at

    def log_losses(self, params: Floats, tokens: Floats) -> Callable[[Floats], Floats]:
        """The ln of the law at points (k,) as a function of thetas (m, p); (m, k)."""
        return lambda theta: np.asarray(np.log(self.law.loss(theta[..., None, :], params, tokens)))

    def reach(self, flops: float) -> float | None:
        """Budget over the largest one fitted; above 1 it extrapolates."""
        span = self.range.get("flops")
        return None if span is None else flops / span.high


def _with_flops(ranges: Mapping[str, Span]) -> Mapping[str, Span]:
    """Ranges with that of compute; where it was not published, 6 params tokens of the ends."""
    if "flops" in ranges or not {"params", "tokens"} <= ranges.keys():
        return ranges
    n, d = ranges["params"], ranges["tokens"]
    k = FLOPS_PER_PARAM_TOKEN
    return {**ranges, "flops": Span(low=k * n.low * d.low, high=k * n.high * d.high)}
