"""The same questions to two versions of the code: do they answer the same?

`python -m tests.bench.answers write FILE FIT...` asks each fit, and the published laws, questions
of every kind and keeps the documents; `python -m tests.bench.answers compare FILE OTHER` gives the
largest relative difference of a number by its field, and every word that differs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import ScalingError
from fit.query.answer import predict
from fit.query.answer import query as ask
from fit.service.routes import curves

PUBLISHED = ("besiroglu2024", "hoffmann2022", "kaplan2020")
REACHES = (0.05, 0.7, 3.0, 20.0, 300.0)
"""Budgets over the largest one fitted."""
DEVICE: dict[str, Any] = {"device": "h100"}


def questions(flops: float, params: float, tokens: float, loss: float) -> Iterator[dict[str, Any]]:
    """Questions of every kind around an answer."""
    yield from ({"flops": flops * reach} for reach in REACHES)
    for limits in (
        {"max_params": params / 2},
        {"min_params": 2 * params},
        {"params": 1.5 * params},
        {"max_tokens": tokens / 3},
        {"tokens": tokens / 2},
        {"max_ratio": tokens / params / 2},
        {"min_ratio": 2 * tokens / params},
        {"memory": 3 * params},
        {"memory": params, "bytes_per_param": 1.0},
        {"serve_tokens": 3 * tokens},
        {"serve_tokens": 30 * tokens, "max_params": params},
        {"unique_tokens": tokens / 5},
        {"unique_tokens": tokens / 5, "max_params": params / 2},
        {"regret": True},
        {"force": True},
    ):
        yield {"flops": flops, **limits}
    for limits in ({}, {"max_params": params / 2}, {"serve_tokens": tokens}, {"tokens": tokens}):
        yield {"loss": loss, **limits}
    hour = 3600 * 989e12 * 0.4
    yield {"dollars": 3 * flops / hour, **DEVICE, "mfu": 0.4, "price": 3.0}
    yield {"dollars": 3 * flops / hour, **DEVICE, "serve_tokens": tokens}
    yield {"hours": flops / hour, **DEVICE, "max_params": params}
    yield {"deadline": flops / hour / 8, **DEVICE, "devices": 8}


def documents(name: str) -> Iterator[tuple[str, Any]]:
    """Answers, predictions and curves of one law."""
    source = ScalingLaw.of(name)
    flops = 3.3 * source.range["flops"].high if "flops" in source.range else 1e22
    base = ask(source, flops, force=True)
    around = (flops, base.params.value, base.tokens.value, base.loss.value)
    around = tuple(float(f"{value:.9g}") for value in around)  # the same, whatever the rounding
    for fields in questions(*around):
        try:
            yield json.dumps(fields), ask(source, **fields).document()
        except ScalingError as error:
            yield json.dumps(fields), {"error": str(error)}
    for size in (0.1, 1.0, 4.0):
        try:
            document = predict(source, size * around[1], around[2] / size).document()
        except ScalingError as error:
            document = {"error": str(error)}
        yield f"predict {size:g}", document
    if source.fit is not None:
        yield "curves", curves(source)


def differences(one: Any, other: Any, field: str) -> Iterator[tuple[str, float, Any, Any]]:
    """Field, relative difference and both values wherever two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{field}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for a, b in zip(one, other, strict=True):
            yield from differences(a, b, field)
    elif isinstance(one, float) and isinstance(other, float):
        if one != other:
            yield field, abs(one - other) / max(abs(one), abs(other)), one, other
    elif one != other:
        yield field, math.inf, one, other


def main(command: str, file: str, *names: str) -> None:
    """Write the documents of fits, or compare two files of them."""
    if command == "write":
        begun = time.process_time()
        found = {n: dict(documents(n)) for n in (*names, *PUBLISHED)}
        Path(file).write_text(json.dumps(found))
        count = sum(len(v) for v in found.values())
        print(f"{count} documents, {time.process_time() - begun:.2f} s of processor")
        return
    before, after = (json.loads(Path(path).read_text()) for path in (file, names[0]))
    worst: dict[str, tuple[float, str]] = {}
    same = total = 0
    for name in before:
        for text, one in before[name].items():
            found = list(differences(one, after[name][text], ""))
            total, same = total + 1, same + (not found)
            for field, gap, a, b in found:
                said = f"{name} {text}: {a!r} {b!r}"
                worst[field] = max(worst.get(field, (0.0, "")), (gap, said))
    print(f"{same} of {total} documents are the same to the last bit")
    for field, (gap, text) in sorted(worst.items(), key=lambda item: -item[1][0]):
        print(f"{gap:8.1e}  {field.removeprefix('.'):32} {text[:160]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
