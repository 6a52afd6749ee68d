"""Tables as people have them, sent to the service."""

import pytest

from tests.fit.data.kinds import KINDS
from tests.fit.service.client import ask, pilot, service

TYPES = {"csv": "text/csv", "gz": "text/csv", "jsonl": "application/jsonl"}


FAST = ("two_conditions", "compressed")
"""A fit in a worker takes seconds: the other kinds are slow tests."""


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in KINDS]
)
def test_a_kind_of_table_is_fitted_when_it_is_sent_in(tmp_path, name):
    kind = KINDS[name]
    fields = [
        (o.removeprefix("--"), v)
        for o, v in zip(kind.options[::2], kind.options[1::2], strict=True)
    ]
    served = service(pilot(tmp_path))
    reply = ask(
        served,
        "/v1/fits",
        method="POST",
        params=[("resamples", "20"), *fields],
        content=kind.data,
        headers={"content-type": TYPES[kind.file.split(".")[-1]]},
    )
    assert reply.status_code == 201, reply.text
    document = reply.json()
    served.close()
    assert document["runs_used"] == kind.runs
    assert document["theta"]["alpha"] == pytest.approx(kind.theta["alpha"], abs=0.03)
