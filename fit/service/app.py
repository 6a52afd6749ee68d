"""The service as an application: routes that format what `fit.service.routes` answers.

Every route is a few lines; who may ask, sizes and times are the gate's, the uploads' and the
workshop's. The documents are those of the command line, number by number.

The description of the service's interface: parameters from the inquiries, one shape of error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from fit.errors import ScalingError
from fit.files import csv_text
from fit.laws.families import laws_document
from fit.laws.published import PRESETS
from fit.results import Fit, is_identified
from fit.service.fits import FitRegistry, PageFiles, ServedLaw
from fit.service.http import (
    GuardMiddleware,
    RequestError,
    RequestMetrics,
    error_body,
    request_error_of,
    resident_bytes,
)
from fit.service.jobs import (
    FORMATS,
    MOST_BYTES,
    OPTIONS,
    PdfCache,
    Uploads,
    WorkerPool,
    arguments_of,
    read_body,
    suffix_of,
)
from fit.service.routes import COMPARE, CURVES, PREDICT, QUERY, Fields, QueryRoute, checked_fields

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message", "field"],
            "properties": {
                "kind": {"type": "string"},
                "message": {"type": "string", "description": "One line: what, and what to do."},
                "field": {"type": ["string", "null"], "description": "Which field is wrong."},
            },
        }
    },
}
NUMBER: dict[str, Any] = {
    "type": "object",
    "required": ["value", "low", "high"],
    "properties": {
        "value": {"type": ["number", "null"]},
        "low": {"type": ["number", "null"]},
        "high": {"type": ["number", "null"]},
    },
}
WARNINGS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["code", "severity", "message"],
        "properties": {k: {"type": "string"} for k in ("code", "severity", "message")},
    },
}
INQUIRIES: dict[str, tuple[QueryRoute, str]] = {
    "/v1/query": (QUERY, "Answer"),
    "/v1/predict": (PREDICT, "Prediction"),
    "/v1/compare": (COMPARE, "Comparison"),
    "/v1/curves": (CURVES, "Curves"),
}
NUMBERS = ("flops", "params", "tokens", "tokens_per_param", "loss", "loss_next_run")
SCHEMAS: dict[str, Any] = {
    "Error": ERROR,
    "Number": NUMBER,
    "Answer": {
        "type": "object",
        "required": ["schema", *NUMBERS, "warnings", "config"],
        "properties": {
            "schema": {"const": "isoflop.answer/1"},
            **{k: {"$ref": "#/components/schemas/Number"} for k in NUMBERS},
            "level": {"type": ["number", "null"]},
            "reach": {"type": ["number", "null"]},
            "warnings": WARNINGS,
            "config": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Prediction": {
        "type": "object",
        "required": ["schema", "params", "tokens", "flops", "warnings"],
        "properties": {"schema": {"const": "isoflop.prediction/1"}, "warnings": WARNINGS},
    },
    "Comparison": {
        "type": "object",
        "required": ["schema", "a", "b", "unit", "rows", "warnings"],
        "properties": {"schema": {"const": "isoflop.compare/1"}, "warnings": WARNINGS},
    },
    "Curves": {
        "type": "object",
        "required": ["schema", "flops", "inside", "params", "tokens", "loss", "runs", "valleys"],
        "properties": {"schema": {"const": "isoflop.curves/1"}},
    },
    "Fit": {
        "type": "object",
        "required": ["schema", "name", "law", "theta", "interval"],
        "properties": {"schema": {"const": "isoflop.fit/1"}},
    },
    "Fits": {
        "type": "object",
        "required": ["schema", "fits"],
        "properties": {"schema": {"const": "isoflop.fits/1"}, "fits": {"type": "array"}},
    },
    "Laws": {
        "type": "object",
        "required": ["schema", "laws", "families"],
        "properties": {"schema": {"const": "isoflop.laws/1"}},
    },
    "Health": {"type": "object", "required": ["status"]},
}
PLAIN: dict[tuple[str, str], tuple[str, str | None]] = {
    ("/v1/laws", "get"): ("application/json", "Laws"),
    ("/v1/fits", "get"): ("application/json", "Fits"),
    ("/v1/fits", "post"): ("application/json", "Fit"),
    ("/v1/fits/{name}", "get"): ("application/json", "Fit"),
    ("/v1/fits/{name}/runs.csv", "get"): ("text/csv", None),
    ("/v1/report/{name}.pdf", "get"): ("application/pdf", None),
    ("/healthz", "get"): ("application/json", "Health"),
    ("/metrics", "get"): ("text/plain", None),
}
NUMERIC = r"^\d{1,20}(\.\d{1,9})?([eE]\+?\d{1,2})?[kMBT]?$"
"""A count as it is typed; the readers say the rest."""
SHAPES: dict[str, dict[str, Any]] = {
    "flops": {"pattern": r"^\d{1,9}(\.\d{1,9})?([eE]\+?[0-3]?\d)?$"},
    "law": {"enum": list(PRESETS)},
    "interval": {"enum": ["hc3", "pairs"]},
    "level": {"pattern": r"^0\.\d{1,9}$"},
    "mfu": {"pattern": r"^(0\.\d{1,9}|\d{1,2}%)$"},
    "memory": {"pattern": r"^\d{1,6}([kMGT]i?B)?$"},
    **{name: {"enum": ["true", "false"]} for name in ("force", "regret")},
    **{name: {} for name in ("fit", "device", "a", "b")},
}
"""What a field's text looks like, where it is not a count."""
REMEMBERED = 4096
"""Answers kept; each of 3 kB."""
MOST_THOUGHT = 256
"""Requests that may wait for a thread; two think at a time."""
QUICK = {"flops", "fit", "law", "force", "dollars", "hours", "deadline"}
JSON = "application/json"


