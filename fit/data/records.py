"""Run records, as JSON documents on disk.

A `RunRecord` is what one training run leaves behind: `record.json` in its folder, read and written
here (`read_runs`, `read_record`, `write_record`).

Documents are written beside their place and renamed, so that a reader sees the old or the new one,
never half of one. Folders whose name begins with a dot are working space and hold no records.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fit.errors import RecordError
from fit.files import _read_text, content_hash, write_atomically

RECORD_NAME = "record.json"
CURVE_NAME = "curve.csv"
STORIES_NAME = "stories.txt"
"""Beside a record with `train.scores=stories`: texts that the model wrote, one a line."""
WEIGHTS_NAME = "weights.safetensors"
FILES_NAME = "files.zip"
"""Archive of what a run leaves beside its record and weights, where few files are asked for."""
RECORD_SCHEMA = "isoflop.record/1"
STATUSES = ("done", "failed", "diverged")
NOT_RESULTS = frozenset(
    "sweep started finished wall_seconds tokens_per_second mfu device versions commit attempts "
    "history traceback flops_spent".split()
)
"""Fields that may differ between two runs of one identity; all others must not."""
ROUNDING = 1e-4
"""Relative error of positions in a stored curve, which have six digits."""

T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The data set of a run."""

    name: str
    hash: str
    """Content hash of the tokens, or of the parameters that generate them."""
    unique_tokens: int | None = None
    """Training tokens before the first repeat; None where the data never repeat."""
    bytes_per_token: float | None = None
    entropy: float | None = None
    """Loss of a perfect predictor [nats/token]; None where it is not known."""
    entropy_by_skill: Mapping[str, float] | None = None
    """Each skill's share of `entropy` [nats/token]; the shares sum to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The record of one training run: what was planned, what was done and the result.

    A failed run has `status`, `reason` and `traceback` and no loss; a diverged run keeps its loss.
    Losses are in nats per token, counts in parameters, tokens and FLOP.
    """

    run: str
    sweep: str
    status: str
    """One of `STATUSES`."""
    seed: int
    data: DataInfo
    width: int | None = None
    """Sizes of the shape; None where a run of another trainer does not say."""
    depth: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    vocab: int | None = None
    seq_len: int | None = None
    params_body: int
    params_head: int
    params_embedding: int
    params_other: int
    params_total: int
    tokens: int
    """Tokens planned."""
    flops_body: int
    """Training FLOP per token in the blocks' matrices, as `flops_head` and `flops_attention`."""
    flops_head: int
    flops_attention: int
    flops: float
    """FLOP of the whole run, exact convention."""
    schedule: str | None = None
    lr: float | None = None
    """Peak learning rate of the hidden matrices."""
    batch_tokens: int | None = None
    """Tokens per optimiser step at the end of the run."""
    tokens_seen: int | None = None
    """Tokens trained on; equal to `tokens` if the run is done."""
    experts: int | None = None
    """MLPs per block, `top_k` used per token, the others counted in `params_idle`; None is one."""
    top_k: int | None = None
    kv_heads: int | None = None
    """Heads of keys and values, shared by groups of queries; None is one per head."""
    params_idle: int | None = None
    flops_spent: float | None = None
    """FLOP that this run added: its cooldown and its own stretch of a shared trunk."""
    trunk: str | None = None
    """Identity of the trajectory that runs share: their losses are correlated."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Further settings that are needed to launch the run again, as overrides of the config."""
    plug_ins: Mapping[str, str] = field(default_factory=dict)
    """Parts of the user's own, by setting: their name and the hash of their source."""
    loss: float | None = None
    """Final held-out loss [nats/token]; entropy + paired excess where the entropy is known."""
    loss_se: float | None = None
    """Standard error of `loss` from the finite held-out sample."""
    loss_plain: float | None = None
    """Plain mean of the held-out negative log-likelihood."""
    loss_bpb: float | None = None
    """Loss in bits per byte."""
    loss_by_skill: Mapping[str, float] | None = None
    """Each skill's share of `loss`; the shares sum to it."""
    heldout: Mapping[str, float] | None = None
    """Loss on each further held-out set, and on each part of a mixture [nats/token]."""
    parts: Mapping[str, Mapping[str, float]] | None = None
    """Of a mixture, by name of the part: weight, unique_tokens and epochs."""
    scores: Mapping[str, Mapping[str, float | None]] | None = None
    """Grades by name, of a skill or of tasks: `accuracy` in 0 to 1, its standard error
    `accuracy_se` where it is known, and `items`, the number graded; tasks also have the probability
    of the answer."""
    reason: str | None = None
    traceback: str | None = None
    attempts: int = 1
    """Number of starts of a worker on this run's trajectory, the last included."""
    history: Sequence[Mapping[str, Any]] = ()
    """The earlier starts: started, host, pid, outcome, reason, tokens."""
    device: str | None = None
    precision: str | None = None
    wall_seconds: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Model FLOP utilisation, the share of the device's peak."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str | None = None
    finished: str | None = None
    schema: str = RECORD_SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise RecordError(f"status is '{self.status}'; known are {', '.join(STATUSES)}.")
        if self.status == "done" and not (self.loss and 0 < self.loss < math.inf):
            message = f"run {self.run} is done with loss {self.loss}; a positive finite one"
            raise RecordError(f"{message} is needed.")
        if self.status == "done" and self.tokens_seen != self.tokens:
            raise RecordError(
                f"run {self.run} is done with {self.tokens_seen} tokens seen of {self.tokens}; all "
                "are needed."
            )
        for name, score in (self.scores or {}).items():
            _check_score(self.run, name, score)

    @property
    def params_matmul(self) -> int:
        """Body and head parameters, the default N."""
        return self.params_body + self.params_head

    def result(self) -> dict[str, Any]:
        """The fields that two runs of one identity must share to the last bit."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_RESULTS}

    def to_json(self) -> str:
        """The record as JSON with stable key order; numbers that are not finite become null."""
        document = dataclasses.asdict(self)
        ordered = {"schema": document.pop("schema"), **document}
        return json.dumps(finite_or_null(ordered), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Parse a record; fields of a newer minor version are ignored.

        Raises:
            RecordError: Not JSON, not a record, or of a newer major version.
        """
        document = parse_document(text, RECORD_SCHEMA)
        try:
            data = DataInfo(**document.pop("data"))
            document["history"] = tuple(document.get("history", ()))
            return cls(data=data, **fields_of(cls, document))
        except (TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"not a complete run record: {error}") from error


