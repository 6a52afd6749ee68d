"""The table of runs that a law is fitted to.

A `RunTable` holds N, D, C and the loss of each run, and further facts as named columns. It is built
from records (`RunTable.from_records`) or read from a file (`fit.data.readers`). `subsample` draws
rows of a table that is too long to be refitted thousands of times.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.accounting import (
    FlopsPerToken,
    ParamCounts,
    device_peak,
    flops_per_token_in,
    params_in,
)
from fit.data.conditions import as_conditions, rows_that_meet
from fit.data.records import DataInfo, Dropped, Floats, RunRecord, T
from fit.errors import RecordError

RECORD_COLUMNS = (
    "width depth heads head_dim vocab seq_len lr batch_tokens seed loss_se params_body params_head "
    "params_embedding params_other params_idle experts top_k kv_heads flops_body flops_head "
    "flops_attention mfu"
).split()
"""Fields of a record that are numeric columns under their own names."""
TEXT_COLUMNS: dict[str, Callable[[Any], str]] = {
    "data": lambda record: record.data.name,
    "data_hash": lambda record: record.data.hash,
    "sweep": lambda record: record.sweep,
}
"""Columns of text, for conditions on rows."""
SCORE = "score_"
"""Start of the names of columns with a grade in 0 to 1; NAME_se holds its standard error."""
MOST_RUNS = 10_000
"""Largest number of runs fitted: 4000 resamples of them take 20 s of one core, and at 0.3% noise
they determine exponents to 0.001, more closely than any law is true."""
BIN_WIDTH = np.log(2.0)
"""Width of a bin of `subsample` in ln C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Training runs as read-only columns, each of shape (runs,): the input of every estimator."""

    run: tuple[str, ...]
    """Names of the runs."""
    params: Floats
    """N [parameters] under `params_convention`."""
    tokens: Floats
    """D [tokens]."""
    flops: Floats
    """C [FLOP] under `flops_convention`."""
    loss: Floats
    """Held-out loss [nats/token]."""
    cluster: NDArray[np.int64]
    """Code of the cluster of each run, such as its trunk; errors are correlated within clusters."""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """All further columns by name: width, depth, heads, lr, loss_se, unique_tokens, ..."""
    params_convention: str = "as given"
    flops_convention: str = "as given"
    dropped: tuple[Dropped, ...] = ()
    source: str = ""
    """Where the runs were read from."""
    hash: str = ""
    """Content hash of the file or of the records."""
    loss_unit: str = ""
    """`nats` or `bpb` (bits per byte) where the table's user has said so; nats otherwise."""
    remarks: tuple[str, ...] = ()
    """What was left out of the table beside runs, in words."""
    data: DataInfo | None = None
    """The data set; None unless all runs share one."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings that all runs share, as overrides of the config."""
    recipes: tuple[Mapping[str, Any], ...] = ()
    """Settings of each run, where records have them; else empty."""
    folders: tuple[str, ...] = ()
    """Folder of each run, "" where it is not known; empty for tables."""

    def __post_init__(self) -> None:
        for name in ("params", "tokens", "flops", "loss"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        cluster = np.asarray(self.cluster, dtype=np.int64)
        cluster.setflags(write=False)
        object.__setattr__(self, "cluster", cluster)
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    def __len__(self) -> int:
        return len(self.run)

    def column(self, name: str) -> Floats:
        """A numeric column by name, (runs,).

        Raises:
            RecordError: The table has no such column.
        """
        if name in ("params", "tokens", "flops", "loss"):
            return np.asarray(getattr(self, name))
        if name not in self.columns:
            known = ", ".join(["params", "tokens", "flops", "loss", *self.columns])
            raise RecordError(f"no column '{name}' in {self.source}; it has {known}.")
        try:
            return np.asarray(self.columns[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"the column {name} of {self.source or 'the table'} holds text ({error}); numbers "
                "are needed. Correct it, or leave rows out: --where."
            ) from error

    def take(self, keep: NDArray[np.bool_] | NDArray[np.int64], reason: str = "") -> RunTable:
        """The table of the chosen runs.

        Args:
            keep: Mask or indices of the runs.
            reason: With a reason, the other runs are listed as dropped.
        """
        chosen = np.arange(len(self))[keep]
        left = np.setdiff1d(np.arange(len(self)), chosen).tolist() if reason else []
        return dataclasses.replace(
            self,
            run=tuple(self.run[i] for i in chosen),
            params=self.params[chosen],
            tokens=self.tokens[chosen],
            flops=self.flops[chosen],
            loss=self.loss[chosen],
            cluster=self.cluster[chosen],
            columns={k: v[chosen] for k, v in self.columns.items()},
            recipes=tuple(self.recipes[i] for i in chosen) if self.recipes else (),
            folders=tuple(self.folders[i] for i in chosen) if self.folders else (),
            dropped=(*self.dropped, *(Dropped(run=self.run[i], reason=reason) for i in left)),
        )

    @classmethod
    def from_records(
        cls,
        records: Sequence[RunRecord],
        *,
        params: str = "matmul",
        flops: str = "exact",
        source: str = "",
        hash: str = "",
        folders: Mapping[str, str] | None = None,
    ) -> RunTable:
        """Build the table of the runs that are done; the others are listed with the reason.

        Args:
            records: Run records, in any order.
            params: Counting convention of N, see `accounting.PARAMS_CONVENTIONS`.
            flops: Counting convention of C, see `accounting.FLOPS_CONVENTIONS`.
            source: Where the records came from.
            hash: Content hash of the records.
            folders: Folder of each run by its name, where they lie on disk.

        Raises:
            RecordError: No record at all.
        """
        if not records:
            raise RecordError(
                f"no run records in {source}. Launch a sweep: python -m sweep -m ... Logs of a "
                f"trainer, and a tracker's files, are read by: isoflop import {source}"
            )
        # a run copied into another folder is one run: the name is its identity
        done = list({r.run: r for r in records if r.status == "done"}.values())
        counted = np.array([_count(r, params, flops) for r in done], float).reshape(-1, 2)
        _, cluster = np.unique([r.trunk or r.run for r in done], return_inverse=True)
        return cls(
            run=tuple(r.run for r in done),
            params=counted[:, 0],
            tokens=np.array([r.tokens for r in done], dtype=np.float64),
            flops=counted[:, 1] * np.array([r.tokens for r in done], dtype=np.float64),
            loss=np.array([r.loss for r in done], dtype=np.float64),
            cluster=cluster,
            columns=_further_columns(done, counted[:, 0] if params in ("matmul", "body") else None),
            params_convention=params,
            flops_convention=flops,
            dropped=tuple(_dropped(r) for r in records if r.status != "done"),
            source=source,
            hash=hash,
            data=_shared([r.data for r in done]),
            recipe=_shared_items([r.recipe for r in done]),
            recipes=tuple({**r.recipe, "train.schedule": r.schedule} for r in done),
            folders=tuple((folders or {}).get(r.run, "") for r in done),
        )


def score_columns(columns: Mapping[str, Any]) -> dict[str, str]:
    """Name of each score -> its column: `score_NAME`, `accuracy`, `accuracy_NAME`, `NAME_accuracy`.

    Columns with the standard error of another, or with text, are left out.
    """
    found = {}
    for column, values in columns.items():
        if column.endswith("_se") and column.removesuffix("_se") in columns:
            continue
        if not np.issubdtype(np.asarray(values).dtype, np.number):
            continue
        if column.startswith(SCORE):
            found[column.removeprefix(SCORE)] = column
        elif column == "accuracy" or column.startswith("accuracy_"):
            found[column.removeprefix("accuracy_")] = column
        elif column.endswith("_accuracy"):
            found[column.removesuffix("_accuracy")] = column
    return found


def read_only(values: Any) -> Floats:
    """A read-only float64 copy of values."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _further_columns(done: Sequence[RunRecord], active: Floats | None) -> dict[str, NDArray[Any]]:
    """Columns of finished runs by name, each (runs,), read-only; without those that no run has.

    `unique_tokens` is infinite where the data never repeat. `params_total`, N and idle experts, is
    there where some runs have experts and `active`, the N of each run, leaves idle ones out.
    Numbers of the recipe, such as `train.lr`, are there where they differ between runs.
    """
    columns: dict[str, NDArray[Any]] = {}

    def add(name: str, value: Callable[[Any], float | None], absent: float) -> None:
        values = [value(record) for record in done]
        if any(v is not None for v in values):
            column = np.array([absent if v is None else v for v in values], dtype=np.float64)
            column.setflags(write=False)
            columns[name] = column

    for name in RECORD_COLUMNS:
        add(name, lambda record, name=name: getattr(record, name), math.nan)  # type: ignore[misc]
    for name, value in TEXT_COLUMNS.items():
        columns[name] = np.array([value(record) for record in done])
    add("device_flops_per_second", lambda record: device_peak(record.device), math.nan)
    add("unique_tokens", lambda record: record.data.unique_tokens, math.inf)
    for skill in sorted({s for record in done for s in (record.loss_by_skill or {})}):
        add(
            f"loss_{skill}",
            lambda record, skill=skill: (record.loss_by_skill or {}).get(skill),  # type: ignore[misc]
            math.nan,
        )
    for name in sorted({s for record in done for s in (record.heldout or {})}):
        add(
            f"heldout.{name}",
            lambda record, name=name: (record.heldout or {}).get(name),  # type: ignore[misc]
            math.nan,
        )
    for name in sorted({s for record in done for s in (record.scores or {})}):
        for column, key in ((f"{SCORE}{name}", "accuracy"), (f"{SCORE}{name}_se", "accuracy_se")):
            add(
                column,
                lambda record, n=name, k=key: (record.scores or {}).get(n, {}).get(k),  # type: ignore[misc]
                math.nan,
            )
    for name in sorted({s for record in done for s in record.recipe if s.startswith("train.")}):
        settings = [record.recipe.get(name) for record in done]
        if len(set(map(repr, settings))) > 1 and all(_is_number(s) for s in settings):
            add(name, lambda record, name=name: record.recipe[name], math.nan)  # type: ignore[misc]
    if active is not None and "params_idle" in columns:
        columns["params_total"] = active + np.nan_to_num(columns["params_idle"])
        columns["params_total"].setflags(write=False)
    return columns


def _is_number(value: Any) -> bool:
    """Whether a setting is a number; a missing one and a switch are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(record: RunRecord, params: str, flops: str) -> tuple[int, int]:
    """N and FLOP per token of a record under the given conventions."""
    groups = ParamCounts(
        body=record.params_body,
        head=record.params_head,
        embedding=record.params_embedding,
        other=record.params_other,
        idle=record.params_idle or 0,
    )
    terms = FlopsPerToken(
        body=record.flops_body, head=record.flops_head, attention=record.flops_attention
    )
    n = params_in(params, groups)
    return n, flops_per_token_in(flops, flops=terms, params=n)


def on_heldout(records: Sequence[RunRecord], name: str, source: str) -> tuple[RunRecord, ...]:
    """Records with the loss on a further held-out set, or a part of a mixture, as their loss.

    What belongs to the main loss is left out: its error, its bits per byte, its shares of skills
    and the entropy of the data. The data are named after the set.

    Raises:
        RecordError: No record has such a set.
    """
    known = sorted({n for record in records for n in record.heldout or {}})
    if name not in known:
        raise RecordError(
            f"no run of {source} has a loss on a held-out set '{name}'; known are "
            f"{', '.join(known) or 'none'}. Choose one, or sweep with data.also_heldout."
        )
    out = []
    for record in records:
        loss = (record.heldout or {}).get(name)
        cleared: dict[str, Any] = dict.fromkeys(
            ("loss_se", "loss_plain", "loss_bpb", "loss_by_skill"), None
        )
        if record.status == "done" and not loss:
            cleared |= {"status": "failed", "reason": f"no loss on the held-out set '{name}'"}
        data = DataInfo(
            name=f"{record.data.name}, loss on {name}",
            hash=f"{record.data.hash}/{name}",
            unique_tokens=record.data.unique_tokens,
        )
        out.append(dataclasses.replace(record, loss=loss, data=data, **cleared))
    return tuple(out)


def _dropped(record: RunRecord) -> Dropped:
    """A record that is not done, as a dropped run."""
    return Dropped(run=record.run, reason=f"{record.status}: {record.reason or 'no reason given'}")


def _shared(values: Sequence[T]) -> T | None:
    """The value that all have in common, or None."""
    return values[0] if values and all(v == values[0] for v in values) else None


def _shared_items(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that all recipes have in common."""
    if not recipes:
        return {}
    return {k: v for k, v in recipes[0].items() if all(r.get(k) == v for r in recipes)}


def subsample(table: RunTable, *, most: int = MOST_RUNS, seed: int = 0) -> RunTable:
    """Draw rows of a long table evenly over compute; a shorter one is returned as it is.

    Rows of rare budgets are all kept, those of common ones drawn. The choice depends on compute
    alone, never on the loss, so that it does not bias a fit.

    Args:
        table: The runs.
        most: Largest number of rows kept.
        seed: Of the draw within bins.

    Returns:
        The rows kept, in their order; the others are not listed as dropped.
    """
    if len(table) <= most:
        return table
    bins = _bins(table.flops)
    counts = np.bincount(bins)
    share = _shares(counts, most)[bins]
    # a row is kept if its rank in a random order of its bin is below the bin's share
    shuffled = np.random.default_rng(seed).permutation(len(table))
    order = shuffled[np.argsort(bins[shuffled], kind="stable")]
    rank = np.empty(len(table), np.int64)
    rank[order] = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    return table.take(rank < share)


def _bins(flops: Floats) -> NDArray[np.int64]:
    """Code of each row's bin in ln C, (rows,), ascending from 0 without gaps."""
    codes = np.floor(np.log(flops / flops.min()) / BIN_WIDTH)
    return np.asarray(np.unique(codes, return_inverse=True)[1].astype(np.int64))


def _shares(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows kept of each bin, (bins,): all of the small bins, equal numbers of the others."""
    shares = np.zeros_like(counts)
    left, bins = most, len(counts)
    for i in np.argsort(counts, kind="stable"):
        shares[i] = min(counts[i], left // bins)
        left, bins = left - shares[i], bins - 1
    return shares


def filter_rows(table: RunTable, where: str | Sequence[str]) -> RunTable:
    """The runs that meet all conditions; the others are listed as dropped."""
    for condition in as_conditions(where):
        core = {c: table.column(c) for c in ("params", "tokens", "flops", "loss")}
        columns = {"run": np.array(table.run, dtype=object), **core, **table.columns}
        keep = rows_that_meet(condition, columns, len(table))
        table = table.take(keep, reason=f"not {condition}")
    return table


def recluster(table: RunTable, column: str) -> RunTable:
    """The table clustered by a column's values."""
    values = table.columns[column] if column in table.columns else table.column(column)
    _, codes = np.unique(values, return_inverse=True)
    return dataclasses.replace(table, cluster=codes)


def without_copies(table: RunTable) -> RunTable:
    """The table without rows that equal an earlier one: a copy is no evidence."""
    import pandas as pd

    cells = pd.DataFrame({c: table.column(c) for c in ("params", "tokens", "flops", "loss")})
    keep = ~cells.duplicated().to_numpy(dtype=bool) | np.isnan(table.loss)
    return table if keep.all() else table.take(keep, reason="copy of an earlier row")