def described(app: FastAPI) -> None:
    """Give an application its OpenAPI document."""
    from fastapi.openapi.utils import get_openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes
            )
            app.openapi_schema = _completed(found)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document with our parameters, bodies, answers and errors."""
    document["components"] = {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    document["security"] = [{}, {"token": []}]
    for path, (inquiry, schema) in INQUIRIES.items():
        route = document["paths"][path]["get"]
        route["parameters"] = [_parameter(inquiry, name) for name in inquiry.fields]
        route["responses"] = _responses("200", "application/json", schema)
    for (path, method), (kind, name) in PLAIN.items():
        route = document["paths"][path][method]
        route["responses"] = _responses("201" if method == "post" else "200", kind, name)
    upload = document["paths"]["/v1/fits"]["post"]
    upload["parameters"] = [_option(name) for name in OPTIONS]
    upload["requestBody"] = {
        "required": True,
        "description": f"A table with params, tokens and loss, of {MOST_BYTES >> 20} MiB at most.",
        "content": {kind: {"schema": {"type": "string"}} for kind in FORMATS},
    }
    return document


def _parameter(inquiry: QueryRoute, name: str) -> dict[str, Any]:
    """One field of an inquiry."""
    shape = SHAPES.get(name, {"pattern": NUMERIC})
    plain: dict[str, Any] = {"type": "string", "maxLength": 200, **shape}
    many = {"type": "array", "items": plain, "maxItems": 50}
    return {
        "name": name,
        "in": "query",
        "required": name in inquiry.needed,
        "description": inquiry.fields[name],
        "schema": many if name in inquiry.several else plain,
    }


def _option(name: str) -> dict[str, Any]:
    """One option of an upload."""
    plain: dict[str, Any] = {"type": "string"}
    many = {"type": "array", "items": plain}
    return {
        "name": name,
        "in": "query",
        "description": OPTIONS[name],
        "schema": many if name in ("column", "unit") else plain,
    }


def _responses(status: str, kind: str, schema: str | None) -> dict[str, Any]:
    """What a route may answer; everything but success has the one shape."""
    told = {"type": "string"} if schema is None else {"$ref": f"#/components/schemas/{schema}"}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": "The answer.", "content": {kind: {"schema": told}}},
        "4XX": {"description": "The request is refused.", "content": error},
        "5XX": {"description": "The service is busy or has failed.", "content": error},
    }


QUICK |= {"price", "device", "devices", "mfu", "params", "tokens"}


"""Fields of questions that a fit by the sandwich answers in 2 ms; limits take 50 to 100."""


@dataclass(kw_only=True)
class Service:
    """What the routes share."""

    shelf: FitRegistry
    workshop: WorkerPool = field(default_factory=WorkerPool)
    threads: WorkerPool = field(default_factory=lambda: WorkerPool(most=MOST_THOUGHT))
    """For answers that take long enough to keep others waiting."""
    meter: RequestMetrics = field(default_factory=RequestMetrics)
    remembered: OrderedDict[Any, bytes] = field(default_factory=OrderedDict)
    hits: int = 0
    misses: int = 0

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.shelf, self.workshop)
        self.prints = PdfCache(self.workshop)
        self.page = PageFiles.read()

    async def document(self, inquiry: QueryRoute, request: Request) -> bytes:
        """The document that answers a request; one that takes long is made in a thread.

        Raises:
            Fault, ScalingError: It has no answer.
        """
        fields = checked_fields(inquiry, request.query_params.multi_items())
        held = inquiry.sources(self.shelf, fields)
        key = (inquiry.reply, *(h.hash for h in held), *sorted(fields.items()))
        if (found := self.remembered.get(key)) is not None:
            self.hits += 1
            self.remembered.move_to_end(key)
            return found
        self.misses += 1
        if _takes_long(inquiry, fields, held):
            async with self.threads.place():
                made = await asyncio.to_thread(inquiry.reply, self.shelf, fields)
        else:
            made = inquiry.reply(self.shelf, fields)
        found = self.remembered[key] = _bytes(made)
        if len(self.remembered) > REMEMBERED:
            self.remembered.popitem(last=False)
        return found

    def gauges(self) -> dict[str, float]:
        """Values of the moment."""
        return {
            "requests_in_flight": self.meter.in_flight,
            "fits": len(self.shelf.names()),
            "fits_uploaded": len(self.shelf.uploads),
            "fit_reloads_total": self.shelf.reloads,
            "answers_remembered": len(self.remembered),
            "answers_hit_total": self.hits,
            "answers_missed_total": self.misses,
            "workers_running": self.workshop.running,
            "workers_waited_for": self.workshop.waiting,
            "threads_running": self.threads.running,
            "threads_waited_for": self.threads.waiting,
            "resident_bytes": resident_bytes(),
        }

    def close(self) -> None:
        """End workers and remove uploads."""
        self.workshop.close()
        self.uploads.close()


def _takes_long(inquiry: QueryRoute, fields: Fields, held: tuple[ServedLaw, ...]) -> bool:
    """Whether others would notice."""
    if inquiry is COMPARE or inquiry is CURVES:
        return True
    methods = {h.source.fit.interval.method for h in held if h.source.fit is not None}
    # A fixed size or length is a limit of a budget's split, and all there is to a prediction.
    quick = QUICK if inquiry is PREDICT else QUICK - {"params", "tokens"}
    return not (methods <= {"hc3"} and fields.keys() <= quick)


def application(service: Service, *, token: str | None = None) -> GuardMiddleware:
    """The service behind its gate.

    Args:
        service: Fits and what else the routes share.
        token: What requests must carry; None answers to loopback's names alone.
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
        lifespan=lifespan,
    )
    for tree in (RequestError, ScalingError, HTTPException, Exception):
        app.add_exception_handler(tree, _failed)
    _ask(app, service)
    _keep(app, service)
    _watch(app, service)
    described(app)
    return GuardMiddleware(app, token=token, meter=service.meter)


