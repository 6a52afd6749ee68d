"""RASP programs: every determined token of the language, without one error."""

import numpy as np
import pytest

from sweep.data.grammars import BOYS, FRIENDS, GIRLS, MOVES, OBJECTS
from sweep.data.language import sample
from sweep.data.stories import language, moves_before
from sweep.skills.programs import (
    EQUALS,
    PLUS,
    addition,
    copy_of,
    fact,
    game_by_doubling,
    game_in_one_layer,
    game_move_by_move,
    induction,
    owned_object,
    pronoun,
)

SEQ_LEN, BATCH = 128, 200


def task_masks(grammar, drawn):
    """Truth by target token (rows, seq_len) of each kind of determined token."""
    target, skill = drawn.tokens[:, 1:], [grammar.skills[i] for i in range(len(grammar.skills))]
    names = np.array(grammar.vocab)[target]
    kept = drawn.skill == skill.index("consistency")
    answers = drawn.skill == skill.index("reasoning")
    moves = moves_before(grammar, drawn.tokens[:, :-1], MOVES)
    masks = {
        "she": kept & np.isin(names, ["she", "he"]),
        "her": kept & np.isin(names, ["her", "his"]),
        "hero": kept & np.isin(names, GIRLS + BOYS),
        "friend": kept & np.isin(names, FRIENDS),
        "object": kept & np.isin(names, OBJECTS),
        "facts": drawn.skill == skill.index("facts"),
    }
    assert np.array_equal(sum(masks[m] for m in list(masks)[:5]), kept), "a kind without a program"
    return masks | {f"{k} moves": answers & (moves == k) for k in (1, 2, 3, 4)}


def programs(grammar, taps):
    """Each kind with its program and the layers that it takes."""
    conv = taps > 1
    out = {
        "she": [(pronoun(grammar, ("she", "he")), 1)],
        "her": [(pronoun(grammar, ("her", "his")), 1)],
        "hero": [(copy_of(grammar, GIRLS + BOYS), 1)],
        "friend": [(copy_of(grammar, FRIENDS), 1)],
        "object": [(owned_object(grammar, taps), 1 if conv else 2)],
        "facts": [(fact(grammar, taps), 1)],
    }
    for k in (1, 2, 3, 4):
        out[f"{k} moves"] = [
            (game_in_one_layer(grammar, taps), 1),
            (game_by_doubling(grammar), 3),
            (game_move_by_move(grammar, k), k),
        ]
    return out


def check_programs(size, stories, taps):
    """Run all programs on rows with at least so many stories; counts of tokens by kind."""
    grammar = language(size, 0)
    count, start = {}, 0
    known = programs(grammar, taps)
    while count.get("stories", 0) < stories:
        drawn = sample(grammar, stream="rasp", seed=0, start=start, count=BATCH, seq_len=SEQ_LEN)
        start += BATCH
        once = grammar.vocab.index("once")
        count["stories"] = count.get("stories", 0) + int((drawn.tokens == once).sum())
        for kind, mask in task_masks(grammar, drawn).items():
            if not mask.any():
                continue
            count[kind] = count.get(kind, 0) + int(mask.sum())
            for program, layers in known[kind]:
                found = program(drawn.tokens[:, :-1])
                assert found.layers == layers, kind
                wrong = mask & (found.values != drawn.tokens[:, 1:])
                assert not wrong.any(), f"{kind}: {int(wrong.sum())} wrong"
    return count


@pytest.mark.parametrize(("size", "taps"), [("full", 3), ("full", 1), ("skills", 3)])
def test_programs_predict_every_determined_token(size, taps):
    count = check_programs(size, 300, taps)
    needed = {f"{k} moves" for k in (1, 2, 3, 4)} | {"facts", "she", "her"}
    assert needed <= count.keys() and (
        size != "full" or {"hero", "friend", "object"} <= count.keys()
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", ["full", "skills"])
def test_programs_predict_ten_thousand_stories_without_an_error(size):
    assert check_programs(size, 10_000, 3)["stories"] >= 10_000


def test_too_few_layers_of_single_moves_leave_longer_games_unsolved():
    grammar = language("skills", 0)
    drawn = sample(grammar, stream="rasp", seed=0, start=0, count=BATCH, seq_len=SEQ_LEN)
    mask = task_masks(grammar, drawn)["4 moves"]
    found = game_move_by_move(grammar, 3)(drawn.tokens[:, :-1])
    assert (found.values[mask] != drawn.tokens[:, 1:][mask]).all()


def test_depth_saves_hidden_units_of_the_counting_game():
    grammar = language("skills", 0)
    tokens = np.zeros((1, 8), int)
    built = (
        game_in_one_layer(grammar, 3),
        game_by_doubling(grammar),
        game_move_by_move(grammar, 4),
    )
    made = [program(tokens) for program in built]
    assert [m.layers for m in made] == [1, 3, 4]
    assert [m.units for m in made] == [13**5, 25**2, 13 * 9]


@pytest.mark.parametrize(("taps", "layers"), [(1, 2), (3, 1)])
def test_induction_recalls_what_followed_the_same_token(taps, layers):
    random, vocab = np.random.default_rng(0), 40
    for _ in range(50):
        keys = random.permutation(vocab // 2)[:8]
        values = vocab // 2 + random.integers(vocab // 2, size=8)
        row = np.stack([keys, values], axis=1).ravel()
        which = random.integers(8)
        found = induction(vocab, taps)(np.append(row, keys[which])[None])
        assert found.values[0, -1] == values[which] and found.layers == layers


@pytest.mark.parametrize("places", [1, 2, 3])
def test_addition_is_right_for_all_or_many_pairs(places):
    top = 10**places
    pairs = np.array(np.meshgrid(np.arange(top), np.arange(top))).reshape(2, -1).T
    if places == 3:
        pairs = np.random.default_rng(0).choice(pairs, 10_000, replace=False)
        pairs[:3] = [[999, 1], [445, 555], [99, 901]]
    powers = 10 ** np.arange(places)[::-1]
    a, b, total = (v[:, None] // powers % 10 for v in (*pairs.T, pairs.sum(axis=1)))
    signs = [np.full((len(pairs), 1), s) for s in (PLUS, EQUALS)]
    tokens = np.hstack([a, signs[0], b, signs[1], total])
    found = addition(places, taps=3)(tokens[:, :-1])
    assert np.array_equal(found.values[:, -places:], total)
    assert found.layers == 2 and found.units == 23 * 23
