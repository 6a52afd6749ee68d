"""Where repeats of limited data stop paying."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fit.allocation.costs import DOUBLING_POINTS, WORTH_HAVING, where_repeats_stop
from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.laws.families import DECAY_PARAMS, DECAY_TOKENS
from fit.laws.published import preset
from fit.query.answer import query

SOURCE = ScalingLaw.from_preset(preset("besiroglu2024"))


def repeated_loss(flops, unique):
    """The least loss at a budget by a grid over sizes, with the formulas of the paper.

    Muennighoff et al. 2023, eqs. 5 to 7, with N_U, the best size of the unique tokens, solved from
    the frontier of the law without repeats.
    """
    theta = preset("besiroglu2024").theta
    e, a, b = (theta[k] for k in ("E", "A", "B"))
    alpha, beta = theta["alpha"], theta["beta"]
    best = (alpha * a / (beta * b) * unique**beta) ** (1 / alpha)
    n = np.exp(np.linspace(np.log(1e6), np.log(1e13), 200_001))
    d = flops / (6 * n)

    def worth(value, fresh, decay):
        used = np.minimum(value, fresh)
        return used + used * decay * (1 - np.exp(-(np.maximum(value / used, 1) - 1) / decay))

    d_worth = worth(d, unique, DECAY_TOKENS)
    n_worth = np.minimum(n, worth(n, best, DECAY_PARAMS))
    return float((e + a / n_worth**alpha + b / d_worth**beta).min())


@pytest.mark.parametrize("unique", [1e9, 5e9, 1e11])
def test_the_budget_from_which_a_doubling_is_not_worth_having_is_that_of_a_grid(unique):
    stop = where_repeats_stop(SOURCE, unique, 1e21)
    assert stop is not None

    def share(flops):
        fresh = [repeated_loss(c, 1e30) for c in (flops, 2 * flops)]
        repeated = [repeated_loss(c, unique) for c in (flops, 2 * flops)]
        return (repeated[0] - repeated[1]) / (fresh[0] - fresh[1])

    step = 2 ** (1 / DOUBLING_POINTS)
    assert share(stop.flops * 1.02) < WORTH_HAVING < share(stop.flops / step / 1.02)
    assert stop.loss == pytest.approx(repeated_loss(stop.flops, unique), abs=2e-4)
    assert stop.gain == pytest.approx(stop.loss - repeated_loss(2 * stop.flops, unique), abs=2e-4)
    # The paper calls further repeats worthless from about 40 epochs on.
    assert 25 < stop.epochs < 60


def test_the_place_does_not_depend_on_where_the_question_was():
    near, far = (where_repeats_stop(SOURCE, 5e9, flops) for flops in (1e20, 1e23))
    assert near is not None and far is not None
    assert abs(np.log(near.flops / far.flops)) <= np.log(2) / DOUBLING_POINTS
    assert where_repeats_stop(SOURCE, 1e29, 1e20) is None


def test_an_answer_says_where_to_stop_and_warns_beyond_it():
    inside, beyond = (query(SOURCE, flops, unique_tokens="5B") for flops in ("1e21", "1e23"))
    notes = [{n.code: n for n in found.warnings}["where_to_stop"] for found in (inside, beyond)]
    assert [n.severity for n in notes] == ["info", "warning"]
    assert "Beyond it get more data" in notes[0].message
    assert "Spend less, or get more data" in notes[1].message
    args = ["query", "1e23", "--law", "besiroglu2024", "--unique-tokens", "5B"]
    assert "[where_to_stop]" in CliRunner().invoke(main, args).stdout  # among the first three
    assert "where_to_stop" not in {n.code for n in query(SOURCE, "1e21").warnings}


def test_a_memory_limit_says_what_it_holds_in_fewer_bits():
    found = query(SOURCE, "1e23", memory="8GB")
    (note,) = [n for n in found.warnings if n.code == "memory"]
    assert note.message.startswith("8.00GB hold 4.00B in bf16, 8.00B in int8, 16.0B in int4")
    for size, params in ((2, 4e9), (1, 8e9), (0.5, 16e9)):
        asked = query(SOURCE, "1e24", memory="8GB", bytes_per_param=size)
        assert asked.params.value == pytest.approx(params)


def test_with_served_tokens_the_note_says_what_the_budget_covers():
    found = query(SOURCE, "1e21", serve_tokens="100B")
    (note,) = [n for n in found.warnings if n.code == "serving"]
    assert found.cost is not None and found.cost.serving_flops is not None
    shares = [c.value / 1e21 for c in (found.cost.training_flops, found.cost.serving_flops)]
    assert sum(shares) == pytest.approx(1)
    assert f"the training ({shares[0]:.0%} of it) and 100B served tokens ({shares[1]:.0%})" in (
        note.message
    )
    capped = query(SOURCE, "1e22", serve_tokens="100B", max_params="1B", max_tokens="100B")
    (note,) = [n for n in capped.warnings if n.code == "serving"]
    assert "of it is left over, by the limits" in note.message


def test_which_data_set_is_better_is_answered_by_the_commands_that_would_tell():
    shown = CliRunner().invoke(main, ["explain", "which-data", "--json"])
    (entry,) = json.loads(shown.stdout)["notes"]
    for words in ("common", "bits per byte", "isoflop fit a.csv", "isoflop compare"):
        assert words in f"{entry['todo']} {entry['why']}", words
