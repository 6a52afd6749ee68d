"""The service in process, asked over ASGI without a socket."""

import asyncio
from pathlib import Path

import httpx

from fit.results import write_fit
from fit.service.app import Service, application
from fit.service.fits import FitRegistry
from tests.fit.builders import make_fit


def pilot(root: Path) -> Path:
    """A folder of reports with two fits, one of which cannot answer."""
    write_fit(root / "pilot", make_fit(name="pilot"))
    write_fit(root / "blind", make_fit(name="blind", kappa=2000.0))
    return root


def service(root: Path, **given) -> Service:
    """A service of the fits below a folder."""
    return Service(registry=FitRegistry(root), **given)


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
