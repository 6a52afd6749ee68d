"""The data source `mix`: rows of several sources of tokens, in fixed proportions.

    data=mix 'data.parts=[{name:text,path:books,weight:3},{name:text,path:code,weight:1}]'

A part is a source of text, tokens or a data set, by `name`, with a `weight` and settings of its
own; `label` names it in records, else its path does. Text has one tokenizer, `data.tokenizer`:
bytes, or an existing one.

Which part a row comes from follows a rule and no dice: after any number of rows from the start each
part has given its weight's share of them to within one row. The rule has a period, the common
denominator of the weights, so that training resumes at any row. A part's own rows come in its own
seeded order and repeat in whole epochs of its own. The held-out sample has the same proportions.

Source of the rule: Tijdeman 1980, "The chairman assignment problem". With m parts, part i is due at
row n where n w_i - x_i >= 1/(2m - 2), x_i being the rows that it has given; of those that are due
the one whose share would first be exceeded is chosen. Then |x_i - n w_i| <= 1 - 1/(2m - 2) always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.cache import digest
from sweep.config import DataConfig
from sweep.data.measured import set_names
from sweep.data.rows import (
    UNIGRAM_TOKENS,
    CorpusSource,
    Heldout,
    Ints,
    Rows,
    heldout_count,
    permuted,
    unigram_loss,
)

INHERITED = "heldout_tokens seed cache tokenizer pattern column encoding splits".split()
"""Settings that parts share with the mixture unless they give their own."""
SHARED = "heldout_tokens seed cache tokenizer max_epochs parts also_heldout tasks".split()
"""Settings that a part cannot give: they are of the mixture."""
LONGEST_PERIOD = 100_000
"""Rows of the longest pattern: weights need no more than five digits."""
ORDER = -3
"""Used instead of an epoch in the key of the order of the parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Which part each row of a period comes from."""

    part: Ints
    """(period,)."""
    earlier: Ints
    """(period,) rows of the same part before it in the period."""
    counts: Ints
    """(parts,) rows of a period."""

    def place(self, rows: Ints) -> tuple[Ints, Ints]:
        """The part of each row, and its number among the rows of that part."""
        period, place = np.divmod(rows, len(self.part))
        part = self.part[place]
        return part, period * self.counts[part] + self.earlier[place]


def pattern_of(weights: Sequence[Fraction], seed: int) -> Pattern:
    """The pattern of weights that sum to 1.

    Args:
        weights: Positive.
        seed: Decides which of several parts that are due alike comes first.
    """
    period = math.lcm(*(w.denominator for w in weights))
    counts = np.array([int(w * period) for w in weights])
    count, m = np.zeros(len(counts), dtype=np.int64), len(counts)
    order = permuted(np.arange(m, dtype=np.int64), m, seed, ORDER)
    part, earlier = np.zeros(period, dtype=np.int64), np.zeros(period, dtype=np.int64)
    scale = max(1, 2 * m - 2)
    for row in range(period):
        due = scale * ((row + 1) * counts - count * period)
        left = np.where(due >= period, ((scale - 1) * period - due) / counts, np.inf)
        chosen = order[np.argmin(left[order])] if m > 1 else 0
        part[row], earlier[row] = chosen, count[chosen]
        count[chosen] += 1
    return Pattern(part=part, earlier=earlier, counts=counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A source of a mixture."""

    label: str
    weight: Fraction
    config: DataConfig


def read_parts(config: DataConfig, seq_len: int, known: Mapping[str, Any]) -> tuple[Part, ...]:
    """The parts of `data.parts`, each with its share of the held-out sample.

    Args:
        config: Of the mixture.
        seq_len: Predicted tokens of a row.
        known: Sources that a part may have, by name, with the settings that each `reads`.

    Raises:
        PlanError: There are none, or one is no part.
    """
    if not config.parts:
        raise PlanError(
            "data=mix needs its parts: 'data.parts=[{name:text,path:FOLDER,weight:3},...]'."
        )
    if config.tokenizer == "bpe":
        raise PlanError(
            "data.tokenizer=bpe would train byte pairs of its own on each part of a mixture; take "
            "data.tokenizer=bytes or one that exists: data.tokenizer=PATH/tokenizer.json."
        )
    rows = [_checked(part, number, known) for number, part in enumerate(config.parts, start=1)]
    total = sum(weight for weight, _ in rows)
    weights = [weight / total for weight, _ in rows]
    if (period := math.lcm(*(w.denominator for w in weights))) > LONGEST_PERIOD:
        raise PlanError(
            f"the weights of data.parts repeat after {period} rows, and {LONGEST_PERIOD} are "
            "allowed; give whole numbers or fewer digits."
        )
    labels = [str(given.pop("label", None) or _label(given)) for _, given in rows]
    names = [*labels, *set_names(config)]
    if double := next((n for n in names if names.count(n) > 1), None):
        raise PlanError(f"two held-out sets are called '{double}'; tell parts apart: label:NAME.")
    held = heldout_shares(weights, heldout_count(config, seq_len))
    shared = {**vars(config), **{name: getattr(config, name) for name in INHERITED}}
    return tuple(
        Part(
            label=label,
            weight=weight,
            config=_part_config(shared, given, weight, count * seq_len, config.unique_tokens),
        )
        for label, weight, (_, given), count in zip(labels, weights, rows, held, strict=True)
    )


