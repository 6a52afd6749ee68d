"""Whether two laws can be compared."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.comparison.compare import (
    comparable_unit,
    compare,
    comparison_warnings,
    counted_alike,
)
from fit.errors import QueryError
from fit.laws.published import preset
from fit.results import Span, read_fit
from tests.fit.comparison.builders import fitted, sweep_table

BOOKS = {"name": "books", "hash": "sha256:1", "bytes_per_token": 4.0}
FIT = fitted(sweep_table(seed=1))


def source(data=BOOKS, convention=None, vocab=None, **changes):
    columns = {} if vocab is None else {"vocab": np.full(36, float(vocab))}
    points = dataclasses.replace(FIT.points, columns=columns)
    given = {"data": data, "points": points, **changes}
    if convention is not None:
        given["convention"] = {**FIT.convention, "flops": convention}
    return ScalingLaw.from_fit(dataclasses.replace(FIT, **given))


def test_one_data_set_is_compared_in_nats():
    assert comparable_unit(source(), source(), force=False) == ((1.0, 1.0), "nats/token", [])


def test_two_tokenizers_on_one_text_are_compared_in_bits_per_byte():
    other = source({**BOOKS, "hash": "sha256:2", "bytes_per_token": 2.0})
    (a, b), unit, notes = comparable_unit(source(), other, force=False)
    assert (a, b) == (math.log(2) * 4, math.log(2) * 2)
    assert unit == "bits/byte"
    assert [n.code for n in notes] == ["per_byte"]


def test_the_multiplier_in_bits_per_byte_is_that_of_the_bytes():
    # half the bytes in a token and half the loss of a token: the same bits per byte
    theta = {k: v / 2 if k in "EAB" else v for k, v in FIT.theta.items()}
    other = source({**BOOKS, "hash": "sha256:2", "bytes_per_token": 2.0}, theta=theta)
    found = compare(source(), other, flops=(1e20,))
    assert found.unit == "bits/byte"
    assert found.rows[0].multiplier.value == pytest.approx(1.0)
    assert found.rows[0].loss_a == pytest.approx(found.rows[0].loss_b)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": {"name": "news", "hash": "sha256:3", "bytes_per_token": 4.0}}, "on news"),
        ({"data": {"name": "books", "hash": "sha256:3"}}, "different data named books"),
        ({"data": {**BOOKS, "hash": "sha256:3", "entropy": 1.0}}, "different data named books"),
        ({"convention": "exact"}, "counts 6nd FLOPs"),
    ],
)
def test_losses_or_flops_of_two_kinds_are_refused_unless_forced(other, message):
    with pytest.raises(QueryError, match=message) as caught:
        comparable_unit(source(), source(**other), force=False)
    assert "--force" in str(caught.value)
    notes = comparable_unit(source(), source(**other), force=True)[2]
    assert "serious" in [n.severity for n in notes]


def test_vocabularies_of_two_sizes_are_refused():
    with pytest.raises(QueryError, match="vocabularies have 500 and 1000 tokens"):
        comparable_unit(source({}, vocab=500), source({}, vocab=1000), force=False)


def test_what_is_not_known_is_said():
    codes = [n.code for n in comparable_unit(source({}), source({}), force=False)[2]]
    assert codes == ["data_unknown"]
    codes = [
        n.code for n in comparable_unit(source(convention="as given"), source(), force=False)[2]
    ]
    assert codes == ["flops_unknown"]


def test_published_laws_of_one_data_set_can_be_compared_and_of_two_cannot():
    law = {
        n: ScalingLaw.from_preset(preset(n))
        for n in ("hoffmann2022", "besiroglu2024", "gadre2024", "muennighoff2023")
    }
    assert comparable_unit(law["hoffmann2022"], law["besiroglu2024"], force=False)[2] == []
    assert comparable_unit(law["gadre2024"], law["muennighoff2023"], force=False)[1] == "nats/token"
    with pytest.raises(QueryError, match="MassiveText"):
        comparable_unit(law["hoffmann2022"], law["gadre2024"], force=False)


def test_ranges_that_do_not_meet_are_said():
    far = fitted(
        dataclasses.replace(sweep_table(seed=1, sizes=1e6), tokens=sweep_table(seed=1).tokens * 1e6)
    )
    notes = comparison_warnings(source(), ScalingLaw.from_fit(far), None)
    assert notes[0].code == "no_overlap"
    assert "no budget lies within both ranges" in notes[0].message


def test_a_doubt_about_both_is_said_once():
    doubtful = source(kappa=400.0)
    notes = comparison_warnings(doubtful, doubtful, (1.0, 2.0))
    assert [n.code for n in notes] == ["ill_conditioned"]
    assert notes[0].message.startswith("synthetic: ")


REFERENCE = read_fit(Path(__file__).parents[3] / "reports" / "reference")


def counted_6nd(params="matmul"):
    """The reference fit with compute as 6 N D, N the matmul or all parameters of the same runs."""
    columns = REFERENCE.points.columns
    n = sum(columns[f"params_{g}"] for g in ("body", "head", "embedding", "other"))
    n = n if params == "total" else REFERENCE.points.params
    points = dataclasses.replace(REFERENCE.points, params=n, flops=6 * n * REFERENCE.points.tokens)
    convention = {**REFERENCE.convention, "params": params, "flops": "6nd"}
    spans = {**REFERENCE.range, "flops": Span(low=points.flops.min(), high=points.flops.max())}
    return ScalingLaw.from_fit(
        dataclasses.replace(
            REFERENCE, name="other", points=points, convention=convention, range=spans
        )
    )


def test_one_law_in_two_counts_of_flops_needs_its_own_compute():
    found = compare(ScalingLaw.from_fit(REFERENCE), counted_6nd())
    assert [r.multiplier.value for r in found.rows] == pytest.approx([1.0] * len(found.rows))
    assert found.warnings[0].code == "other_flops"
    assert "as exact FLOPs" in found.warnings[0].message
    assert found.shared == pytest.approx(dataclasses.astuple(REFERENCE.range["flops"]), rel=0.1)


def test_counts_by_matmul_and_by_all_parameters_become_one():
    exact, matmul, total = ScalingLaw.from_fit(REFERENCE), counted_6nd(), counted_6nd("total")
    other = matmul.counted(total.convention)
    p = total.fit.points
    n = matmul.fit.points.params
    cost = np.exp(other.cost.log_flops_per_token(np.log(n)))
    assert cost == pytest.approx(6 * p.params, rel=0.01), "all parameters, by matmul ones"
    assert other.range["flops"].high == pytest.approx(p.flops.max(), rel=0.01)
    assert counted_alike(matmul, matmul)[2] == []
    published = ScalingLaw.from_preset(preset("hoffmann2022"))
    one, two, (note,) = counted_alike(exact, published)
    assert two is published and "as 6 N D of total parameters" in note.message
    assert np.exp(one.cost.log_flops_per_token(np.log(n))) == pytest.approx(6 * p.params, rel=0.01)