def _check_score(run: str, name: str, score: Any) -> None:
    """Require a grade in 0 to 1, an error that is not negative and a positive number of items."""
    needed = "an accuracy from 0 to 1 is"
    try:
        accuracy, error, items = (score.get(k) for k in ("accuracy", "accuracy_se", "items"))
        good = 0 <= accuracy <= 1
        if good:
            needed = "an accuracy_se of 0 or more, or null, and a positive number of items are"
            good = (error is None or error >= 0) and items > 0
    except (AttributeError, TypeError):
        good = False
    if not good:
        raise RecordError(
            f"run {run} has the score '{name}' {score}; {needed} needed. Correct the record, or "
            "leave its scores out."
        )


def parse_document(text: str, schema: str) -> dict[str, Any]:
    """Parse a JSON document and check its schema's name and major version.

    Args:
        text: The JSON text.
        schema: The schema that is expected, `name/major`.

    Raises:
        RecordError: Not JSON (truncated, say), another document, or a newer major version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not a JSON document: {error}") from error
    stated = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(stated, str):
        raise RecordError(f"a JSON document without a schema; '{schema}' is needed.")
    name, major = schema.split("/")
    stated_name, _, version = stated.partition("/")
    if stated_name != name:
        raise RecordError(f"schema '{stated}' where '{schema}' is needed.")
    if version.partition(".")[0] != major:
        raise RecordError(
            f"schema '{stated}' is not the version read here ('{schema}'). "
            "Read it with the isoflop that wrote it, or upgrade."
        )
    return dict(document)


def finite_or_null(value: Any) -> Any:
    """Plain values at any depth: dataclasses as objects, None for infinite numbers and NaN."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return {name: finite_or_null(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(k): finite_or_null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(v) for v in value]
    return value


