"""The experiment on TinyStories, planned, trained and written by on a stand-in of its format."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fit.data.records import read_runs
from sweep.app import main
from sweep.plan import main as plan_main
from sweep.planning.grid import grid

EXPERIMENT = "+experiment=tinystories"
SHAPES = {
    (64, 8): 1e6, (128, 8): 3e6, (256, 8): 8e6, (512, 8): 28e6, (768, 4): 33e6, (1024, 1): 21e6,
}  # fmt: skip
"""Width and depth of the released models, and the parameters in their names."""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder in the format of the data set: parquet, one column `text`, a story a row."""
    folder = tmp_path_factory.mktemp("hub") / "TinyStories"
    (folder / "data").mkdir(parents=True)
    random = np.random.default_rng(0)
    names, things = ["Tom", "Lily", "Ben", "Mia"], ["ball", "kite", "doll", "drum", "boat"]
    stories = [
        f"Once upon a time there was a child named {random.choice(names)}. One day {number} "
        f"friends found a {random.choice(things)} and a {random.choice(things)}. They were happy."
        for number in range(4000)
    ]
    table = pa.table({"text": stories})
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 40), folder / "data" / "validation-00000-of-00001.parquet")
    more = [f"data.path={folder}", f"data.cache={folder.parent}/cache", "data.heldout_tokens=8192"]
    return more


def test_the_shapes_are_those_of_the_released_models(stand_in):
    cells = grid([EXPERIMENT, *stand_in], multirun=True)
    assert all(cell.refusal is None for cell in cells) and len(cells) == 9
    shapes = {t.shape.width: t for cell in cells for t in cell.trajectories}
    assert set(shapes) == {64, 128, 256, 512, 768, 1024}
    built = {(t.shape.width, t.shape.depth): t for cell in cells for t in cell.trajectories}
    for size, params in SHAPES.items():
        t = built[size]
        assert t.shape.heads == 8 and t.shape.heads * t.shape.head_dim == t.shape.width
        # The stand-in has fewer words than the data set: its 10,000 tokens are counted here.
        total = t.params.body + 10_000 * t.shape.width
        assert total == pytest.approx(params, rel=0.15)
    assert all(t.config.train.keep == ["weights"] for t in built.values())
    assert {len(t.runs) for t in built.values()} == {4}


def test_the_plan_prices_every_run_on_a_gpu(stand_in, capsys):
    with pytest.raises(SystemExit) as ended:
        plan_main([EXPERIMENT, *stand_in, "device=h100", "price=2.5"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "36 runs, 0 there already" in out and "$" in out and "hf:TinyStories" in out


@pytest.mark.slow
def test_the_smallest_shape_trains_on_the_stand_in_and_writes(stand_in, tmp_path, capsys):
    short = ["train.tokens=40e3", "model.seq_len=64", "train.batch_tokens=512"]
    here = ["train.precision=32-true", f"runs_dir={tmp_path}", "tracking=none", "train.compile=off"]
    overrides = [EXPERIMENT, "+tinystories=w64d8", *stand_in, *short, *here]
    with pytest.raises(SystemExit) as ended:
        main(["-m", *overrides])
    assert ended.value.code == 0
    (record,) = read_runs(tmp_path / "tinystories").records
    assert record.status == "done" and (record.width, record.depth) == (64, 8)
    capsys.readouterr()
    run = str(tmp_path / "tinystories" / record.run)
    with pytest.raises(SystemExit):
        main(["write", run, "--prompt", "Once upon a time", "--max-tokens", "8", "--json"])
    text = json.loads(capsys.readouterr().out)["text"]
    assert text.startswith("Once upon a time")
