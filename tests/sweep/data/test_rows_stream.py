"""Rows of a stream against plain slices of what was put together."""

import numpy as np

from sweep.data.rows import stream_of

SHARDS = [np.arange(0, 70, dtype=np.uint16), np.arange(70, 170, dtype=np.uint32)]
INTERVALS = np.array([[3, 20], [20, 21], [40, 111], [130, 165]])


def plain(intervals):
    whole = np.concatenate(SHARDS)
    return np.concatenate([whole[a:b] for a, b in intervals])


def test_rows_equal_slices_across_shards_and_gaps():
    stream, tokens = stream_of(SHARDS, INTERVALS), plain(INTERVALS)
    assert len(stream) == len(tokens)
    for seq_len in (1, 4, 7, 60):
        index = np.arange(stream.row_count(seq_len))
        expected = [tokens[i * seq_len : i * seq_len + seq_len + 1] for i in index]
        assert np.array_equal(stream.rows(index, seq_len), expected)
        assert stream.rows(index, seq_len).dtype == np.int32


def test_each_token_but_the_first_is_predicted_once():
    stream = stream_of(SHARDS)
    rows = stream.rows(np.arange(stream.row_count(13)), 13)
    assert np.array_equal(rows[:, 1:].ravel(), np.arange(1, 170))


def test_a_stream_too_short_for_a_row_has_none():
    assert stream_of(SHARDS, np.array([[5, 12]])).row_count(7) == 0
    assert stream_of(SHARDS, np.array([[5, 13]])).row_count(7) == 1