def heldout_shares(weights: Sequence[Fraction], count: int) -> list[int]:
    """Held-out rows of each part: in proportion, by largest remainders, one at least."""
    shares = [w * count for w in weights]
    rows = [max(1, math.floor(s)) for s in shares]
    for i in sorted(range(len(rows)), key=lambda i: rows[i] - shares[i]):
        rows[i] += sum(rows) < count
    while sum(rows) > max(count, len(rows)):  # the rows of small parts are taken from the largest
        rows[rows.index(max(rows))] -= 1
    return rows


def _checked(part: Any, number: int, known: Mapping[str, Any]) -> tuple[Fraction, dict[str, Any]]:
    """The weight of a part, and its settings.

    Raises:
        PlanError: It is no part, or has a setting that its source does not read.
    """
    where = f"part {number} of data.parts"
    if not isinstance(part, dict) or not {"name", "weight"} <= part.keys():
        raise PlanError(f"{where} is {part}; {{name:text,path:FOLDER,weight:3}} is needed.")
    given = {str(k): v for k, v in part.items()}
    try:
        weight = Fraction(str(given.pop("weight")))
    except ValueError:
        weight = Fraction(0)
    if weight <= 0:
        raise PlanError(f"{where} has the weight {part['weight']}; a positive number is needed.")
    if given["name"] not in known:
        raise PlanError(f"{where} is of {given['name']}; {', '.join(known)} can be mixed.")
    reads = known[given["name"]].reads - set(SHARED) | {"label"}
    if "tokenizer" in known[given["name"]].reads:
        reads -= {"vocab"}  # the tokenizer has it
    if wrong := sorted(given.keys() - reads):
        shared = wrong[0] in SHARED
        raise PlanError(
            f"{where} has {wrong[0]}, "
            + (f"which is of the mixture: data.{wrong[0]}." if shared else "which is not read; ")
            + ("" if shared else f"{', '.join(sorted(reads))} are.")
        )
    return weight, given


def _label(given: Mapping[str, Any]) -> str:
    """The name of a part's file or folder, or of its data set."""
    return Path(str(given.get("path") or given["name"])).expanduser().name.split(".")[0]


def _part_config(
    shared: Mapping[str, Any],
    given: Mapping[str, Any],
    weight: Fraction,
    heldout_tokens: int,
    unique_tokens: int | None,
) -> DataConfig:
    """The configuration of a part: its own settings, its share of the held-out sample and cap."""
    own: dict[str, Any] = {f.name: shared[f.name] for f in fields(DataConfig)}
    besides: dict[str, Any] = {
        "parts": [],
        "tasks": None,
        "also_heldout": [],
        "unique_tokens": None,
    }
    config = DataConfig(**{**own, **besides, "vocab": None, **given})
    config.heldout_tokens = heldout_tokens
    if unique_tokens is not None:
        share = round(weight * unique_tokens)
        config.unique_tokens = min(share, config.unique_tokens or share)
    return config


