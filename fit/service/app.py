"""The service as an ASGI application: state that requests share, and one short function a route.

The documents are those of the command line, number by number. `fit.service.routes` turns fields
into documents, `fit.service.jobs` runs what takes seconds, and `fit.service.http` decides which
requests are admitted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from fit.data.cells import UNIT_COLUMN
from fit.errors import ScalingError
from fit.files import csv_text
from fit.laws.families import laws_document
from fit.quantities import count_noun
from fit.results import Fit
from fit.service.errors import RequestError, error_body, request_error_of, short_name
from fit.service.fits import FitRegistry, ServedLaw, pin_of, sweep_document
from fit.service.http import GuardMiddleware, RequestMetrics, resident_bytes
from fit.service.jobs import (
    REPORTS,
    FitJobs,
    WorkerPool,
    fit_arguments,
    read_body,
    suffix_of_content_type,
)
from fit.service.openapi import openapi_document
from fit.service.routes import QUESTIONS, QueryRoute, checked_fields, refuse_fields, report_options
from fit.service.static import Content, file_response, read_page
from fit.service.uploads import Mode, Uploads, named, read_change

JSON = "application/json"
MOST_ANSWERS = 4096
"""Answers kept in memory, 3 kB each."""
MOST_BODIES = 8
"""Tables that are received at a time."""
MOST_WAITING = 256
"""Requests that may wait for a thread; two are computed at a time."""
LEAST_RUNS = 6
"""Different sizes and lengths that the default law needs: its parameters and one more."""
SWEEP_SECONDS = 2.0
"""The state of a sweep is read again at most that often: 0.5 ms a run, however many look on."""


@dataclass(kw_only=True)
class Service:
    """What the routes share: fits, workers, answers given before, counts and the page."""

    registry: FitRegistry
    mode: Mode = "session"
    """Whether tables may be sent, and kept."""
    runs: Path | None = None
    """Folder of a sweep that is followed while it trains."""
    workers: WorkerPool = field(default_factory=WorkerPool)
    """Processes for fits of uploaded tables and for reports."""
    threads: WorkerPool = field(default_factory=lambda: WorkerPool(most=MOST_WAITING))
    """Limits the answers that are computed beside the event loop."""
    bodies: WorkerPool = field(default_factory=lambda: WorkerPool(workers=MOST_BODIES))
    """Limits the tables that are received at a time, 20 MB each."""
    changes: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Names are given, and fits deleted, one after the other."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The sweep is read once for all that ask meanwhile."""
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    answers: OrderedDict[Any, Content] = field(default_factory=OrderedDict)
    """Documents by route, laws and fields, the least recently used first."""
    hits: int = 0
    misses: int = 0

    def __post_init__(self) -> None:
        self.jobs = FitJobs(self.registry, self.workers)
        self.uploads = Uploads(self.registry, self.mode)
        self.page = read_page()
        self._sweep = (-SWEEP_SECONDS, Content(b""))

    async def answer(self, route: QueryRoute, request: Request) -> Response:
        """Answer a question, from memory if the same was asked of the same fits before.

        Raises:
            RequestError, ScalingError: It has no answer.
        """
        fields = checked_fields(route, request.query_params.multi_items())
        laws = route.laws(self.registry, fields)
        key = (route.document, *(law.hash for law in laws), *sorted(fields.items()))
        if key in self.answers:
            self.hits += 1
            self.answers.move_to_end(key)
            return self.answers[key].response(request, JSON)
        self.misses += 1
        if route.takes_long(laws, fields):
            async with self.threads.place():
                if await request.is_disconnected():  # the page has asked something else by now
                    raise RequestError(499, "disconnected", "the client has gone.")
                document = await asyncio.to_thread(route.document, laws, fields)
        else:
            document = route.document(laws, fields)
        content = Content(_dump(document))
        if route.lasting(document):
            self.answers[key] = content
        if len(self.answers) > MOST_ANSWERS:
            self.answers.popitem(last=False)
        return content.response(request, JSON)

    async def sweep(self, request: Request) -> Response:
        """Say how far the followed sweep is.

        Raises:
            RequestError: None is followed.
            RecordError: Its folder has gone, or nothing of a sweep is in it yet.
        """
        folder = self._followed()
        async with self.reading:
            if time.monotonic() >= self._sweep[0] + SWEEP_SECONDS:
                async with self.threads.place():
                    document = await asyncio.to_thread(sweep_document, folder, self.registry)
                self._sweep = (time.monotonic(), Content(_dump(document)))
        return self._sweep[1].response(request, JSON)

    async def fit_sweep(self) -> ServedLaw:
        """Fit the runs of the followed sweep that are done, in place of the fit made so before.

        Raises:
            RequestError: None is followed, too few runs are done, or they cannot be fitted.
            RecordError: Its folder has gone, or nothing of a sweep is in it yet.
        """
        folder = self._followed()
        document = await asyncio.to_thread(sweep_document, folder, self.registry)
        done = [r for r in document["ended"] if r["status"] == "done"]
        if len({(r["params"], r["tokens"]) for r in done}) < LEAST_RUNS:
            text = (
                f"{count_noun(len(done), 'run')} of this sweep finished so far; a fit needs "
                f"{LEAST_RUNS} of different size or length. Wait for more."
            )
            raise RequestError(422, "fit", text)
        law = await self.jobs.fit_sweep(folder, self.uploads.sweep_name(folder))
        self._sweep = (-SWEEP_SECONDS, Content(b""))
        return law

    def _followed(self) -> Path:
        """Folder of the sweep that is followed."""
        if self.runs is None:
            text = "no sweep is followed here. Start the service with: isoflop serve --runs FOLDER"
            raise RequestError(404, "not_found", text)
        return self.runs

    def gauges(self) -> dict[str, float]:
        """Present values for `/metrics`."""
        return {
            "requests_in_flight": self.metrics.in_flight,
            "fits": len(self.registry.names()),
            "fits_uploaded": len(self.registry.uploads),
            "fit_reloads_total": self.registry.reloads,
            "answers_remembered": len(self.answers),
            "answers_hit_total": self.hits,
            "answers_missed_total": self.misses,
            "workers_running": self.workers.running,
            "workers_waited_for": self.workers.waiting,
            "threads_running": self.threads.running,
            "threads_waited_for": self.threads.waiting,
            "resident_bytes": resident_bytes(),
        }

    def page_file(self, name: str, request: Request) -> Response:
        """A file of the page; 304 if the browser has it.

        Raises:
            RequestError: There is no such file.
        """
        if name not in self.page:
            raise RequestError(404, "not_found", "the page has no such file.", "name")
        return file_response(self.page[name], request, Path(name).suffix)

    def close(self) -> None:
        """Stop the workers and remove uploads."""
        self.workers.close()
        self.jobs.close()


