"""What is new in a text, against a plain search."""

import numpy as np

from sweep.skills.grading import NGRAM, longest_matches, new_shares


def test_shares_and_longest_matches_are_those_of_a_plain_search():
    random = np.random.default_rng(0)
    training = random.integers(0, 3, (40, 30))
    texts = [random.integers(0, 3, n).tolist() for n in (5, 8, 20, 60)] + [training[3].tolist()]
    held = {tuple(r[i : i + n]) for r in training.tolist() for n in range(1, 31) for i in range(30)}

    def parts(text, size):
        return [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]

    wanted = [np.mean([p not in held for p in parts(t, NGRAM)]) for t in texts if len(t) >= NGRAM]
    assert np.allclose(new_shares(texts, training), wanted)
    assert longest_matches(texts, training) == [
        max(n for n in range(31) if n == 0 or any(p in held for p in parts(t, n))) for t in texts
    ]
    assert new_shares([training[3].tolist()], training) == [0.0]
    assert longest_matches([training[3].tolist()], training) == [30]
