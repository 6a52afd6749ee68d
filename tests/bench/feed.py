"""Tokens a second that one core reads from each data source: `python -m tests.bench.feed`.

Blocks of 2048 rows, as the training loop reads them; the best of several, in CPU time, since other
work on the machine only slows a block down.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from sweep.data.registry import open_source
from sweep.data.stories import SIZES
from sweep.training.step import FEED_ROWS
from tests.sweep.data.builders import data_config

LENGTHS = (128, 1024)
BLOCKS = 5
TOKENS = 40_000_000


def feed_rate(source):
    """Tokens a second of CPU time in the best block."""
    best = 0.0
    for block in range(BLOCKS):
        started = time.process_time()
        source.train(block * FEED_ROWS, FEED_ROWS)
        best = max(best, FEED_ROWS * source.seq_len / (time.process_time() - started))
    return best


def main():
    """Print a line per source and row length."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = np.random.default_rng(0).integers(0, 50_000, TOKENS).astype("<u2")
        ids.tofile(folder / "train.bin")
        (folder / "text.txt").write_bytes((ids[: TOKENS // 2] % 64 + 32).astype("u1").tobytes())
        configs = {f"stories {size}": data_config("stories", size=size) for size in SIZES}
        configs["tokens"] = data_config("tokens", folder, path=str(folder / "train.bin"))
        configs["text"] = data_config("text", folder, path=str(folder / "text.txt"))
        for label, config in configs.items():
            for length in LENGTHS:
                rate = feed_rate(open_source(config, seq_len=length, seed=0))
                print(f"{label:16} rows of {length:5}: {rate / 1e6:6.1f} M tokens/s", flush=True)


if __name__ == "__main__":
    main()
