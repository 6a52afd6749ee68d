"""`make bench`: every benchmark, one after the other."""

import subprocess
import sys

for name in ("training", "many", "records", "tables", "query", "fit", "design", "service"):
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
