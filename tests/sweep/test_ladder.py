"""The ladder of a data source: its order, its truth, the models beside it, and its document."""

from __future__ import annotations

import dataclasses
import json
import math
import types

import numpy as np
import pytest

from fit.data.records import read_record
from fit.report.figure_data import LADDER_NAME, read_ladder
from sweep import ladder
from sweep.app import main
from sweep.data.registry import open_source
from sweep.planning.grid import compose_config
from sweep.training.loop import train
from tests.sweep.training.test_loop import Quiet, trajectory

SMALL = ["tokens=200k", "data.heldout_tokens=16384", "data.size=demo"]


def losses(out):
    """The losses of a printed table, by name."""
    rows = [line.rsplit(maxsplit=2) for line in out.splitlines()[4:]]
    return {name.strip(): (float(loss), float(perplexity)) for name, loss, perplexity in rows}


def test_each_step_of_the_language_is_lower_down_to_its_entropy(capsys):
    main(["ladder", *SMALL])
    found = losses(capsys.readouterr().out)
    assert list(found) == ["uniform", "unigram", "bigram", "trigram", "5-gram", "truth"]
    values = [loss for loss, _ in found.values()]
    assert values == sorted(values, reverse=True)
    source = open_source(compose_config(SMALL[1:]).data, seq_len=128, seed=0)
    assert found["uniform"][0] == pytest.approx(math.log(source.vocab), abs=1e-4)
    assert found["truth"][0] == pytest.approx(source.info.entropy, abs=1e-4)
    # The unigram loss that training compares with: one is added to each count, and the noise of the
    # sample is not taken out of it.
    assert found["unigram"][0] == pytest.approx(source.unigram_loss, abs=0.05)
    for loss, perplexity in found.values():
        assert perplexity == pytest.approx(math.exp(loss), rel=1e-3)


def test_models_are_measured_on_the_data_of_their_records(tmp_path, capsys):
    for settings in (("train.tokens=[3e3,12e3]",), ("train.tokens=3e3", "model.width=16")):
        train(trajectory(*settings, "data.size=demo"), tmp_path, Quiet())
    runs = tmp_path / "tiny"
    main(["ladder", str(runs), "tokens=50k"])
    found = losses(capsys.readouterr().out)
    records = [read_record(path) for path in runs.glob("*/record.json")]
    best = {r.params_matmul: min(s.loss for s in records if s.width == r.width) for r in records}
    shown = [loss for name, (loss, _) in found.items() if " on " in name]
    assert shown == pytest.approx([best[n] for n in sorted(best)], abs=1e-4)
    document = json.loads((runs / LADDER_NAME).read_text())
    steps = read_ladder(runs)
    assert [s.loss for s in steps] == [s["loss"] for s in document["steps"]]
    assert document["train_tokens"] == 50_000 // 32 * 32
    assert document["heldout_tokens"] == 2048
    assert document["seq_len"] == 32


def test_text_has_a_ladder_without_a_truth(tmp_path, capsys):
    words = np.random.default_rng(0).choice(["red", "green", "blue"], size=(40, 200))
    for number, row in enumerate(words):
        (tmp_path / f"{number}.txt").write_text(" ".join(row))
    text = ["data=text", f"data.path={tmp_path}", "data.tokenizer=bytes"]
    more = [f"data.cache={tmp_path}/cache", "data.heldout_tokens=4096", "model.seq_len=64"]
    main(["ladder", *text, *more, f"out={tmp_path}/x.json"])
    found = losses(capsys.readouterr().out)
    assert list(found) == ["uniform", "unigram", "bigram", "trigram", "5-gram"]
    # A word of three, and the letters that spell it: ln 3 nats in (3 + 5 + 4) / 3 + 1 bytes.
    assert found["5-gram"][0] == pytest.approx(math.log(3) / 5, abs=0.03)
    assert json.loads((tmp_path / "x.json").read_text())["data"]["entropy"] is None


@pytest.mark.parametrize(
    "words, message",
    [
        (["a", "b"], "one folder of runs, or overrides"),
        (["a", "data.size=full"], "one folder of runs, or overrides"),
        (["nowhere"], "no folder nowhere"),
        (["tokens=many"], "tokens"),
        (["token=5"], "token=5: there is no such option; the nearest is tokens="),
        (["runs/mine", "token=5"], "the nearest is tokens="),
        (["data.size=huge"], "known sizes of stories are"),
    ],
)
def test_what_has_no_ladder_is_refused_in_one_line(words, message):
    with pytest.raises(SystemExit) as ended:
        main(["ladder", *words])
    assert message in str(ended.value) and str(ended.value).startswith("error: ")


def test_the_options_of_own_data_are_those_of_the_record():
    own = {"data": "own", "data._target_": "mine:music", "data.options.power": 0.5}
    record = types.SimpleNamespace(run="mine", recipe={**own, "model.seq_len": 32})
    data, seq_len = ladder.data_of(record)
    assert (data.name, data._target_, data.options) == ("own", "mine:music", {"power": 0.5})
    assert seq_len == 32


@pytest.mark.parametrize(
    "word, message", [("fit=nope", "nope"), ("out={}", "is a folder"), ("out={}/x/y", "/x/y can")]
)
def test_a_fit_or_a_file_is_refused_before_anything_is_counted(
    tmp_path, monkeypatch, word, message
):
    monkeypatch.setattr(ladder, "open_source", None)  # nothing may be opened
    (tmp_path / "x").write_text("a file, no folder")
    with pytest.raises(SystemExit, match=message):
        main(["ladder", "data.size=demo", word.format(tmp_path)])


def test_runs_on_two_data_sets_are_refused(tmp_path):
    for size in ("demo", "small"):
        train(trajectory("train.tokens=3e3", f"data.size={size}"), tmp_path, Quiet())
    with pytest.raises(SystemExit, match="have 2 data sets"):
        main(["ladder", str(tmp_path / "tiny")])


def test_sizes_are_thinned_to_a_few_with_both_ends(tmp_path):
    (first,) = train(trajectory("train.tokens=3e3"), tmp_path, Quiet())
    records = [dataclasses.replace(first, params_body=100 * i) for i in range(1, 30)]
    steps = ladder.model_steps(records)
    assert len(steps) == ladder.MOST_MODELS
    assert steps[0].name == ladder.model_steps(records[:1])[0].name
    assert steps[-1].name == ladder.model_steps(records[-1:])[0].name