class MixtureSource:
    """Rows of several corpora in fixed proportions."""

    def __init__(
        self, config: DataConfig, seq_len: int, seed: int, known: Mapping[str, Any]
    ) -> None:
        self.seq_len = seq_len
        self.parts = read_parts(config, seq_len, known)
        self.sources: list[CorpusSource] = [
            known[p.config.name].open(p.config, seq_len, seed) for p in self.parts
        ]
        self._pattern = pattern_of([p.weight for p in self.parts], seed)
        self.vocab = max(s.vocab for s in self.sources)
        text = next((s for s in self.sources if s.encode is not None), self.sources[0])
        self.encode, self.decode, self.start = text.encode, text.decode, text.start
        if text.encode is not None and text.vocab < self.vocab:
            raise PlanError(
                f"a part of data.parts has {self.vocab} tokens, and data.tokenizer="
                f"{config.tokenizer} has {text.vocab}; parts need one tokenizer."
            )
        self.available_tokens: int | None = self._first_repeat(
            [s.available_tokens or 0 for s in self.sources]
        )
        self.info = self._describe()
        self.facts = tuple(self._facts())

    def _first_repeat(self, tokens: Sequence[int]) -> int:
        """Tokens of the mixture before a part of so many tokens begins its second epoch."""
        return min(
            math.floor(n // self.seq_len / p.weight) * self.seq_len
            for n, p in zip(tokens, self.parts, strict=True)
        )

    def _describe(self) -> DataInfo:
        """Facts of the mixture: its identity is that of the parts and their weights."""
        infos = [s.info for s in self.sources]
        rows = [len(s.heldout().rows) for s in self.sources]
        sizes = [i.bytes_per_token for i in infos]
        known = [size * n for size, n in zip(sizes, rows, strict=True) if size is not None]
        parts = zip(infos, self.parts, strict=True)
        return DataInfo(
            name="mix:" + "+".join(f"{p.label}*{float(p.weight):.3g}" for p in self.parts),
            hash=digest([[i.hash, i.unique_tokens, str(p.weight)] for i, p in parts]),
            unique_tokens=self._first_repeat([i.unique_tokens or 0 for i in infos]),
            bytes_per_token=sum(known) / sum(rows) if len(known) == len(rows) else None,
        )

    def _facts(self) -> list[tuple[str, str]]:
        """What the plan says of each part."""
        facts = []
        for number, (part, source) in enumerate(zip(self.parts, self.sources, strict=True), 1):
            unique = source.info.unique_tokens or 0
            epoch = math.floor(unique / part.weight)
            held = len(source.heldout().rows) * self.seq_len
            facts.append(
                (
                    f"part {number}",
                    f"{part.label}: {float(part.weight):.3g} of the rows, {unique:,} tokens, an "
                    f"epoch every {epoch:,} trained on, {held:,} held out, hash {source.info.hash}",
                )
            )
            found = dict(source.facts)
            facts += [(k, v) for k, v in found.items() if k == "tokenizer" and number == 1]
        return [*facts, ("documents", "by part")]

    @cached_property
    def unigram_loss(self) -> float:
        """Loss of the token frequencies in training rows of all parts, in their proportions."""
        before_repeat = self._first_repeat([s.info.unique_tokens or 0 for s in self.sources])
        most = max(len(self.parts), min(UNIGRAM_TOKENS, before_repeat) // self.seq_len)
        counts = heldout_shares([p.weight for p in self.parts], most)
        rows = [s.first_rows(n) for s, n in zip(self.sources, counts, strict=True)]
        return unigram_loss(np.concatenate(rows), self.heldout().rows, self.vocab)

    def train(self, start: int, count: int, every: int = 1) -> Rows:
        rows = np.arange(start, start + every * count, every, dtype=np.int64)
        part, number = self._pattern.place(rows)
        out = np.empty((count, self.seq_len + 1), dtype=np.int32)
        for index, source in enumerate(self.sources):
            chosen = np.flatnonzero(part == index)
            if len(chosen):
                out[chosen] = source.rows_at(number[chosen])
        return out

    def heldout(self) -> Heldout:
        rows = [s.heldout().rows for s in self.sources]
        return Heldout(
            rows=np.concatenate(rows),
            part=np.repeat(np.arange(len(rows)), [len(r) for r in rows]).astype(np.uint8),
            parts=tuple(p.label for p in self.parts),
        )

    def verify(self) -> None:
        for source in self.sources:
            source.verify()

    def part_facts(self, tokens: int) -> dict[str, dict[str, float]]:
        """Weight, distinct tokens and epochs of each part in a run of so many tokens."""
        found: dict[str, dict[str, float]] = {}
        for part, source in zip(self.parts, self.sources, strict=True):
            unique = source.info.unique_tokens or 0
            weight = float(part.weight)
            found[part.label] = {
                "weight": weight,
                "unique_tokens": unique,
                "epochs": weight * tokens / unique,
            }
        return found