def _ask(app: FastAPI, service: Service) -> None:
    """Routes that answer questions."""

    @app.get("/v1/query")
    async def query(request: Request) -> Response:
        """Split a budget between parameters and tokens."""
        return Response(await service.document(QUERY, request), media_type=JSON)

    @app.get("/v1/predict")
    async def predict(request: Request) -> Response:
        """Predict the loss of N parameters trained on D tokens."""
        return Response(await service.document(PREDICT, request), media_type=JSON)

    @app.get("/v1/compare")
    async def compare(request: Request) -> Response:
        """Say how much compute a needs to reach the loss of b."""
        return Response(await service.document(COMPARE, request), media_type=JSON)

    @app.get("/v1/curves")
    async def curves(request: Request) -> Response:
        """Give the frontier with its bands, the runs and the isoFLOP valleys, for charts."""
        return Response(await service.document(CURVES, request), media_type=JSON)

    @app.get("/v1/laws")
    async def laws() -> Response:
        """List the published laws and the families that can be fitted."""
        return Response(_bytes(laws_document()), media_type=JSON)


def _keep(app: FastAPI, service: Service) -> None:
    """Routes about fits."""
    shelf = service.shelf

    @app.get("/v1/fits")
    async def fits() -> Response:
        """List the fits in service."""
        rows = [_entry(held) for held in shelf.all()]
        own = [row for row in rows if row["answers"] and not row["uploaded"]]
        newest = shelf.newest().name if own else None
        rows = [{**row, "newest": row["name"] == newest} for row in rows]
        return Response(_bytes({"schema": "isoflop.fits/1", "fits": rows}), media_type=JSON)

    @app.post("/v1/fits", status_code=201)
    async def upload(request: Request) -> Response:
        """Fit a table of runs, sent as the body."""
        fields: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            fields.setdefault(name, []).append(value)
        arguments = arguments_of(fields)
        suffix = suffix_of(request.headers.get("content-type", ""))
        data = await read_body(request.stream(), request.headers.get("content-length"))
        held = await service.uploads.fit(data, suffix, arguments)
        where = {"location": f"/v1/fits/{held.name}"}
        return Response(_fit_bytes(held), 201, where, JSON)

    @app.get("/v1/fits/{name}")
    async def fit(name: str) -> Response:
        """Give a fit's document without its draws."""
        return Response(_fit_bytes(shelf.get(name)), media_type=JSON)

    @app.get("/v1/fits/{name}/runs.csv")
    async def runs(name: str) -> Response:
        """Give the runs of a fit as a table."""
        text = csv_text(_run_rows(shelf.get(name).fit))
        where = {"content-disposition": f'attachment; filename="{name}-runs.csv"'}
        return Response(text, headers=where, media_type="text/csv")

    @app.get("/v1/report/{name}.pdf")
    async def report(name: str) -> Response:
        """Give a fit's report."""
        pages = await service.prints.report(shelf.get(name))
        where = {"content-disposition": f'inline; filename="{name}.pdf"'}
        return Response(pages, headers=where, media_type="application/pdf")


