"""Data configurations for tests, and what every source must keep."""

import numpy as np

from sweep.config import DataConfig

PATTERN = ",".join(
    f"**/*.{suffix}"
    for suffix in "txt md rst tokens gz bz2 xz zst jsonl ndjson json csv tsv parquet".split()
)


def data_config(name, tmp_path=None, **given):
    defaults = {
        "path": None,
        "unique_tokens": None,
        "max_epochs": None,
        "heldout_tokens": 512,
        "seed": 0,
        "size": "demo",
        "tokenizer": "bytes",
        "vocab": None if name == "tokens" else 300,
        "dtype": None,
        "byte_order": None,
        "header_bytes": None,
        "pattern": PATTERN,
        "encoding": None,
        "splits": "names",
        "bytes_per_token": None,
        "separator": None,
        "split": "train",
        "column": "text",
        "subset": None,
        "streaming": False,
        "parts": [],
        "also_heldout": [],
        "tasks": None,
        "cache": None if tmp_path is None else str(tmp_path / "cache"),
    }
    return DataConfig(**{**defaults, "name": name, **given})


def rows_as_set(rows):
    return {row.tobytes() for row in np.ascontiguousarray(rows)}
