"""Whatever is sent in the terms of the description, the service answers as described."""

import contextlib

import pytest

from fit.service.app import application
from fit.service.jobs import WorkerPool
from tests.fit.service.client import live_sweep, pilot, service

EXAMPLES = {"get": 150, "post": 25, "patch": 50, "delete": 50}
"""A table that is sent starts a process."""
THERE = ["pilot", "blind", "nope", "../pilot", "hoffmann2022"]
"""Names of fits: no chance would meet them."""
BUDGETS = ["1e12", "2.5e13", "1e17"]
"""Two within reach of the runs and one beyond it, for the same reason."""
HOST = {"host": "localhost"}


def described(served, keep=None):
    """The service's own description with names that are there, of fewer fields if so wished."""
    import schemathesis

    schema = schemathesis.openapi.from_asgi("/openapi.json", application(served), headers=HOST)
    for path in schema.raw_schema["paths"].values():
        for operation in path.values():
            fields = operation.get("parameters", [])
            for field in fields:
                if field["name"] in ("name", "fit", "a", "b"):
                    field["schema"] = {"type": "string", "enum": THERE}
                if keep is not None and field["name"] == "flops":
                    field["schema"] = {"type": "string", "enum": BUDGETS}
            operation["parameters"] = [f for f in fields if keep is None or f["name"] in keep]
    return schema


def fuzz(operation, mode):
    """Send what may be sent to an operation, or what may not; its statuses."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    statuses = []

    @settings(
        max_examples=EXAMPLES[operation.method],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answer(case):
        response = case.call(headers=HOST, timeout=60)
        statuses.append(response.status_code)
        kept = (checks.status_code_conformance, checks.content_type_conformance)
        kept = (*kept, checks.response_schema_conformance, not_a_server_error)
        case.validate_response(response, checks=list(kept))

    with contextlib.suppress(Unsatisfiable):  # nothing can be sent amiss where nothing is sent
        answer()
    return statuses


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_described_interface_never_fails(tmp_path):
    from schemathesis import GenerationMode

    live_sweep(tmp_path / "runs")
    served = service(pilot(tmp_path), workers=WorkerPool(seconds=60), runs=tmp_path / "runs")
    few = {"flops", "fit", "max_params", "name"}
    seen = {}
    for schema in (described(served), described(served, few)):
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.method == "post" and "POST /v1/fits" in seen:
                continue
            statuses = seen.setdefault(f"{operation.method.upper()} {operation.path}", [])
            for mode in GenerationMode:
                statuses += fuzz(operation, mode)
    served.close()
    print({k: (len(v), sorted(set(v))) for k, v in seen.items()})
    assert len(seen) >= 12
    # No chance finds the row of a run or the address of a document that never changes, and seldom
    # both counts of a prediction.
    rare = {f"GET {path}" for path in ("/v1/without", "/v1/training", "/v1/predict")}
    rare |= {"GET /fits/{pin}.{suffix}", "GET /fits/{pin}/figures/{figure}.svg"}
    assert all(200 in seen[path] for path in seen.keys() - rare if path.startswith("GET"))
    assert max(status for statuses in seen.values() for status in statuses) < 500
