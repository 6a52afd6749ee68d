"""Training several tiny runs at once on one CPU core: ensembles against runs one after the other.

`python -m tests.bench.packing` prints a table. Members and singles take turns in one process and
are timed by its processor time, so that what else runs does not count; two processes are timed by
the clock, against one, in turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from sweep.config import Compile
from sweep.training.ensemble import Pack
from sweep.training.session import Session
from tests.bench.ours import open_session, rate

SHAPES = [(16, 2, 16), (32, 2, 16), (64, 2, 16)]
SIZES = (2, 4, 8)
STEPS = 16
BATCH = 512


class Endless:
    """A member that never comes to its end."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def path_position(self) -> tuple[int, int]:
        return 0, self.session.position

    @property
    def active_session(self) -> Session:
        return self.session

    def train_steps(self):
        yield from self.session.train_steps(rate(self.session.trajectory), 2**40, lambda: None)


class Group:
    """So many runs, single or packed, a few steps at a time."""

    def __init__(self, shape, members: int, compiled: Compile = Compile.off) -> None:
        self.members = members
        sessions = [open_session(*shape, compiled, 1e12) for _ in range(members)]
        self.pack = Pack([Endless(session) for session in sessions])
        self.pack.start()
        self.advance()

    def advance(self, steps: int = STEPS) -> float:
        """Processor seconds per step of one member."""
        started = time.process_time()
        for _ in range(steps):
            self.pack.train_step()
        return (time.process_time() - started) / steps / self.members


def main(rounds: int = 15) -> None:
    """Print the table."""
    print("tokens/s of one core, eager, batch 4x128, vocabulary 500; ratios are medians")
    print("shape    alone   packs of " + "  ".join(f"{m:>12}" for m in SIZES))
    for shape in SHAPES:
        groups = {m: Group(shape, m) for m in (1, *SIZES)}
        times = [{m: group.advance() for m, group in groups.items()} for _ in range(rounds)]
        alone = BATCH / statistics.median(t[1] for t in times)
        cells = []
        for m in SIZES:
            ratio = statistics.median(t[1] / t[m] for t in times)
            cells.append(f"{alone * ratio:6.0f} {ratio:4.2f}x")
        print(f"w{shape[0]:<4} {alone:8.0f}            " + "  ".join(f"{c:>12}" for c in cells))
    processes()


def processes(seconds: float = 8.0) -> None:
    """Two processes against one, singles and packs of four, by the clock."""
    print("two processes at once against one alone, by the clock:")
    for shape in SHAPES:
        for members in (1, 4):
            command = [sys.executable, "-m", "tests.bench.packing", *map(str, shape)]
            command += [str(members), str(seconds)]
            one = _tokens([command])
            two = _tokens([command, command])
            print(
                f"w{shape[0]:<4} packs of {members}: {one:8.0f} -> {two:8.0f} tokens/s, "
                f"{two / one:.2f}x"
            )


def _tokens(commands: list[list[str]]) -> float:
    """Sum of tokens/s that processes print."""
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    return sum(float(process.communicate()[0]) for process in running)


def clocked(width: int, depth: int, head_dim: int, members: int, seconds: float) -> None:
    """Print tokens/s by the clock."""
    group = Group((width, depth, head_dim), members)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        group.advance()
        steps += STEPS
    print(steps * members * BATCH / (time.perf_counter() - started))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        clocked(*(int(a) for a in sys.argv[1:5]), seconds=float(sys.argv[5]))
    else:
        main()
