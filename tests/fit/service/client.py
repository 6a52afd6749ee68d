"""The service in process, asked over ASGI without a socket; a sweep that trains."""

import asyncio
import dataclasses
import json
import time
from pathlib import Path

import httpx

from fit.data.progress import HEARTBEAT_NAME, HEARTBEAT_SCHEMA, PLAN_NAME, PLAN_SCHEMA
from fit.data.records import read_runs, write_record
from fit.results import write_fit
from fit.service.app import Service, application
from fit.service.errors import RequestError
from fit.service.fits import FitRegistry
from fit.service.jobs import WorkerPool
from tests.fit.builders import make_fit, make_points
from tests.fit.data.builders import record


def pilot(root: Path) -> Path:
    """A folder of reports with two fits, one of which cannot answer."""
    write_fit(root / "pilot", make_fit(name="pilot"))
    write_fit(root / "blind", make_fit(name="blind", kappa=2000.0))
    return root


def service(root: Path, **given) -> Service:
    """A service of the fits below a folder."""
    return Service(registry=FitRegistry(root), **given)


class SweepWorkers(WorkerPool):
    """Fits a folder of runs at once, without a process; `refusal` is raised where it is set."""

    refusal: RequestError | None = None

    async def command(self, arguments, *, folder, kind):
        """Write a fit of the folder, of the name that is asked for."""
        command, out, *_, path = arguments
        assert (command, kind) == ("fit", "fit")
        if self.refusal:
            raise self.refusal
        name = out.removeprefix("--out=")
        known = [r.run for r in read_runs(Path(path)).records if r.status == "done"]
        points = make_points(run=(*known, *(f"x{i}" for i in range(25 - len(known)))))
        fit = make_fit(name=name, points=points)
        write_fit(folder / name, dataclasses.replace(fit, source={"path": path}))
        return b""


def finish(folder: Path, count: int) -> None:
    """Further runs of a sweep end."""
    for i in range(count):
        run = record(24, 300_000 * (i + 1))
        write_record(folder / run.run, run)


def ask(served: Service, *paths: str, token: str | None = None, **given):
    """The responses to requests, one after the other; a single one where one is asked."""

    async def run():
        transport = httpx.ASGITransport(application(served, token=token))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            method = given.pop("method", "GET")
            return [await client.request(method, path, **given) for path in paths]

    result = asyncio.run(run())
    return result[0] if len(result) == 1 else result


def table(rows: int = 36) -> bytes:
    """A csv of runs on a known law, their names such as spreadsheets would compute."""
    import numpy as np

    noise = iter(1 + 0.001 * np.random.default_rng(3).standard_normal(rows))
    lines = ["run,params,tokens,loss"]
    for n in (1e6, 3e6, 1e7, 3e7, 1e8, 3e8):
        for d in (2e7, 6e7, 2e8, 6e8, 2e9, 6e9):
            loss = (1.7 + 120 / n**0.34 + 400 / d**0.36) * next(noise)
            lines.append(f"=run({len(lines)}),{n},{d},{loss}")
    return "\n".join(lines).encode()


def live_sweep(folder: Path):
    """Six planned runs: two are done, one failed, one trains, one is silent; their records."""
    runs = [record(16, 300_000 * (i + 1), wall_seconds=50.0) for i in range(6)]
    gone = {"loss": None, "tokens_seen": None}
    failed = dataclasses.replace(runs[2], status="failed", reason="OutOfMemoryError: " * 40, **gone)
    for run in (*runs[:2], failed):
        write_record(folder / run.run, run)
    rows = [
        {"run": r.run, "params": 1000, "tokens": r.tokens, "flops_spent": 5e11, "seconds": 50.0}
        for r in runs
    ]
    (folder / PLAN_NAME).write_text(json.dumps({"schema": PLAN_SCHEMA, "runs": rows}))
    for run, age in ((runs[3], 0.0), (runs[4], 900.0)):
        beat = {"schema": HEARTBEAT_SCHEMA, "run": run.run, "tokens": run.tokens // 4, "loss": 1.5,
                "total": run.tokens, "tokens_per_second": 1e4, "host": "node7", "pid": 1,
                "time": time.time() - age}  # fmt: skip
        (folder / f".work-{run.run}").mkdir(parents=True)
        (folder / f".work-{run.run}" / HEARTBEAT_NAME).write_text(json.dumps(beat))
    return runs
