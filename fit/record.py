"""What one training run leaves behind, and the table of runs that a law is fitted to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fit.accounting import FlopsPerToken, Params, flops_per_token_in, params_in
from fit.columns import extra_columns
from fit.errors import RecordError

RECORD_SCHEMA = "isoflop.record/1"
STATUSES = ("done", "failed", "diverged")

Floats = NDArray[np.float64]
T = TypeVar("T")

NOT_RESULTS = frozenset(
    "sweep started finished wall_seconds tokens_per_second mfu device versions commit attempts "
    "history traceback flops_spent".split()
)
"""Fields that may differ between two runs of one identity; all others must not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The data set of a run."""

    name: str
    hash: str
    """Content hash of the tokens, or of what generates them."""
    unique_tokens: int | None = None
    """Training tokens before the first repeat; None where the source is endless."""
    bytes_per_token: float | None = None
    entropy: float | None = None
    """Loss of a perfect predictor [nats/token], where the data know it."""
    entropy_by_skill: Mapping[str, float] | None = None
    """Each skill's share of `entropy` [nats/token]; the shares sum to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One honest record per run: what was planned, what was done, what came out.

    A failed run has `status`, `reason` and `traceback` and no loss; a diverged run keeps its loss.
    Losses are in nats per token, counts in parameters, tokens and FLOP.
    """

    run: str
    sweep: str
    status: str
    seed: int
    data: DataInfo
    width: int
    depth: int
    heads: int
    head_dim: int
    vocab: int
    seq_len: int
    params_body: int
    params_head: int
    params_embedding: int
    params_other: int
    params_total: int
    tokens: int
    """Tokens planned."""
    flops_body: int
    """FLOP per token in the blocks' matrices, forward and backward."""
    flops_head: int
    flops_attention: int
    flops: float
    """FLOP of the whole run, exact convention."""
    schedule: str
    lr: float
    """Peak learning rate of the hidden matrices."""
    batch_tokens: int
    """Tokens per optimiser step at the end of the run."""
    tokens_seen: int | None = None
    experts: int | None = None
    """MLPs per block, `top_k` of them per token; the others' are `params_idle`. None is one MLP."""
    top_k: int | None = None
    params_idle: int | None = None
    flops_spent: float | None = None
    """What this point really cost: its cooldown and its own stretch of a shared trunk."""
    trunk: str | None = None
    """Identity of the trajectory that runs share: their losses are correlated."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is needed to launch the run again, as overrides of the config."""
    loss: float | None = None
    """Held-out, final [nats/token]; entropy + paired excess where the data know their entropy."""
    loss_se: float | None = None
    """Standard error of `loss` from the finite held-out sample."""
    loss_plain: float | None = None
    """Plain mean of the held-out negative log-likelihood."""
    loss_bpb: float | None = None
    """Bits per byte."""
    loss_by_skill: Mapping[str, float] | None = None
    """Each skill's share of `loss`; the shares sum to it."""
    reason: str | None = None
    traceback: str | None = None
    attempts: int = 1
    """Starts of a worker on this run's trajectory, this one included."""
    history: Sequence[Mapping[str, Any]] = ()
    """The earlier of them: started, host, pid, outcome, reason, tokens."""
    device: str | None = None
    precision: str | None = None
    wall_seconds: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str | None = None
    finished: str | None = None
    schema: str = RECORD_SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            known = ", ".join(STATUSES)
            raise RecordError(f"status is '{self.status}'; a record needs one of {known}.")
        if self.status == "done" and not (self.loss and 0 < self.loss < math.inf):
            raise RecordError(f"run {self.run} is done without a positive loss ({self.loss}).")
        if self.status == "done" and self.tokens_seen != self.tokens:
            raise RecordError(
                f"run {self.run} is done but saw {self.tokens_seen} of {self.tokens} tokens."
            )

    @property
    def params_matmul(self) -> int:
        """Body and head parameters, the default N."""
        return self.params_body + self.params_head

    def result(self) -> dict[str, Any]:
        """The part of the record that two runs of one identity must share to the last bit."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_RESULTS}

    def to_json(self) -> str:
        """Serialise with stable key order; numbers that are not finite become null."""
        document = dataclasses.asdict(self)
        ordered = {"schema": document.pop("schema"), **document}
        return json.dumps(finite_or_null(ordered), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Parse a record.

        Raises:
            RecordError: Not JSON, not a record, or of a newer major version.
        """
        document = parse_document(text, RECORD_SCHEMA)
        try:
            data = DataInfo(**document.pop("data"))
            document["history"] = tuple(document.get("history", ()))
            return cls(data=data, **_known_fields(cls, document))
        except (TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"not a complete run record: {error}") from error