def application(service: Service, *, token: str | None = None) -> GuardMiddleware:
    """Build the ASGI application.

    Args:
        service: Fits and what else the routes share.
        token: What requests must carry; without one only names of loopback are answered.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="isoflop",
        version="1",
        summary="Given a compute budget: what N and D, at what loss, and how sure are we?",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # the route below sends it compressed
        redirect_slashes=False,  # it would redirect to whatever host a request names
        lifespan=lifespan,
    )
    for kind in (RequestError, ScalingError, HTTPException, Exception):
        app.add_exception_handler(kind, _error_response)
    _add_question_routes(app, service)
    _add_fit_routes(app, service)
    _add_pinned_routes(app, service)
    _add_service_routes(app, service)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        """Describe the interface."""
        return described().response(request, JSON)

    @cache
    def described() -> Content:
        return Content(_dump(openapi_document(app)))

    return GuardMiddleware(app, token=token, metrics=service.metrics)


def _add_question_routes(app: FastAPI, service: Service) -> None:
    """Add the routes that answer questions."""

    def answering(route: QueryRoute) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await service.answer(route, request)

        return answer

    for path, route in QUESTIONS.items():
        name = path.rpartition("/")[2]
        app.get(path, name=name, description=route.about)(answering(route))

    @app.get("/v1/laws")
    async def laws(request: Request) -> Response:
        """List the published laws and the families that can be fitted."""
        refuse_fields(request.query_params)
        return Content(_dump(laws_document())).response(request, JSON)


def _add_fit_routes(app: FastAPI, service: Service) -> None:
    """Add the routes about fits."""
    registry = service.registry

    @app.get("/v1/fits")
    async def fits(request: Request) -> Response:
        """List the fits in service."""
        refuse_fields(request.query_params)
        document = await asyncio.to_thread(_fits_document, registry, service.uploads)
        document["runs"] = None if service.runs is None else service.runs.resolve().name
        return Content(_dump(document)).response(request, JSON)

    @app.get("/v1/sweep")
    async def sweep(request: Request) -> Response:
        """Say how far the sweep is that is followed: runs done, running, failed and left."""
        refuse_fields(request.query_params)
        return await service.sweep(request)

    @app.post("/v1/sweep", status_code=201)
    async def fit_sweep(request: Request) -> Response:
        """Fit the runs of the sweep that are done so far; its fit lasts as long as the service."""
        service.uploads.check_allowed()
        refuse_fields(request.query_params)
        return made(await service.fit_sweep())

    def made(law: ServedLaw) -> Response:
        """The response of a fit that was just made."""
        return _json(_dump(_fit_document(law)), 201, {"location": f"/v1/fits/{quote(law.name)}"})

    async def sent_table(request: Request) -> tuple[bytes, str]:
        """The table that is the body of a request, and the suffix of its file."""
        kind, encoding, length = (
            request.headers.get(f"content-{name}", "") for name in ("type", "encoding", "length")
        )
        suffix = suffix_of_content_type(kind, encoding)
        async with service.bodies.place():
            return await read_body(request.stream(), length), suffix

    @app.post("/v1/preview")
    async def preview(request: Request) -> Response:
        """Say how a table, sent as the body, would be read: its columns, its first rows."""
        service.uploads.check_allowed()
        refuse_fields(request.query_params)
        document = await service.jobs.preview(*await sent_table(request))
        return Content(_dump(document)).response(request, JSON)

    @app.post("/v1/fits", status_code=201)
    async def upload(request: Request) -> Response:
        """Fit a table of runs, sent as the body."""
        service.uploads.check_allowed()
        name, fields = named(request.query_params.multi_items())
        arguments = fit_arguments(fields)
        if name is not None:
            service.uploads.check_name(name)
        return made(await service.jobs.fit_table(*await sent_table(request), arguments, name))

    @app.patch("/v1/fits/{name}")
    async def change(request: Request, name: str) -> Response:
        """Rename a fit that was sent in, or keep it in the folder of reports."""
        to, keep = read_change(request.query_params.multi_items())
        async with service.changes:
            await asyncio.to_thread(service.uploads.change, name, to, keep)
        return _json(_dump(_fit_document(registry.get(to or name))))

    @app.delete("/v1/fits/{name}", status_code=204)
    async def delete(request: Request, name: str) -> Response:
        """Delete a fit that was sent in."""
        refuse_fields(request.query_params)
        async with service.changes:
            await asyncio.to_thread(service.uploads.delete, name)
        return Response(status_code=204)

    @app.get("/v1/fits/{name}")
    async def fit(request: Request, name: str) -> Response:
        """Give a fit's document without its draws."""
        refuse_fields(request.query_params)
        return _json(_dump(_fit_document(registry.get(name))))

    @app.get("/v1/fits/{name}/runs.csv")
    async def runs(request: Request, name: str) -> Response:
        """Give the runs of a fit as a table."""
        refuse_fields(request.query_params)
        text = csv_text(_run_rows(registry.get(name).fit))
        headers = {"content-disposition": f"attachment; {_file_name(name)}-runs.csv"}
        return Response(text, headers=headers, media_type="text/csv")

    @app.get("/v1/report/{name}.pdf")
    async def report(request: Request, name: str) -> Response:
        """Give a fit's report, whose page 1 answers the question of the fields, if any."""
        asked = report_options(request.query_params.multi_items())
        pdf = (await service.jobs.report(registry.get(name), asked=asked))["report.pdf"]
        headers = {"content-disposition": f"inline; {_file_name(name)}.pdf"}
        return Response(pdf, headers=headers, media_type="application/pdf")


