"""Cold start of a query: the whole process, median of ten, in turns with a bare interpreter."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import numpy, click": ["-c", "import numpy, click, json"],
    "query --law": ["-m", "fit", "query", "1e21", "--law", "besiroglu2024"],
    "query --fit": ["-m", "fit", "query", "1e15", "--fit", "reports/reference"],
}

times: dict[str, list[float]] = {name: [] for name in COMMANDS}
for _ in range(10):
    for name, arguments in COMMANDS.items():
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times[name].append(time.perf_counter() - started)
for name, values in times.items():
    print(f"{name:24} {statistics.median(values):.3f} s")