def _watch(app: FastAPI, service: Service) -> None:
    """Routes about the service, and the page."""
    begun = time.monotonic()

    @app.get("/healthz")
    async def healthz() -> Response:
        """Say that the service is up."""
        seconds = round(time.monotonic() - begun, 1)
        return Response(_bytes({"status": "ok", "up_seconds": seconds}), media_type=JSON)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Give counts and latencies in Prometheus's text form."""
        text = service.meter.text(service.gauges())
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        """Show the page."""
        return service.page.file("index.html", request.headers.get("if-none-match"))

    @app.get("/page/{name:path}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        """Give a file of the page."""
        return service.page.file(name, request.headers.get("if-none-match"))


async def _failed(request: Request, error: Exception) -> Response:
    """Any exception as an answer, in the one shape."""
    fault = request_error_of(error)
    allow = {k: v for k, v in (getattr(error, "headers", None) or {}).items() if k == "Allow"}
    return Response(_bytes(error_body(fault)), fault.status, allow, JSON)


def _entry(held: ServedLaw) -> dict[str, Any]:
    """A fit in the list of fits."""
    fit = held.fit
    return {
        "name": held.name,
        "law": fit.law,
        "status": fit.status,
        "answers": is_identified(fit) and held.source.law.target == "loss",
        "runs_used": fit.runs_used,
        "theta": dict(fit.theta),
        "range": {k: [v.low, v.high] for k, v in fit.range.items()},
        "convention": dict(fit.convention),
        "further": list(held.source.law.further),
        "uploaded": held.uploaded,
        "hash": f"sha256:{held.hash}",
        "trouble": held.trouble,
    }


def _fit_bytes(held: ServedLaw) -> bytes:
    """A fit's document under the name it is asked by."""
    return _bytes({**held.fit.document(draws=False), "name": held.name})


def _run_rows(fit: Fit) -> list[dict[str, Any]]:
    """The fitted runs, a row each."""
    p = fit.points
    columns = {n: getattr(p, n) for n in ("params", "tokens", "flops", "loss", "residual")}
    columns |= {k: v for k, v in p.columns.items() if k not in columns}
    return [
        {"run": run, **{k: float(v[i]) for k, v in columns.items()}} for i, run in enumerate(p.run)
    ]


def _bytes(document: dict[str, Any]) -> bytes:
    """A document as JSON."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
