"""Kept weights are those that were measured, whatever trained them; and text is written by them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fit.data.records import WEIGHTS_NAME
from fit.errors import PlanError, RecordError
from sweep.app import main
from sweep.data.registry import open_source
from sweep.planning import trajectory as planning
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.outcome import token_losses
from sweep.writing.weights import CARD_NAME, find_run, load_run
from tests.sweep.training.test_devices import Diary
from tests.sweep.training.test_loop import TINY, Quiet, trajectory

KEEP = "train.keep=weights"
CPU = SimpleNamespace(world_size=1, global_rank=0, device=torch.device("cpu"))


def write(*words):
    """Run the command to its end."""
    with pytest.raises(SystemExit) as ended:
        main(["write", *words])
    assert ended.value.code == 0


def measured_loss(folder):
    """Loss of a loaded model on the run's held-out sample, as its record defines it."""
    kept, model = load_run(str(folder))
    source = open_source(kept.data, seq_len=kept.shape.seq_len, seed=0)
    heldout = source.heldout()
    losses = token_losses(model, heldout.rows, CPU)
    return kept.record, source.info.entropy + float((losses - heldout.ideal).mean(1).mean())


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.tied=false", "model.kv_heads=1", "model.head_dim=4", "model.conv=0"),
        ("model.experts=3", "model.top_k=1", "model.mlp=swiglu"),
        ("train.depth_rule=completep", "model.depth=3", "model.pad_vocab_to=64"),
        ("train.precision=64-true", "model.rope_base=500"),
    ],
)
def test_the_kept_weights_of_every_branch_give_the_loss_of_its_record(tmp_path, settings):
    planned = trajectory("train.tokens=[3e3,6e3]", KEEP, *settings)
    train(planned, tmp_path, Quiet())
    for run in planned.runs:
        record, loss = measured_loss(tmp_path / "tiny" / run.run)
        assert loss == record.loss


def test_a_sweep_says_which_earlier_runs_kept_no_weights(tmp_path, capsys):
    train(trajectory("train.tokens=3e3"), tmp_path, Quiet())
    with pytest.raises(SystemExit):
        main([*TINY, f"runs_dir={tmp_path}", "train.tokens=3e3", KEEP])
    assert "1 run trained earlier kept no weights, such as w8-d1" in capsys.readouterr().err


def test_keeping_weights_changes_neither_names_nor_records(tmp_path):
    with_weights = train(trajectory("train.tokens=3e3", KEEP), tmp_path / "a", Quiet())
    without = train(trajectory("train.tokens=3e3"), tmp_path / "b", Quiet())
    assert [r.result() for r in with_weights] == [r.result() for r in without]
    (run,) = with_weights
    assert not (tmp_path / "b" / "tiny" / run.run / WEIGHTS_NAME).exists()
    kept = {p.name for p in (tmp_path / "a" / "tiny" / run.run).iterdir()}
    assert kept == {WEIGHTS_NAME, CARD_NAME, "record.json"}


def test_a_tied_head_is_stored_once_and_the_card_says_what_is_stored(tmp_path):
    (record,) = train(trajectory("train.tokens=3e3", KEEP), tmp_path, Quiet())
    folder = tmp_path / "tiny" / record.run
    weights = load_file(folder / WEIGHTS_NAME)
    card = json.loads((folder / CARD_NAME).read_text())
    assert "head" not in weights
    assert sum(w.numel() for w in weights.values()) == card["params_total"] == record.params_total
    assert (card["run"], card["loss"], card["dtype"]) == (record.run, record.loss, "float32")


def test_a_run_is_found_by_its_folder_its_record_and_its_name(tmp_path, monkeypatch):
    planned = trajectory("train.tokens=3e3", KEEP)
    train(planned, tmp_path / "runs", Quiet())
    train(trajectory("train.tokens=6e3"), tmp_path / "runs", Quiet())
    sweep = tmp_path / "runs" / "tiny"
    folder = sweep / planned.runs[0].run
    monkeypatch.chdir(tmp_path)
    for name in (folder, folder / "record.json", sweep, str(folder).rpartition("-")[0]):
        assert find_run(str(name)).resolve() == folder
    assert find_run(folder.name).resolve() == folder
    with pytest.raises(RecordError, match=r"2 runs are called 'w8-d1' in .*tiny: w8-d1-t"):
        find_run(f"{sweep}/w8-d1")
    with pytest.raises(RecordError, match="no runs are called 'nothing' in runs; the folder of a"):
        find_run("nothing")


def test_a_run_without_weights_says_how_to_keep_them(tmp_path, capsys):
    (record,) = train(trajectory("train.tokens=3e3"), tmp_path, Quiet())
    for name, words in (
        (record.run, f"the run {record.run} kept no weights. Train it with train.keep=weights"),
        ("", "none of the 1 run in"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["write", str(tmp_path / "tiny" / name)])
        assert words in str(ended.value)


def test_damaged_weights_are_refused_in_one_line(tmp_path):
    (record,) = train(trajectory("train.tokens=3e3", KEEP), tmp_path, Quiet())
    path = tmp_path / "tiny" / record.run / WEIGHTS_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="cannot be loaded"):
        load_run(str(path.parent))
    path.write_bytes(whole)
    for card in ('{"schema": "isoflop.weights/1"}', "{}", "[" * 100_000):
        path.with_name(CARD_NAME).write_text(card)
        with pytest.raises(RecordError, match=r"weights.json, the card .*, cannot be read"):
            load_run(str(path.parent))
    path.with_name(CARD_NAME).unlink()
    with pytest.raises(RecordError, match=r"No such file or directory: .*weights.json"):
        load_run(str(path.parent))


