"""Words of the plan beside Hydra's."""

import pytest

from fit.errors import PlanError
from sweep.planning.bill import split_plan_options


def test_the_plan_takes_its_own_words_and_leaves_hydras():
    terms, rest = split_plan_options(
        ["model=w16,w24", "price=2.5", "spend.dollars=5", "measure=off", "sweep.flops=1e11"]
    )
    assert rest == ["model=w16,w24", "sweep.flops=1e11"]
    assert (terms.price, terms.dollars, terms.measure) == (2.5, 5.0, False)
    assert terms.limited and not split_plan_options(["price=1"])[0].limited


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["price=cheap"], "price is 'cheap'"),
        (["measure=perhaps"], "on or off"),
        (["workers=1.5"], "whole number"),
        (["spend.dollars=5"], "price"),
        (["spend.minutes=5"], "known are spend.hours"),
        (["spend.flops=7B"], "FLOP"),
        (["spend.target=1e15"], "spend.hours"),
        (["spend.hours=1", "spend.prior="], "empty"),
    ],
)
def test_a_wrong_word_is_one_line_that_says_what_is_needed(words, said):
    with pytest.raises(PlanError, match=said) as error:
        split_plan_options(words)
    assert "\n" not in str(error.value)
