"""Reading 10,000 records."""

import tempfile
import time
from pathlib import Path

from fit.data.readers import load
from fit.data.records import write_record
from tests.fit.data.builders import record

with tempfile.TemporaryDirectory() as folder:
    for i in range(10_000):
        write_record(Path(folder) / f"r{i}", record(16 + 8 * (i % 20), 300_000 + i))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        table = load(Path(folder))
        times.append(time.perf_counter() - started)
    print(f"{len(table)} records: {sorted(times)[1]:.2f} s (median of 3)")