def _add_pinned_routes(app: FastAPI, service: Service) -> None:
    """Add the addresses whose content never changes, so that browsers keep it for good."""

    @app.get("/fits/{pin}.{suffix}")
    async def pinned(request: Request, pin: str, suffix: str) -> Response:
        """Give a fit's document, runs or report (PDF, Markdown), of one content of the fit."""
        refuse_fields(request.query_params)
        known = ("json", "csv", *REPORTS)
        if suffix not in known:
            text = f"there is no .{short_name(suffix)} of a fit; known are {', '.join(known)}."
            raise RequestError(404, "not_found", text, "suffix")
        law = service.registry.pinned(pin)
        if request.headers.get("if-none-match") == f'"{pin}"':
            return Response(status_code=304, headers=_kept(pin))
        if suffix == "json":
            return Content(_dump(_fit_document(law))).response(request, JSON, headers=_kept(pin))
        if suffix == "csv":
            table = Content(csv_text(_run_rows(law.fit)).encode())
            return table.response(request, "text/csv", headers=_kept(pin))
        content = (await service.jobs.report(law, suffix))[f"report.{suffix}"]
        if suffix == "md":  # its figures have the address of its content too
            content = content.replace(b"](figures/", f"]({quote(pin)}/figures/".encode())
        return Content(content).response(request, REPORTS[suffix][0], headers=_kept(pin))

    @app.get("/fits/{pin}/figures/{figure}.svg")
    async def figure(request: Request, pin: str, figure: str) -> Response:
        """Give a figure that the report in Markdown links."""
        refuse_fields(request.query_params)
        law = service.registry.pinned(pin)
        files = await service.jobs.report(law, "md")
        if (content := files.get(f"figures/{figure}.svg")) is None:
            names = ", ".join(sorted(Path(f).stem for f in files if f.endswith(".svg")))
            text = f"the report has no figure '{short_name(figure)}'; it has {names}."
            raise RequestError(404, "not_found", text, "figure")
        return Content(content).response(request, "image/svg+xml", headers=_kept(pin))


