"""What a table of runs holds beside N, D, C and the loss: further facts of the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN = (
    "width depth heads head_dim vocab seq_len lr batch_tokens seed loss_se params_body params_head "
    "params_embedding params_other params_idle experts top_k flops_body flops_head "
    "flops_attention mfu"
).split()
"""Fields of a record that are columns under their own names."""

WORDS: dict[str, Callable[[Any], str]] = {
    "data": lambda record: record.data.name,
    "data_hash": lambda record: record.data.hash,
    "sweep": lambda record: record.sweep,
}
"""Columns of text, by which rows are chosen."""


def extra_columns(
    done: Sequence[Any], active: NDArray[np.float64] | None
) -> dict[str, NDArray[Any]]:
    """Facts of finished runs; a column that no run has is left out.

    Args:
        done: Run records.
        active: N of each, if it leaves idle experts out.

    Returns:
        Columns by name, each (runs,), read-only. `unique_tokens` is infinite where data are
        endless. `params_total`, N and what is idle, is there where some runs have experts.
    """
    columns: dict[str, NDArray[Any]] = {}

    def add(name: str, value: Callable[[Any], float | None], absent: float) -> None:
        values = [value(record) for record in done]
        if any(v is not None for v in values):
            column = np.array([absent if v is None else v for v in values], dtype=np.float64)
            column.setflags(write=False)
            columns[name] = column

    for name in PLAIN:
        add(name, lambda record, name=name: getattr(record, name), math.nan)  # type: ignore[misc]
    for name, value in WORDS.items():
        columns[name] = np.array([value(record) for record in done])
    add("unique_tokens", lambda record: record.data.unique_tokens, math.inf)
    for skill in sorted({s for record in done for s in (record.loss_by_skill or {})}):
        add(
            f"loss_{skill}",
            lambda record, skill=skill: (record.loss_by_skill or {}).get(skill),  # type: ignore[misc]
            math.nan,
        )
    if active is not None and "params_idle" in columns:
        columns["params_total"] = active + np.nan_to_num(columns["params_idle"])
        columns["params_total"].setflags(write=False)
    return columns
