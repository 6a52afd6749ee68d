"""Generation with a cache against generation without one, and against exact distributions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fit.data.accounting import Shape
from fit.errors import PlanError
from sweep.model import Transformer
from sweep.writing import generate as module
from sweep.writing.generate import Cache, cached_hidden, draw_tokens, generate

BASE = Shape(width=32, depth=2, heads=4, head_dim=8, d_ff=48, vocab=43, seq_len=24, conv=2)
SEPARATOR = 7
OPTIONS = (
    {},
    {"conv": 0, "tied": False},
    {"kv_heads": 2, "conv": 3},
    {"kv_heads": 1, "activation": "gelu", "rope_base": 5e5},
    {"gated": True, "pad_vocab_to": 32},
    {"experts": 3, "top_k": 2},
    {"experts": 3, "top_k": 1, "gated": True, "activation": "gelu", "kv_heads": 2},
    {"heads": 2, "head_dim": 32, "kv_heads": 1},
)
PROMPTS = [[1], [2, 3, 7, 5, 8, 2], [7, 7], [4, 9, 30, 42, 0, 7, 1, 1, 20, 3, 3], [5, 6, 7]]


def build(options, *, separator=None, residual=1.0, spread=0.3):
    """A model in float64 whose weights all matter."""
    shape = dataclasses.replace(BASE, **options)
    model = Transformer(shape, separator=separator, residual=residual)
    model.init_weights(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    return model.double()


def plain_logits(model, tokens):
    """Logits after the last of some tokens, all positions computed anew."""
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([tokens]))[0, -1]
        return (model.head @ hidden)[: model.shape.vocab]


def written_without_cache(model, prompt, max_tokens, uniform=None, temperature=1.0):
    tokens = list(prompt)
    for step in range(max_tokens):
        if len(tokens) > model.shape.seq_len:
            break
        logits = plain_logits(model, tokens)
        if uniform is None:
            tokens.append(int(logits.argmax()))
        else:
            share = (logits / temperature).softmax(-1).cumsum(-1).numpy()
            tokens.append(int(np.searchsorted(share, uniform[step] * share[-1], side="right")))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_text_of_unequal_prompts_is_that_without_a_cache(options, separator):
    model = build(options, separator=separator)
    expected = [written_without_cache(model, p, 30) for p in PROMPTS]
    assert generate(model, PROMPTS, max_tokens=30, greedy=True) == expected
    assert [len(p) + len(w) for p, w in zip(PROMPTS, expected, strict=True)] == [25] * len(PROMPTS)


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("options", OPTIONS)
def test_drawn_text_is_that_without_a_cache(options, separator):
    model = build(options, separator=separator, residual=0.7)
    uniform = np.random.Generator(np.random.Philox(key=5)).random((len(PROMPTS), 12))
    written = generate(model, PROMPTS, max_tokens=12, temperature=0.8, seed=5)
    expected = [
        written_without_cache(model, p, 12, u, 0.8) for p, u in zip(PROMPTS, uniform, strict=True)
    ]
    assert written == expected


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("options", OPTIONS)
def test_hidden_states_from_a_cache_equal_those_of_whole_rows(options, separator):
    model = build(options, separator=separator)
    rows = torch.randint(BASE.vocab, (3, 20), generator=torch.Generator().manual_seed(2))
    rows[:, 5] = rows[1, 12] = SEPARATOR
    cache = Cache.empty(model, 3, 20)
    with torch.no_grad():
        expected, parts, start = model.hidden(rows), [], 0
        for count in (1, 7, 1, 1, 10):  # one by one, and several at once
            place = torch.arange(start, start + count).expand(3, count)
            parts.append(cached_hidden(model, rows[:, start : start + count], place, cache))
            start += count
    # The order of sums differs; in float64 that is all.
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-11, atol=1e-12)


def test_texts_do_not_depend_on_the_batch_they_are_written_in(monkeypatch):
    model = build({})
    together = generate(model, PROMPTS, max_tokens=9, seed=3, stop=4)
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    assert generate(model, PROMPTS, max_tokens=9, seed=3, stop=4) == together
    assert generate(model, PROMPTS[:2], max_tokens=9, seed=3, stop=4) == together[:2]
    assert generate(model, PROMPTS, max_tokens=9, seed=4, stop=4) != together


@pytest.mark.parametrize("stop", [12, (20, 12)])
def test_a_text_ends_with_its_stop_while_others_go_on(stop):
    model = build({}, spread=0.05)  # nearly uniform: stops come at different places
    free = generate(model, [[1]] * 200, max_tokens=20, seed=1)
    ending = (stop,) if isinstance(stop, int) else stop
    expected = []
    for tokens in free:
        ends = [
            e
            for e in range(len(ending), len(tokens) + 1)
            if tuple(tokens[e - len(ending) : e]) == ending
        ]
        expected.append(tokens[: ends[0]] if ends else tokens)
    assert generate(model, [[1]] * 200, max_tokens=20, seed=1, stop=stop) == expected
    assert len({len(t) for t in expected}) > 1


def test_tokens_are_drawn_in_proportion_to_their_probability():
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]], dtype=torch.float64)
    count = 100_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw_tokens(logits.expand(count, 4), uniform)
    share = torch.bincount(drawn, minlength=4) / count
    torch.testing.assert_close(share.double(), logits[0].softmax(-1), rtol=0, atol=1 / count)


def test_a_low_temperature_is_greedy():
    model = build({})
    cold = generate(model, PROMPTS, max_tokens=10, temperature=1e-6, seed=2)
    assert cold == generate(model, PROMPTS, max_tokens=10, greedy=True)


@pytest.mark.parametrize(
    "prompts, options, words",
    [
        ([[1], []], {}, "a prompt has 0 tokens; 1 to 24 are needed"),
        ([[1] * 25], {}, "a prompt has 25 tokens"),
        ([[1, 43]], {}, "outside the vocabulary of 0 to 42"),
        ([[1]], {"temperature": 0.0}, "temperature=0.0; a positive number"),
        ([[1]], {"max_tokens": 0}, "0 tokens of a text; at least 1"),
        ([[1]], {"max_tokens": 10**11}, "1 texts of at most 100000000000 tokens; 134,217,728"),
        ([[1]], {"seed": -1}, "seed -1; a whole number from 0"),
        ([[1]], {"seed": 2**128}, "a whole number from 0 to 9223372036854775807"),
        ([], {}, "0 texts; at least 1"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompts, options, words):
    with pytest.raises(PlanError, match=words):
        generate(build({}), prompts, **{"max_tokens": 3, **options})
