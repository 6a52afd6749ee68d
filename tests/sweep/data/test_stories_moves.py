"""Answers of the counting game by their number of moves."""

import numpy as np
import pytest

from sweep.data.language import LANE, sample
from sweep.data.stories import MOVES, language, moves_before, parts_by_moves


def test_moves_are_counted_back_from_every_token():
    grammar = language("skills", 0)
    words = "mom counts glad hop spin glad . clap clap wave sad hop"
    row = np.array([[grammar.vocab.index(w) for w in words.split()]])
    assert moves_before(grammar, row, MOVES).tolist() == [[0, 0, 0, 1, 2, 0, 0, 1, 2, 3, 0, 1]]


def test_the_ideal_loss_of_an_answer_is_the_choice_to_end_the_game_there():
    grammar = language("skills", 0)
    drawn = sample(grammar, stream="moves", seed=0, start=0, count=200, seq_len=128)
    part, names = parts_by_moves(grammar, drawn, MOVES)
    assert names == ("1 move", "2 moves", "3 moves", "4 moves")
    answers = drawn.skill == grammar.skills.index("reasoning")
    assert np.array_equal(part < 4, answers)
    for k in (1, 2, 3, 4):
        *_, ending = grammar.states[f"game{k + 1}"]
        assert drawn.ideal[part == k - 1] == pytest.approx(-np.log(ending.count / LANE), abs=1e-6)


def test_a_language_without_the_game_has_no_such_parts():
    grammar = language("demo", 0)
    drawn = sample(grammar, stream="moves", seed=0, start=0, count=20, seq_len=64)
    part, names = parts_by_moves(grammar, drawn, MOVES)
    assert names == () and not part.any()
