"""From words to a question."""

import dataclasses

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import FieldError
from fit.laws.published import preset
from fit.query.question import FIELDS, Question, question

SOURCE = ScalingLaw.from_preset(preset("besiroglu2024"))


def test_the_fields_are_those_of_a_question():
    names = {f.name for f in dataclasses.fields(Question)} - {"source"}
    assert set(FIELDS) == names
    assert {other for row in FIELDS.values() for other in (*row.needs, *row.excludes)} <= names


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_params", "7B", 7e9),
        ("max_tokens", "1.4T", 1.4e12),
        ("unique_tokens", 25e9, 25e9),
        ("memory", "8GB", 8e9),
        ("memory", "80 GiB", 80 * 2**30),
        ("memory", "8e9", 8e9),
        ("memory", "512mb", 512e6),
        ("memory", "512 B", 512.0),
        ("min_ratio", "20", 20.0),
        ("serve_tokens", 10**12, 1e12),
        ("max_params", " 3 ", 3.0),
        ("regret", "yes", True),
        ("force", True, True),
        ("force", "0", False),
    ],
)
def test_people_write_numbers_as_they_like(name, text, value):
    fields = {"flops": "1e21", name: text, "max_ratio": None}
    assert getattr(question(SOURCE, fields), name) == value


def test_a_share_is_a_number_or_a_percentage():
    fields = {"hours": "10k", "device": "h100"}
    assert question(SOURCE, {**fields, "mfu": "40%"}).mfu == pytest.approx(0.4)
    assert question(SOURCE, {**fields, "mfu": 0.4}).mfu == 0.4
    assert question(SOURCE, fields).hours == 1e4


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({}, "flops", "no budget was given; exactly one of"),
        ({"flops": 1e21, "loss": 2}, "loss", "given 2 times, as --flops and --loss"),
        ({"flops": "7B"}, "flops", "counts parameters or tokens"),
        ({"flops": "1e21", "max_parms": 3}, "max_parms", "unknown field 'max_parms'; known are"),
        ({"flops": "1e21", "max_params": "many"}, "max_params", "max_params is 'many'"),
        ({"flops": "1e21", "memory": "8 apples"}, "memory", "such as 8GB"),
        ({"flops": "1e21", "memory": "8"}, "memory", "write it, such as 8GB"),
        ({"flops": "1e21", "memory": 8}, "memory", "write it, such as 8GB"),
        ({"flops": "1e21", "memory": "..GB"}, "memory", "such as 8GB"),
        ({"loss": "2 nats"}, "loss", "a positive finite number is needed, such as 3.2"),
        ({"loss": True}, "loss", "loss is 'True'"),
        ({"loss": [2, 3]}, "loss", "loss is '[2, 3]'"),
        ({"loss": "nan"}, "loss", "loss is 'nan'"),
        ({"dollars": 1e4}, "device", "--dollars was given without --device"),
        ({"hours": 1e4}, "device", "--hours was given without --device"),
        ({"deadline": 24, "device": "h100"}, "devices", "without --devices"),
        ({"flops": 1e21, "price": 2}, "device", "--price was given without --device"),
        ({"flops": 1e21, "bytes_per_param": 2}, "memory", "without --memory"),
        ({"hours": 9, "device": "h100", "mfu": "400%"}, "mfu", "a share up to 1 is needed"),
        ({"hours": 9, "device": "h100", "devices": 1.5}, "devices", "a whole number is needed"),
        ({"hours": 9, "device": " "}, "device", "device is empty"),
        ({"flops": 1e21, "params": 1e9, "tokens": 1e9}, "tokens", "nothing is left to choose"),
        ({"flops": 1e21, "params": 1e9, "max_params": 2e9}, "max_params", "leave one of them out"),
        ({"flops": 1e21, "regret": "perhaps"}, "regret", "true or false"),
        (
            {"deadline": 9, "device": "h100", "devices": 8, "serve_tokens": 1e9},
            "serve_tokens",
            "limits the training alone",
        ),
    ],
)
def test_what_cannot_be_meant_names_its_field(fields, field, words):
    with pytest.raises(FieldError) as caught:
        question(SOURCE, fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_number_that_is_not_positive_and_finite_is_refused(value):
    with pytest.raises(FieldError, match="positive finite number"):
        Question(source=SOURCE, flops=1e21, max_params=value)