def fields_of(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The items of a document that are fields of a class; a newer version may have more."""
    names = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return {k: v for k, v in document.items() if k in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A run that was left out of a table, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The records of a folder of runs."""

    records: tuple[RunRecord, ...]
    skipped: tuple[Dropped, ...]
    """Records that could not be read, each with its path and the reason."""
    hash: str
    """Content hash of all records' texts, in order of their paths."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Folder of each run by its name, in which its curve may be."""


def write_record(folder: Path, record: RunRecord) -> Path:
    """Write `record.json` into the run's folder, atomically.

    Returns:
        The path of the record.

    Raises:
        RecordError: The folder cannot be written to.
    """
    path = folder / RECORD_NAME
    write_atomically(path, record.to_json())
    return path


def read_record(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        RecordError: Missing, truncated, another document, or of a newer major version.
    """
    return RunRecord.from_json(_read_text(path))


def read_runs(folder: Path) -> RunFolder:
    """Read every `record.json` below a folder; those that cannot be read are listed.

    Raises:
        RecordError: No such folder.
    """
    if not folder.is_dir():
        raise RecordError(f"no folder {folder}; a folder of runs or a table is needed. Check RUNS.")
    records, skipped, texts = [], [], []
    folders: dict[str, str] = {}
    for path in sorted(_record_paths(folder), key=lambda name: name.split(os.sep)):
        try:
            text = _read_text(path)
            records.append(RunRecord.from_json(text))
        except RecordError as error:
            name = str(Path(path).relative_to(folder))
            skipped.append(Dropped(run=name, reason=str(error)))
            continue
        texts.append(text)
        folders[records[-1].run] = str(Path(path).parent)
    return RunFolder(
        records=tuple(records),
        skipped=tuple(skipped),
        hash=content_hash("".join(texts).encode()),
        folders=folders,
    )


def read_beside(folder: Path, name: str) -> str:
    """Read a text file beside a record, from the archive `files.zip` where it is packed there.

    Raises:
        OSError: There is none, or it cannot be read.
    """
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        if not (folder / FILES_NAME).exists():
            raise
        import zipfile
        import zlib

        try:
            with zipfile.ZipFile(folder / FILES_NAME) as archive:
                return archive.read(name).decode()
        except (KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"{FILES_NAME} does not hold it ({error})") from error


def read_curve(folder: str) -> Floats | None:
    """The training curve beside a record; None where there is none that can be read.

    Returns:
        (rows, 4): tokens seen at the end of each row, mean training loss since the row before
        [nats/token], learning rate, gradient norm.
    """
    try:
        lines = read_beside(Path(folder), CURVE_NAME).splitlines()[1:]
        rows = np.array([line.split(",") for line in lines], dtype=np.float64)
    except (OSError, ValueError):  # a curve is no result: without it there are fewer checks
        return None
    good = rows.ndim == 2 and rows.shape[1] == 4 and bool(np.isfinite(rows[:, :3]).all())
    return rows if good and (np.diff(rows[:, 0], prepend=0.0) > 0).all() else None


def _record_paths(folder: Path) -> list[str]:
    """Paths of all records below a folder, dot folders left out."""
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if RECORD_NAME in files:
            paths.append(os.path.join(root, RECORD_NAME))
    return paths


def window_means(curve: Floats, edges: Floats) -> Floats:
    """Mean training loss between positions, (windows,); NaN beyond the curve.

    Args:
        curve: (rows, 4), see `read_curve`; a row is the mean since the row before.
        edges: Positions, ascending, (windows + 1,) [tokens].
    """
    ends = np.r_[0.0, curve[:, 0]]
    edges = np.where(edges <= (1 + ROUNDING) * ends[-1], np.minimum(edges, ends[-1]), edges)
    total = np.r_[0.0, np.cumsum(curve[:, 1] * np.diff(ends))]
    inside = np.interp(edges, ends, total, left=np.nan, right=np.nan)
    return np.asarray(np.diff(inside) / np.diff(edges))
