"""Keyed permutations: every value once, another order for another key."""

import numpy as np
import pytest

from sweep.data.rows import key_of, permuted


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 65_537])
def test_a_permutation_gives_every_value_once(size):
    found = permuted(np.arange(size), size, 7, 0)
    assert np.array_equal(np.sort(found), np.arange(size))


def test_any_part_of_a_permutation_can_be_had_alone():
    whole = permuted(np.arange(5000), 5000, 3)
    assert np.array_equal(permuted(np.arange(1234, 1300), 5000, 3), whole[1234:1300])


def test_other_keys_give_other_orders():
    orders = [permuted(np.arange(400), 400, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two random orders of 400 agree at 1 place on average; above 8 has odds below 1e-5.
            assert (one == other).sum() < 9


def test_first_places_are_uniform_over_keys():
    size, keys = 37, 3000
    seen = np.bincount(
        [int(permuted(np.array([0]), size, k)[0]) for k in range(keys)], minlength=37
    )
    expected = keys / size
    # Chi-square with 36 degrees of freedom: mean 36, deviation 8.5; 5 deviations either way.
    assert 6 < ((seen - expected) ** 2 / expected).sum() < 80


def test_keys_of_negative_and_huge_integers_differ():
    keys = {int(key_of(*parts)[0]) for parts in [(0,), (-1,), (-2,), (2**70 + 5,), (0, 0), (0, 1)]}
    assert len(keys) == 6
