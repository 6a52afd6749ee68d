"""What a tiny run costs beside its training: sweeps of many runs of four steps, in one process.

    python -m tests.bench.many [RUNS]

The price of one run is the difference between a sweep of RUNS (200) and one of 20, so that imports
count once; processor seconds, since other work slows the wall clock. Four steps and 2,048 held-out
tokens are in it: they take about 10 ms.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

RUNS, FEW = int(sys.argv[1]) if len(sys.argv) > 1 else 200, 20
TINY = [
    "model.width=8",
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=2048",
    "train.batch_tokens=128",
    "train.tokens=512",
    "train.compile=off",
]


def spent(module: str, runs: int, *overrides: str) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and megabytes at the peak of a command over so many seeds."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*TINY, f"seed=range(0,{runs})", f"runs_dir={folder}", "name=many", *overrides]
        command = [sys.executable, "-m", module, *arguments]
        if module == "sweep":
            command.insert(3, "-m")
        started = time.perf_counter()
        with open(os.devnull, "w") as null:
            process = subprocess.Popen(command, stdout=null, stderr=null)
            _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, command
        return usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss / 1e3


def main() -> None:
    """Print a line per way of logging, and one for the plan alone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, module, overrides in (
        ("plan", "sweep.plan", ("measure=off",)),
        ("tracking=none", "sweep", ("tracking=none",)),
        ("tracking=csv", "sweep", ("tracking=csv",)),
        ("tracking=wandb", "sweep", ("tracking=wandb",)),
    ):
        few, many = (spent(module, n, *overrides) for n in (FEW, RUNS))
        each = [(b - a) / (RUNS - FEW) for a, b in zip(few, many, strict=True)]
        print(
            f"{name:15} {each[0]:.3f} s of processor and {each[1]:.3f} s of wall a run, "
            f"{few[0]:.1f} s for the first {FEW}; {many[2]:.0f} MB at the end "
            f"({each[2]:+.2f} MB a run)",
            flush=True,
        )


if __name__ == "__main__":
    main()
