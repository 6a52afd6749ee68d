"""Weights of a trained run, kept beside its record by `train.keep=weights`.

    weights.safetensors   every weight once, under its name in the model
    weights.json          a card: the run, its shape, and the data whose tokens it reads

The card is enough to build the model and to open its tokenizer. Both files are written atomically
and before the record, so that a run with a record has them whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fit.data.accounting import Shape
from fit.data.records import (
    RECORD_NAME,
    WEIGHTS_NAME,
    RunRecord,
    fields_of,
    parse_document,
    read_beside,
    read_record,
    read_runs,
)
from fit.errors import PlanError, RecordError
from fit.files import write_atomically
from fit.quantities import count_noun
from sweep.config import DataConfig
from sweep.model import Transformer
from sweep.planning.trajectory import Trajectory

CARD_NAME = "weights.json"
CARD_SCHEMA = "isoflop.weights/1"
HOW_TO_KEEP = "Train it with train.keep=weights, into another folder or after removing this one."
LISTED = 5
"""Most names of runs in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """A run whose weights were kept."""

    folder: Path
    record: RunRecord
    shape: Shape
    residual: float
    """Factor of every residual branch."""
    separator: int | None
    """Token across which the model does not look."""
    data: DataConfig


def distinct_weights(module: nn.Module) -> dict[str, Tensor]:
    """Every weight of a module once: a tied head is the embedding under a second name."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in module.state_dict(keep_vars=True).items():
        if id(weight) not in seen:
            seen.add(id(weight))
            out[name] = weight.detach()
    return out


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], record: RunRecord, t: Trajectory
) -> None:
    """Write the weights of a run and their card into the run's folder.

    Args:
        folder: Of the run.
        weights: By name, whole.
        record: Of the run, which is written afterwards.
        t: Its trajectory.

    Raises:
        RecordError: The folder cannot be written to.
    """
    from safetensors.torch import save_file

    path, temporary = folder / WEIGHTS_NAME, folder / f".{WEIGHTS_NAME}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.cpu().contiguous() for k, v in weights.items()}, temporary, {"format": "pt"}
        )
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except Exception as error:  # the library raises its own type where a disk is full
        temporary.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error}; a writable folder with free space is needed. Free some "
            "space, set another runs_dir, or leave out train.keep=weights."
        ) from error
    card = {
        "schema": CARD_SCHEMA,
        "run": record.run,
        "sweep": record.sweep,
        "params_total": record.params_total,
        "tokens": record.tokens,
        "loss": record.loss,
        "dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
        "shape": dataclasses.asdict(t.shape),
        "residual": t.scaled.residual,
        "separator": t.separator,
        "model": t.config.model._target_ or "sweep.model:Transformer",
        "data": vars(t.config.data),
    }
    write_atomically(folder / CARD_NAME, json.dumps(card, indent=1) + "\n")


def find_run(name: str) -> Path:
    """The folder of a kept run.

    Args:
        name: A run's folder or record; a folder of runs of which one was kept; or a run's name, or
            its beginning, in a folder of runs or below `runs/`.

    Raises:
        RecordError: There is no such run, or there are several.
    """
    path = Path(name).expanduser()
    if path.name == RECORD_NAME:
        path = path.parent
    if (path / RECORD_NAME).is_file():
        return path
    if path.is_dir():
        runs = [Path(folder) for folder in read_runs(path).folders.values()]
        found = [run for run in runs if (run / WEIGHTS_NAME).is_file()]
        where = f"of the {count_noun(len(runs), 'run')} in {path}"
        if not found:
            raise RecordError(f"none {where} kept its weights. {HOW_TO_KEEP}")
    else:
        inside = path.parent if len(path.parts) > 1 else Path("runs")
        parents = [inside] if len(path.parts) > 1 else sorted(inside.glob("*"))
        found = [f.parent for p in parents for f in p.glob(f"{path.name}*/{RECORD_NAME}")]
        where = f"runs are called '{path.name}' in {inside}"
        if not found:
            raise RecordError(
                f"no {where}; the folder of a run with a record is needed. isoflop runs FOLDER "
                "lists the runs of a sweep."
            )
    if len(found) > 1:
        listed = ", ".join(f.name for f in found[:LISTED]) + ", ..." * (len(found) > LISTED)
        raise RecordError(f"{len(found)} {where}: {listed}. Name one of them.")
    return found[0]


def read_kept_run(folder: Path) -> KeptRun:
    """Read the record and the card of a run.

    Raises:
        RecordError: There is no record, or the run kept no weights.
        PlanError: Its model is the user's own.
    """
    record = read_record(folder / RECORD_NAME)
    if not (folder / WEIGHTS_NAME).is_file():
        raise RecordError(f"the run {record.run} kept no weights. {HOW_TO_KEEP}")
    try:
        card = parse_document(read_beside(folder, CARD_NAME), CARD_SCHEMA)
        shape = Shape(**fields_of(Shape, card["shape"]))
        residual, separator = float(card["residual"]), card["separator"]
        data = DataConfig(**fields_of(DataConfig, card["data"]))
    except (RecordError, OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{folder / CARD_NAME}, the card of the weights, cannot be read ({error}). "
            f"{HOW_TO_KEEP}"
        ) from error
    if "model._target_" in record.plug_ins:
        raise PlanError(
            f"the run {record.run} has a model of your own, {card['model']}, and text is written "
            f"by the built-in transformer alone. Load {WEIGHTS_NAME} into it yourself."
        )
    return KeptRun(
        folder=folder,
        record=record,
        shape=shape,
        residual=residual,
        separator=separator,
        data=data,
    )


def load_model(run: KeptRun) -> Transformer:
    """The trained model of a run, on the host, in the precision of its weights.

    Raises:
        RecordError: The weights are damaged or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = run.folder / WEIGHTS_NAME
    model = Transformer(run.shape, residual=run.residual, separator=run.separator)
    try:
        weights = load_file(path)
        if run.shape.tied:
            weights["head"] = weights["embedding"]
        model.to(weights["embedding"].dtype).load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RecordError(f"{path} cannot be loaded ({reason}). {HOW_TO_KEEP}") from error
    return model.eval()


def load_run(name: str) -> tuple[KeptRun, Transformer]:
    """Find a kept run by its path or name and load its model; raises as the steps do."""
    run = read_kept_run(find_run(name))
    return run, load_model(run)