def _kept(pin: str) -> dict[str, str]:
    """Headers of a content that never changes; private, since a token may guard it."""
    return {"cache-control": "private, max-age=31536000, immutable", "etag": f'"{pin}"'}


def _add_service_routes(app: FastAPI, service: Service) -> None:
    """Add the routes about the service, and the page."""
    started = time.monotonic()

    @app.get("/healthz")
    async def healthz() -> Response:
        """Say that the service is up."""
        seconds = round(time.monotonic() - started, 1)
        return _json(_dump({"status": "ok", "up_seconds": seconds}))

    @app.get("/metrics")
    async def metrics() -> Response:
        """Give counts and latencies in Prometheus's text form."""
        text = service.metrics.text(service.gauges())
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        """Show the page."""
        return service.page_file("index.html", request)

    @app.get("/embed", include_in_schema=False)
    async def embed(request: Request) -> Response:
        """Show one chart, for a frame on another page."""
        return service.page_file("embed.html", request)

    @app.get("/page/{name:path}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        """Give a file of the page."""
        return service.page_file(name, request)


async def _error_response(request: Request, error: Exception) -> Response:
    """Any exception as a response in the one shape of errors."""
    refusal = request_error_of(error)
    allow = {k: v for k, v in (getattr(error, "headers", None) or {}).items() if k == "Allow"}
    return _json(_dump(error_body(refusal)), refusal.status, {**refusal.headers, **allow})


def _fits_document(registry: FitRegistry, uploads: Uploads) -> dict[str, Any]:
    """The document `isoflop.fits/1`; its `newest` fit is the one that requests get by default."""
    laws = registry.readable()
    rows = [{**_fit_row(law), "kept": uploads.is_kept(law.name)} for law in laws]
    usable = any(row["answers"] and not row["uploaded"] for row in rows)
    newest = registry.newest().name if usable else None
    fits = [{**row, "newest": row["name"] == newest} for row in rows]
    return {"schema": "isoflop.fits/1", "uploads": uploads.mode, "fits": fits}


def _fit_row(law: ServedLaw) -> dict[str, Any]:
    """A fit in the list of fits."""
    fit = law.fit
    return {
        "name": law.name,
        "law": fit.law,
        "status": fit.status,
        **fit.verdict.document(),
        "answers": not fit.verdict.refused and law.source.law.target == "loss",
        "runs_used": fit.runs_used,
        "theta": dict(fit.theta),
        "range": {k: [v.low, v.high] for k, v in fit.range.items()},
        "convention": dict(fit.convention),
        "further": list(law.source.law.further),
        "uploaded": law.uploaded,
        "hash": f"sha256:{law.hash}",
        "address": f"/fits/{quote(pin_of(law))}",
        "trouble": law.trouble,
    }


def _fit_document(law: ServedLaw) -> dict[str, Any]:
    """A fit's document, under the name by which the service has it."""
    return {**law.fit.document(draws=False), "name": law.name}


def _run_rows(fit: Fit) -> list[dict[str, Any]]:
    """The fitted runs, a row each."""
    p = fit.points
    columns = {n: getattr(p, n) for n in ("params", "tokens", "flops", "loss", "residual")}
    columns |= {k: v for k, v in p.columns.items() if k not in columns}
    said = {UNIT_COLUMN: fit.convention["loss"]} if "loss" in fit.convention else {}
    return [
        {"run": run, **{k: float(v[i]) for k, v in columns.items()}, **said}
        for i, run in enumerate(p.run)
    ]


def _file_name(name: str) -> str:
    """A name as the start of a file's name in a header, which holds ASCII alone (RFC 6266)."""
    return f"filename*=UTF-8''{quote(name, safe='')}"


def _dump(document: dict[str, Any]) -> bytes:
    """A document as compact JSON."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _json(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with JSON content."""
    return Response(content, status, headers, JSON)