def parse_document(text: str, schema: str) -> dict[str, Any]:
    """Parse a JSON document and check its schema's name and major version.

    Args:
        text: The JSON text.
        schema: What is expected, `name/major`.

    Raises:
        RecordError: Not JSON (truncated, say), another document, or a newer major version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RecordError(f"not a JSON document: {error}") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, str):
        raise RecordError(f"a JSON document without a schema; '{schema}' is needed.")
    name, major = schema.split("/")
    found_name, _, found_version = found.partition("/")
    if found_name == name and found_version.partition(".")[0] == major:
        return dict(document)
    if found_name == name:
        raise RecordError(
            f"schema '{found}' is not the version read here ('{name}/{major}'). "
            "Read it with the isoflop that wrote it, or upgrade."
        )
    raise RecordError(f"schema '{found}' where '{schema}' is needed.")


def finite_or_null(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_or_null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(v) for v in value]
    return value


def _known_fields(cls: type, document: dict[str, Any]) -> dict[str, Any]:
    """Drop fields that a newer minor version may have added."""
    names = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in document.items() if k in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A run that is not in the table, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Runs as columns, read-only: what every estimator takes.

    All of shape (runs,). Optional facts are None where no run has them.
    """

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
    """Code of the trunk, shape or seed that a run shares with others; errors correlate inside."""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Every further column by name: width, depth, heads, lr, loss_se, unique_tokens, ..."""
    params_convention: str = "as given"
    flops_convention: str = "as given"
    dropped: tuple[Dropped, ...] = ()
    source: str = ""
    """Where the runs were read from."""
    hash: str = ""
    """Content hash of what was read."""
    data: DataInfo | None = None
    """The data set, where all runs share one."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings that all runs share, as overrides of the config."""

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
        """A numeric column by name.

        Raises:
            RecordError: The table has no such column.
        """
        if name in ("params", "tokens", "flops", "loss"):
            return np.asarray(getattr(self, name))
        if name not in self.columns:
            known = ", ".join(["params", "tokens", "flops", "loss", *self.columns])
            raise RecordError(f"no column '{name}' in {self.source}; it has {known}.")
        return np.asarray(self.columns[name], dtype=np.float64)

    def take(self, keep: NDArray[np.bool_] | NDArray[np.int64], reason: str = "") -> RunTable:
        """The table of the chosen runs; with a reason, the others are listed as dropped."""
        chosen = np.arange(len(self))[keep]
        left = np.setdiff1d(np.arange(len(self)), chosen if reason else np.arange(len(self)))
        return dataclasses.replace(
            self,
            run=tuple(self.run[i] for i in chosen),
            params=self.params[chosen],
            tokens=self.tokens[chosen],
            flops=self.flops[chosen],
            loss=self.loss[chosen],
            cluster=self.cluster[chosen],
            columns={k: v[chosen] for k, v in self.columns.items()},
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
    ) -> RunTable:
        """Build the table of the runs that are done; the rest is listed with its reason.

        Args:
            records: Run records, in any order.
            params: Counting convention of N, see `accounting.PARAMS_CONVENTIONS`.
            flops: Counting convention of C, see `accounting.FLOPS_CONVENTIONS`.
            source: Where the records came from.
            hash: Content hash of the records.

        Raises:
            RecordError: No record at all.
        """
        if not records:
            raise RecordError(f"no run records in {source}. Launch a sweep: python -m sweep -m ...")
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
            columns=extra_columns(done, counted[:, 0] if params in ("matmul", "body") else None),
            params_convention=params,
            flops_convention=flops,
            dropped=tuple(_dropped(r) for r in records if r.status != "done"),
            source=source,
            hash=hash,
            data=_shared([r.data for r in done]),
            recipe=_shared_items([r.recipe for r in done]),
        )


def read_only(values: Any) -> Floats:
    """A float64 copy that cannot be written to."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _count(record: RunRecord, params: str, flops: str) -> tuple[int, int]:
    """N and FLOP per token of a record under the given conventions."""
    groups = Params(
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


def _dropped(record: RunRecord) -> Dropped:
    """Why a record is left out of fits."""
    return Dropped(run=record.run, reason=f"{record.status}: {record.reason or 'no reason given'}")


def _shared(values: Sequence[T]) -> T | None:
    """The value that all have in common."""
    return values[0] if values and all(v == values[0] for v in values) else None


def _shared_items(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that all recipes have in common."""
    if not recipes:
        return {}
    return {k: v for k, v in recipes[0].items() if all(r.get(k) == v for r in recipes)}
