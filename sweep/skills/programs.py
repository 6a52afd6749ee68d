"""RASP programs for the tasks of the language of stories, and for addition.

A program takes tokens (rows, positions) and gives, at every position, the token that comes next if
it is one of the program's kind. Its `layers` are an upper bound of what the task needs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sweep.data.grammars import LONGEST_GAME, MOVES, OBJECTS
from sweep.data.language import Language, Recall, Segment, Update
from sweep.skills.rasp import (
    SOp,
    Values,
    earliest,
    inputs,
    latest,
    lookup,
    select,
    shifted,
)

Program = Callable[[Values], SOp]


def copy_of(grammar: Language, words: list[str]) -> Program:
    """The latest of some words: one layer."""
    among = _members(grammar, words)

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        return latest(select(x, table=among), x)

    return program


def pronoun(grammar: Language, words: tuple[str, str]) -> Program:
    """The pronoun of the hero, by the latest `girl` or `boy`: one layer."""
    number = _numbers(grammar)
    spelled = np.zeros(len(grammar.vocab), np.int64)
    spelled[[number["girl"], number["boy"]]] = [number[w] for w in words]
    gender = copy_of(grammar, ["girl", "boy"])
    return lambda tokens: lookup(spelled, gender(tokens))


def owned_object(grammar: Language, taps: int) -> Program:
    """The hero's object, which alone stands before a full stop; found ones do not."""
    objects = _members(grammar, OBJECTS)
    stop = _members(grammar, ["."])

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        before = shifted(x, 1, taps=taps)
        return latest(select(x, table=stop) & select(before, table=objects), before)

    return program


def fact(grammar: Language, taps: int) -> Program:
    """The thing of (activity, three syllables): gathered by distance, then one table."""
    recall, owner = next(
        (slot, segment)
        for segment in _segments(grammar)
        for slot in segment.slots
        if isinstance(slot, Recall) and slot.skill == "facts"
    )
    draws = {slot.var: slot for slot in owner.slots if hasattr(slot, "var")}
    orders = []
    for name in recall.given:
        order = np.zeros(len(grammar.vocab), np.int64)
        order[draws[name].tokens] = np.arange(len(draws[name].tokens))  # type: ignore[union-attr]
        orders.append(order)

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        read = [
            lookup(o, shifted(x, lag, taps=taps))
            for o, lag in zip(orders, (3, 2, 1, 0), strict=True)
        ]
        return lookup(recall.table, *read)

    return program


def induction(vocab: int, taps: int) -> Program:
    """Associative recall: what stood after the latest earlier occurrence of the present token."""
    same = np.eye(vocab, dtype=bool)

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        return latest(select(shifted(x, 1, taps=taps), x, same), x)

    return program


STATES, OTHER = 8, 8
"""States of the game, and the number that stands for none."""


class _Game:
    """The rules of the counting game as tables."""

    def __init__(self, grammar: Language) -> None:
        number = _numbers(grammar)
        answer = next(
            slot
            for segment in _segments(grammar)
            for slot in segment.slots
            if isinstance(slot, Recall) and slot.skill == "reasoning"
        )
        self.feelings = np.append(answer.table, 0)
        self.moves = np.zeros((len(MOVES), STATES), np.int64)
        for segment in grammar.states["game1"]:
            token, update = segment.slots
            assert isinstance(update, Update)
            self.moves[MOVES.index(grammar.vocab[token.token])] = update.table  # type: ignore[union-attr]
        # Classes of tokens: 0-7 feelings, 8 any other word, 9-12 moves.
        self.kinds = np.full(len(grammar.vocab), OTHER)
        self.kinds[answer.table] = np.arange(STATES)
        self.kinds[[number[m] for m in MOVES]] = OTHER + 1 + np.arange(len(MOVES))
        self.classes = OTHER + 1 + len(MOVES)


def game_in_one_layer(grammar: Language, taps: int) -> Program:
    """The state after up to four moves by one table of all games: hidden units grow as 8 4^k."""
    game = _Game(grammar)
    table = np.full((game.classes,) * (LONGEST_GAME + 1), OTHER)
    states, first = np.arange(STATES), OTHER + 1
    for count in range(1, LONGEST_GAME + 1):
        for played in np.ndindex((len(MOVES),) * count):
            ends = states
            for move in played:
                ends = game.moves[move][ends]
            before = (slice(None),) * (LONGEST_GAME - count)
            table[(*before, states, *(first + m for m in played))] = ends

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        lags = range(LONGEST_GAME, -1, -1)
        read = [lookup(game.kinds, shifted(x, lag, taps=taps)) for lag in lags]
        return lookup(game.feelings, lookup(table, *read))

    return program


