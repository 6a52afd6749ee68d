"""Each of several ranks reads its own rows alone, and they are those of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from sweep.data.registry import open_source
from sweep.planning.compose import CONFIG_FOLDER
from sweep.training.step import FEED_ROWS, BatchFeed
from tests.sweep.data.builders import data_config

RANKS = 3


def sources(tmp_path):
    np.arange(200_000, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    tokens = {"path": str(tmp_path / "tokens.bin"), "heldout_tokens": 64, "dtype": "uint16"}
    return [
        open_source(data_config("stories"), seq_len=16, seed=3),
        open_source(data_config("stories", unique_tokens=160), seq_len=16, seed=3),
        open_source(data_config("tokens", **tokens), seq_len=16, seed=3),
        open_source(data_config("tokens", **tokens, unique_tokens=160), seq_len=16, seed=3),
    ]


def test_a_source_gives_every_third_row(tmp_path):
    for source in sources(tmp_path):
        whole = source.train(6, 30)
        for rank in range(RANKS):
            np.testing.assert_array_equal(source.train(6 + rank, 10, RANKS), whole[rank::RANKS])


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_feeds_its_rows_of_every_batch_and_reads_no_others(tmp_path, rank):
    source = sources(tmp_path)[0]
    read, train = [], source.train

    def counted(start, count, every=1):
        read.append(count)
        return train(start, count, every)

    whole = BatchFeed(source=source, device=torch.device("cpu"))
    batches = [(0, 6), (6, 12), (18, 3 * FEED_ROWS), (18 + 3 * FEED_ROWS, 9)]
    expected = [whole.rows(*b)[rank::RANKS].clone() for b in batches]
    source.train = counted
    feed = BatchFeed(source=source, device=torch.device("cpu"), rank=rank, ranks=RANKS)
    for batch, rows in zip(batches, expected, strict=True):
        assert torch.equal(feed.rows(*batch), rows)
    assert read == [FEED_ROWS] * 2  # it trains on 2,057 rows


@pytest.mark.parametrize(("threads", "devices", "cpus"), [(1, 1, 1), (4, 2, 8), (0, 2, 2)])
def test_a_slurm_job_gets_the_cpus_that_its_threads_and_devices_need(threads, devices, cpus):
    launcher = OmegaConf.load(CONFIG_FOLDER / "hydra/launcher/slurm.yaml")
    train = {"threads": threads, "devices": devices}
    assert OmegaConf.create({"train": train, "launcher": launcher}).launcher.cpus_per_task == cpus
