"""Refusals in the words of the interface, in one shape."""

import pytest

from fit.errors import FieldError, FitError
from fit.service.errors import RequestError, error_body, field_words, request_error_of, unknown_name


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("or insist with --force.", "or insist with `force=true`."),
        (
            "--dollars was given without --price and --device; give both.",
            "`dollars` was given without `price` and `device`; give both.",
        ),
        ("Name yours: --column params=YOURS", "Name yours: `column=params=YOURS`"),
        ("--column 'loss=val loss'", "`column=loss=val loss`"),
        ("Ask for more: --resamples 400.", "Ask for more: `resamples=400`."),
        ("leave it out: --weight none.", "leave it out: `weight=none`."),
        ("Use --interval hc3.", "Use `interval=hc3`."),
        ("delta applies to --loss huber alone", "delta applies to `loss` huber alone"),
        ("exactly one of FLOPS (flops), --dollars", "exactly one of `flops`, `dollars`"),
        ("--max-params 1e6 and --params 2e6", "`max_params=1e6` and `params=2e6`"),
        ("ask: isoflop predict --params N --tokens D", "ask: /v1/predict?params=N&tokens=D"),
        ("with one count (isoflop fit RUNS --flops 6nd), or", None),
        ("leave them out: --where 'x > 0'", "leave them out: isoflop fit --where 'x > 0'"),
        ("Add sizes or lengths: python -m sweep -m ...", "Add sizes or lengths."),
        ("Invalid value for '--law': '--help'", "Invalid value for `law`: '--help'"),
        ("there is no fit '--force'", None),
        ("a 5-parameter law, 40--160", None),
    ],
)
def test_options_of_the_command_become_fields(message, words):
    assert field_words(message) == (message if words is None else words)


def test_an_error_of_a_question_keeps_its_field_and_is_said_in_fields():
    error = request_error_of(FieldError("--hours was given without --device; give both.", "device"))
    assert (error.status, error.kind, error.field) == (422, "question", "device")
    assert error.message == "`hours` was given without `device`; give both."
    assert request_error_of(FitError("Use --interval hc3")).message == "Use `interval=hc3`"


def test_what_was_sent_comes_back_short():
    error = unknown_name("fit", "x" * 200_000, ["pilot"], "y" * 200_000)
    body = error_body(error)["error"]
    assert len(body["message"]) < 200 and body["message"].endswith("known are pilot.")
    assert len(body["field"]) <= 80


def test_a_status_brings_its_headers():
    assert RequestError(503, "busy", "").headers.keys() == {"retry-after"}
    assert RequestError(429, "busy", "").headers.keys() == {"retry-after"}
    assert RequestError(401, "unauthorized", "").headers == {"www-authenticate": "Bearer"}
    assert RequestError(404, "not_found", "").headers == {}
