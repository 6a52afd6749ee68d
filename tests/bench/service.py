"""The service under load: one worker, 64 clients, from a process of its own.

`python -m tests.bench.service [SECONDS]` asks questions that were asked before (warm), then only
new ones (cold). Wall figures are those of the machine as it is; processor time per request is the
service's own, whoever else works beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator

CLIENTS = 64
WARM_QUESTIONS = 200
GOLDEN = (5**0.5 - 1) / 2
TICKS = os.sysconf("SC_CLK_TCK")


def questions(cold: bool) -> Iterator[str]:
    """Addresses to be asked: always new ones, or the same over and over."""
    if cold:
        spread = (3e11 * 100 ** (i * GOLDEN % 1) for i in itertools.count())  # over two decades
        return (f"/v1/query?flops={flops:.10e}" for flops in spread)
    return itertools.cycle(f"/v1/query?flops={3e12 * 1.02**i:.6e}" for i in range(WARM_QUESTIONS))


async def client(port: int, asked: Iterator[str], until: float, seen: list[float], kept: Counter):
    """One client: a question, its answer, the next."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        path = next(asked).replace("+", "%2B")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        body = await reader.readexactly(size)
        kept[head[9:12].decode() if body.startswith(b'{"schema"') else "bad"] += 1
        seen.append(time.perf_counter() - begun)
    writer.close()


def load(port: int, cold: bool, seconds: float, results: multiprocessing.Queue) -> None:
    """All clients, in this process."""

    async def run() -> None:
        seen: list[float] = []
        kept: Counter = Counter()
        asked, until = questions(cold), time.perf_counter() + seconds
        await asyncio.gather(*(client(port, asked, until, seen, kept) for _ in range(CLIENTS)))
        results.put((sorted(seen), kept))

    asyncio.run(run())


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Memory of a process [MB]."""
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def ask_once(port: int) -> None:
    """Ask each of the warm questions once."""
    for path in itertools.islice(questions(cold=False), WARM_QUESTIONS):
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path.replace('+', '%2B')}").read()


def measure(port: int, pid: int, cold: bool, seconds: float) -> None:
    """One minute of load, in figures."""
    results: multiprocessing.Queue = multiprocessing.Queue()
    before, used = resident(pid), processor_seconds(pid)
    process = multiprocessing.Process(target=load, args=(port, cold, seconds, results))
    process.start()
    seen, kept = results.get()
    process.join()
    used, n = processor_seconds(pid) - used, len(seen)
    p50, p99 = (1e3 * seen[int(q * n)] for q in (0.5, 0.99))
    errors = n - kept["200"]
    print(
        f"{'cold' if cold else 'warm':5} {n / seconds:7.0f} requests/s   p50 {p50:6.1f} ms   "
        f"p99 {p99:6.1f} ms   errors {errors}   {1e3 * used / n:.2f} ms of processor each   "
        f"{before:.0f} -> {resident(pid):.0f} MB"
    )


def main(seconds: float) -> None:
    """Start the service and load it."""
    command = [sys.executable, "-m", "fit", "serve", "--port", "0", "--fit", "reports/reference"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = service.stdout.readline()
        port = int(re.search(r":(\d+)/", line)[1])
        print(f"{CLIENTS} clients, {seconds:g} s each, load average {os.getloadavg()[0]:.1f}")
        ask_once(port)
        for cold in (False, True):
            measure(port, service.pid, cold, seconds)
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
