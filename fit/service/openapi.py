"""The OpenAPI document of the service: parameters, bodies, documents and errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fit.laws.published import PRESETS
from fit.query.question import REPORT_FIELDS
from fit.service.jobs import FORMATS, MOST_BYTES, OPTIONS, REPEATED
from fit.service.routes import QUESTIONS, QueryRoute
from fit.service.uploads import CHANGES
from fit.verdict import VERDICTS

VERDICT: dict[str, Any] = {
    "verdict": {"enum": list(VERDICTS), "description": "Whether to believe it."},
    "verdict_reason": {"type": "string", "description": "The sentence that decides it."},
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        **VERDICT,
        "error": {
            "type": "object",
            "required": ["kind", "message", "field"],
            "properties": {
                "kind": {"type": "string"},
                "message": {"type": "string", "description": "One line: what, and what to do."},
                "field": {"type": ["string", "null"], "description": "Which field is wrong."},
            },
        },
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
NUMBERS = ("flops", "params", "tokens", "tokens_per_param", "loss", "loss_next_run")
SCHEMAS: dict[str, Any] = {
    "Error": ERROR,
    "Number": NUMBER,
    "Answer": {
        "type": "object",
        "required": ["schema", *VERDICT, *NUMBERS, "warnings", "config"],
        "properties": {
            "schema": {"const": "isoflop.answer/1"},
            **VERDICT,
            **{k: {"$ref": "#/components/schemas/Number"} for k in NUMBERS},
            "level": {"type": ["number", "null"]},
            "reach": {"type": ["number", "null"]},
            "warnings": WARNINGS,
            "config": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Prediction": {
        "type": "object",
        "required": ["schema", *VERDICT, "params", "tokens", "flops", "warnings"],
        "properties": {
            "schema": {"const": "isoflop.prediction/1"},
            **VERDICT,
            "warnings": WARNINGS,
        },
    },
    "Comparison": {
        "type": "object",
        "required": ["schema", "a", "b", "unit", "rows", "warnings"],
        "properties": {"schema": {"const": "isoflop.compare/1"}, "warnings": WARNINGS},
    },
    "Curves": {
        "type": "object",
        "required": ["schema", "flops", "inside", "params", "tokens", "loss", "runs", "valleys"],
        "properties": {"schema": {"const": "isoflop.curves/1"}, **VERDICT},
    },
    "Contours": {
        "type": "object",
        "required": ["schema", *VERDICT, "params", "tokens", "loss", "answer", "budget", "limits"],
        "properties": {"schema": {"const": "isoflop.contours/1"}, **VERDICT},
    },
    "Without": {
        "type": "object",
        "required": ["schema", "source", "rows", "at", "warnings", "all", "left", "flops"],
        "properties": {"schema": {"const": "isoflop.without/1"}},
    },
    "Training": {
        "type": "object",
        "required": ["schema", "source", "run", "row", "tokens", "loss"],
        "properties": {"schema": {"const": "isoflop.training/1"}},
    },
    "Fit": {
        "type": "object",
        "required": ["schema", *VERDICT, "name", "law", "theta", "interval"],
        "properties": {"schema": {"const": "isoflop.fit/1"}, **VERDICT},
    },
    "Fits": {
        "type": "object",
        "required": ["schema", "fits", "uploads", "runs"],
        "properties": {"schema": {"const": "isoflop.fits/1"}, "fits": {"type": "array"}},
    },
    "Sweep": {
        "type": "object",
        "required": ["schema", "name", "counts", "planned", "running", "ended", "over", "fits"],
        "properties": {"schema": {"const": "isoflop.sweep/1"}},
    },
    "Preview": {
        "type": "object",
        "required": ["schema", "rows", "columns", "mapping", "wide"],
        "properties": {"schema": {"const": "isoflop.preview/1"}, "columns": {"type": "array"}},
    },
    "Laws": {
        "type": "object",
        "required": ["schema", "laws", "families"],
        "properties": {"schema": {"const": "isoflop.laws/1"}},
    },
    "Health": {"type": "object", "required": ["status"]},
}
OTHER_ROUTES: dict[tuple[str, str], tuple[str, str | None]] = {
    ("/v1/laws", "get"): ("application/json", "Laws"),
    ("/v1/fits", "get"): ("application/json", "Fits"),
    ("/v1/sweep", "get"): ("application/json", "Sweep"),
    ("/v1/sweep", "post"): ("application/json", "Fit"),
    ("/v1/fits", "post"): ("application/json", "Fit"),
    ("/v1/preview", "post"): ("application/json", "Preview"),
    ("/v1/fits/{name}", "patch"): ("application/json", "Fit"),
    ("/v1/fits/{name}", "get"): ("application/json", "Fit"),
    ("/v1/fits/{name}/runs.csv", "get"): ("text/csv", None),
    ("/v1/report/{name}.pdf", "get"): ("application/pdf", None),
    ("/fits/{pin}.{suffix}", "get"): ("application/json", None),
    ("/fits/{pin}/figures/{figure}.svg", "get"): ("image/svg+xml", None),
    ("/healthz", "get"): ("application/json", "Health"),
    ("/metrics", "get"): ("text/plain", None),
}
"""Content type of every other route, and the name of its document in `SCHEMAS`."""
NUMERIC = r"^\d{1,20}(\.\d{1,9})?([eE]\+?\d{1,2})?[kMBT]?$"
"""Counts as people type them. The parsers check the rest, and their messages say what is wrong."""
SHAPES: dict[str, dict[str, Any]] = {
    "flops": {"pattern": r"^\d{1,9}(\.\d{1,9})?([eE]\+?[0-3]?\d)?$"},
    "law": {"enum": list(PRESETS)},
    "interval": {"enum": ["hc3", "pairs"]},
    "level": {"pattern": r"^0\.\d{1,9}$"},
    "mfu": {"pattern": r"^(0\.\d{1,9}|\d{1,2}%)$"},
    "memory": {"pattern": r"^\d{1,6}([kMGT]i?B)?$"},
    **{name: {"enum": ["true", "false"]} for name in ("force", "regret")},
    "row": {"pattern": r"^\d{1,6}$"},
    **{name: {} for name in ("fit", "device", "a", "b")},
}
"""JSON Schema of the fields that are not counts."""


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Complete the framework's OpenAPI document with parameters, bodies, answers and errors.

    The routes take a plain `Request`, so that the framework knows none of these.
    """
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    document["components"] = {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    document["security"] = [{}, {"token": []}]
    for path, route in QUESTIONS.items():
        operation = document["paths"][path]["get"]
        operation["parameters"] = [_field_parameter(route, name) for name in route.fields]
        operation["responses"] = _responses("200", "application/json", route.schema)
    for (path, method), (kind, name) in OTHER_ROUTES.items():
        operation = document["paths"][path][method]
        status = "201" if method == "post" and name == "Fit" else "200"
        operation["responses"] = _responses(status, kind, name)
    report = document["paths"]["/v1/report/{name}.pdf"]["get"]
    report["parameters"] += [_field_parameter(QUESTIONS["/v1/query"], n) for n in REPORT_FIELDS]
    fits, fit = document["paths"]["/v1/fits"], document["paths"]["/v1/fits/{name}"]
    fits["post"]["parameters"] = [_option_parameter(name) for name in OPTIONS]
    fits["post"]["parameters"].append(_plain_parameter("name", "Name of the fit."))
    fit["patch"]["parameters"] += [_plain_parameter(k, about) for k, about in CHANGES.items()]
    fit["delete"]["responses"].pop("422", None)
    fit["delete"]["responses"] |= {
        k: v for k, v in _responses("204", "application/json", None).items() if k != "204"
    }
    for operation in (fits["post"], document["paths"]["/v1/preview"]["post"]):
        operation["requestBody"] = {
            "required": True,
            "description": f"A table of runs, of {MOST_BYTES >> 20} MiB at most.",
            "content": {kind: {"schema": {"type": "string"}} for kind in FORMATS},
        }
    return document


def _field_parameter(route: QueryRoute, name: str) -> dict[str, Any]:
    """A field of a question."""
    shape = SHAPES.get(name, {"pattern": NUMERIC})
    plain: dict[str, Any] = {"type": "string", "maxLength": 200, **shape}
    many = {"type": "array", "items": plain, "maxItems": 50}
    return {
        "name": name,
        "in": "query",
        "required": name in route.needed,
        "description": route.fields[name],
        "schema": many if name in route.several else plain,
    }


def _option_parameter(name: str) -> dict[str, Any]:
    """An option of the fit of an uploaded table."""
    plain: dict[str, Any] = {"type": "string"}
    many = {"type": "array", "items": plain}
    return {
        "name": name,
        "in": "query",
        "description": OPTIONS[name],
        "schema": many if name in REPEATED else plain,
    }


def _plain_parameter(name: str, about: str) -> dict[str, Any]:
    """A field of text that may be left out."""
    return {"name": name, "in": "query", "description": about, "schema": {"type": "string"}}


def _responses(status: str, kind: str, schema: str | None) -> dict[str, Any]:
    """The responses of a route; every error has the same schema."""
    content = {"type": "string"} if schema is None else {"$ref": f"#/components/schemas/{schema}"}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": "The answer.", "content": {kind: {"schema": content}}},
        "4XX": {"description": "The request is refused.", "content": error},
        "5XX": {"description": "The service is busy or has failed.", "content": error},
    }