def test_weights_are_not_kept_without_their_library(monkeypatch):
    monkeypatch.setattr(planning, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match="train.keep=weights needs the package 'safetensors'"):
        plan(compose_config([*TINY, KEEP]))


def test_stories_are_written_in_words_of_the_language(tmp_path, capsys):
    (record,) = train(trajectory("train.tokens=12e3", "model.width=16", KEEP), tmp_path, Quiet())
    folder = str(tmp_path / "tiny" / record.run)
    prompt = ["--prompt", "once upon a time there was a"]
    write(folder, *prompt, "--greedy")
    greedy = capsys.readouterr().out
    assert greedy.startswith("once upon a time there was a ") and "<bos>" not in greedy
    write(folder, *prompt, "--n", "3", "--seed", "4", "--max-tokens", "5", "--json")
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert len(set(texts)) > 1
    assert all(
        t.startswith("once upon a time there was a ") and len(t.split()) <= 12 for t in texts
    )
    for words, message in (
        (["--prompt", "the dragon-fly"], "'dragon-fly' is no word of stories"),
        (["--greedy", "--n", "3"], "--greedy writes one text, and --n 3"),
        (["--n", "100000000000"], "100000000000 texts of at most 256 tokens"),
        (["--tokens", "5,x"], "token ids are needed"),
        (["--tokens", "5", "--prompt", "a"], "leave one"),
        (["--tokens", "99999"], "outside the vocabulary"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["write", folder, *words])
    write(folder, "--tokens", "5,7", "--max-tokens", "3")
    ids = capsys.readouterr().out.strip().split(",")
    assert ids[:2] == ["5", "7"] and 3 <= len(ids) <= 5
    for words, message in (
        (["--seed", "-1"], "seed -1; a whole number"),
        (["--stories", "1000000000000"], "1000000000000 texts"),
        (["--stories", "0"], "0 texts; at least 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["grade", folder, *words])


def test_a_model_of_token_files_goes_on_from_ids(tmp_path, capsys):
    (np.arange(30_000) % 50).astype("<u2").tofile(tmp_path / "train.bin")
    planned = trajectory(
        *("train.tokens=12e3", "data=tokens", f"data.path={tmp_path}", "data.heldout_tokens=640"),
        *("train.lr=0.02", KEEP),
    )
    (record,) = train(planned, tmp_path, Quiet())
    folder = str(tmp_path / "tiny" / record.run)
    for words, message in (
        ([], "names no token that begins a document; give --tokens, such as 5,7"),
        (["--prompt", "a"], r"no tokenizer for it. Go on from token ids: --tokens 5,7"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["write", folder, *words])
    write(folder, "--tokens", "5,7", "--max-tokens", "4", "--n", "2", "--json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["tokens"][:2] for row in rows] == [[5, 7], [5, 7]]
    assert all(len(row["tokens"]) == 6 and max(row["tokens"]) < 50 for row in rows)
    with pytest.raises(SystemExit, match=r"only data=stories has\.$"):
        main(["grade", folder])


def test_bytes_of_text_go_in_and_come_out(tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(40):
        (text / f"{number}.txt").write_text(f"abc{number:03d}" * 60)
    planned = trajectory(
        *("train.tokens=20e3", "data=text", f"data.path={text}", "data.tokenizer=bytes"),
        *(f"data.cache={tmp_path}/cache", "data.heldout_tokens=640", KEEP),
    )
    (record,) = train(planned, tmp_path, Quiet())
    folder = str(tmp_path / "tiny" / record.run)
    write(folder, "--prompt", "abc", "--max-tokens", "9", "--seed", "1")
    written = capsys.readouterr().out.rstrip("\n")
    assert written.startswith("abc") and 3 < len(written) <= 12
    (text / "0.txt").write_text("xyz" * 500)
    with pytest.raises(SystemExit, match="changed after the runs were planned"):
        main(["write", folder])


def test_a_card_with_fields_of_a_later_version_still_opens(tmp_path):
    planned = trajectory("train.tokens=3e3", KEEP)
    (record,) = train(planned, tmp_path, Quiet())
    folder = tmp_path / "tiny" / record.run
    card = json.loads((folder / CARD_NAME).read_text())
    card["shape"]["of_a_later_version"] = 1
    (folder / CARD_NAME).write_text(json.dumps(card))
    kept, _ = load_run(str(folder))
    assert kept.shape == planned.shape


@pytest.mark.slow
def test_a_model_sharded_over_two_ranks_is_gathered(tmp_path):
    sharded = ("train.devices=2", "train.accelerator=cpu", "train.strategy=fsdp")
    batch = ("train.batch_tokens=256", "train.batch_at_1m=0")
    planned = trajectory("train.tokens=4e3", *batch, *sharded, KEEP)
    train(planned, tmp_path, Diary(tmp_path / "diary"))
    record, loss = measured_loss(tmp_path / "tiny" / planned.runs[0].run)
    assert loss == pytest.approx(record.loss, abs=1e-6)  # measured by two ranks, in other batches
