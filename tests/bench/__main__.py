"""`make bench`: every benchmark, one after the other."""

import subprocess
import sys

NAMES = "training many records tables query fit design service".split()

for name in NAMES:
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