def game_move_by_move(grammar: Language, moves: int) -> Program:
    """The state after up to so many moves, one layer per move and 117 hidden units in each."""
    game = _Game(grammar)
    step = np.full((game.classes, STATES + 1), OTHER)
    step[:STATES] = np.arange(STATES)[:, None]
    step[OTHER + 1 :, :STATES] = game.moves

    def program(tokens: Values) -> SOp:
        kind = lookup(game.kinds, inputs(tokens))
        state = lookup(np.where(np.arange(game.classes) < STATES, np.arange(game.classes), 8), kind)
        for _ in range(moves):
            before = latest(select(state, distances=_at(tokens, 1)), state, OTHER)
            state = lookup(step, kind, before)
        return lookup(game.feelings, state)

    return program


def game_by_doubling(grammar: Language) -> Program:
    """The state after up to four moves: pairs of moves first, then pairs on states.

    Three layers, 1 + log2(4); pairs are 9-24, states 0-7 and 8 neither.
    """
    game, count = _Game(grammar), len(MOVES)
    first, wide = OTHER + 1, OTHER + 1 + len(MOVES) ** 2
    joined = np.full((game.classes, game.classes), OTHER)
    joined[:, :STATES] = np.arange(STATES)
    joined[:STATES, first:] = game.moves.T
    joined[first:, first:] = first + np.arange(count**2).reshape(count, count)
    pairs = np.array([game.moves[b][game.moves[a]] for a in range(count) for b in range(count)])
    played = np.tile(np.arange(wide), (wide, 1))
    played[:STATES, first:] = pairs.T

    def program(tokens: Values) -> SOp:
        kind = lookup(game.kinds, inputs(tokens))
        before = latest(select(kind, distances=_at(tokens, 1)), kind, OTHER)
        state = lookup(joined, before, kind)
        for _ in range(2):
            earlier = latest(select(state, distances=_at(tokens, 2)), state, OTHER)
            state = lookup(played, earlier, state)
        ends = np.append(game.feelings, np.zeros(wide - STATES - 1, np.int64))
        return lookup(ends, state)

    return program


PLUS, EQUALS = 10, 11
"""Tokens of sums beside the digits: 1 2 3 + 4 5 6 = 5 7 9, the highest place first."""


def addition(places: int, taps: int) -> Program:
    """Digits of a sum modulo 10^places, two layers.

    Each digit of the second number is added to that of the first, places + 1 before it. A place of
    the sum gets a carry from the nearest lower place whose digits do not add up to 9.
    """
    pair = np.add.outer(np.arange(12), np.arange(12))
    decides = np.arange(23) != 9
    carry = (np.arange(23) >= 10) & (np.arange(23) < 20)  # the equals sign has 21: no carry
    final = (np.arange(23)[:, None] + carry) % 10

    def program(tokens: Values) -> SOp:
        x = inputs(tokens)
        total = lookup(pair, shifted(x, places + 1, taps=taps), x)
        # From the token before a digit of the sum, its place of the second number is `places`
        # before; lower places are nearer, and the equals sign ends them.
        lower = np.arange(tokens.shape[1]) < places
        near = earliest(select(total, table=decides, distances=lower), total)
        own = latest(select(total, distances=_at(tokens, places)), total)
        return lookup(final, own, near)

    return program


def _at(tokens: Values, distance: int) -> Values:
    """Truth by distance for exactly one distance."""
    return np.asarray(np.arange(tokens.shape[1]) == distance)


def _numbers(grammar: Language) -> dict[str, int]:
    return {word: token for token, word in enumerate(grammar.vocab)}


def _members(grammar: Language, words: list[str]) -> Values:
    """Truth by token: whether it is one of the words."""
    return np.isin(np.array(grammar.vocab), words)


def _segments(grammar: Language) -> list[Segment]:
    return [segment for segments in grammar.states.values() for segment in segments]
