"""Data sets of the Hugging Face library, written to disk here and read by the real loading code."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.registry import describe, open_source
from sweep.data.text import _unreachable, stream_limit
from sweep.plan import main as plan_command
from sweep.planning.grid import grid
from tests.sweep.data.builders import data_config
from tests.sweep.data.test_text import decoded, everything, prose

datasets = pytest.importorskip("datasets")
T = 32


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    _unreachable.clear()


@pytest.fixture
def saved(tmp_path):
    rows = datasets.Dataset.from_dict({"text": [prose(n) for n in range(60)], "n": range(60)})
    other = datasets.Dataset.from_dict({"text": [prose(n) for n in range(100, 160)]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "validation": other}).save_to_disk(tmp_path / "both")
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files" / "train.parquet")
    return tmp_path


def opened(folder, name, **given):
    config = data_config("hf", folder, **{"path": str(folder / name), **given})
    return open_source(config, seq_len=T, seed=0)


def test_a_saved_data_set_is_read_whole_and_split_by_documents(saved):
    source = opened(saved, "one")
    train, heldout = everything(source), "".join(decoded(source.heldout().rows))
    shares = [{n for n in range(60) if f"Tale {n}." in side} for side in (train, heldout)]
    assert shares[0] and shares[1] and not shares[0] & shares[1]
    assert source.info.name == "hf:one"


def test_the_same_rows_give_the_same_tokens_however_they_are_kept(saved):
    infos = [
        opened(saved, "one").info,
        opened(saved, "both").info,
        opened(saved, "files").info,
        opened(saved, "files", streaming=True).info,
        opened(saved, "files", streaming=True, unique_tokens=640).info,
    ]
    assert len({info.hash for info in infos}) == 1
    assert [info.unique_tokens for info in infos[3:]] == [infos[0].unique_tokens, 640]


def test_another_split_is_other_text(saved):
    assert "Tale 10" in everything(opened(saved, "both", split="validation"))
    assert opened(saved, "both", split="validation").info.hash != opened(saved, "both").info.hash


def test_a_bpe_is_trained_on_the_rows(saved):
    source = opened(saved, "one", tokenizer="bpe", vocab=300)
    assert source.vocab == 300
    assert source.info.bytes_per_token > 1.5


def test_a_stream_stops_at_its_limit(saved, monkeypatch):
    monkeypatch.setattr("sweep.data.text.STREAMED_TOKENS", 1 << 10)
    monkeypatch.setattr("sweep.data.corpus.BATCH_CHARACTERS", 1000)
    whole = opened(saved, "files", heldout_tokens=128).info
    part = opened(saved, "files", heldout_tokens=128, streaming=True, unique_tokens=1000)
    assert part.info.hash != whole.hash
    assert part.available_tokens < 6000 < whole.unique_tokens
    assert part.info.unique_tokens == 992
    assert len(list(saved.rglob("ends.npy"))) == 2


def test_limits_of_streams_are_shared_by_small_caps():
    def limit(cap):
        return stream_limit(data_config("hf", streaming=True, unique_tokens=cap))

    assert limit(10**4) == limit(3 * 10**7) == 1 << 25
    assert limit(10**8) == 1 << 27
    assert limit(None) is None


def test_a_tokenised_data_set_is_not_loaded_again(saved, monkeypatch):
    config = data_config("hf", saved, path=str(saved / "one"))
    before = describe(config, T)
    monkeypatch.setattr("datasets.load_from_disk", lambda _: pytest.fail("loaded again"))
    assert describe(config, T) == before


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("one", {"column": "story"}, "no column 'story'; it has text, n"),
        ("one", {"column": "n"}, "column 'n' of .* holds a number, not text"),
        ("both", {"split": "test"}, "no split 'test'; it has train, validation"),
        ("files", {"split": "test"}, "could not be loaded: Unknown split .*test"),
        ("files", {"subset": "no"}, "could not be loaded: .*no"),
    ],
)
def test_what_a_data_set_lacks_is_named(saved, name, given, message):
    with pytest.raises(PlanError, match=message):
        opened(saved, name, **given)


def test_without_a_network_the_message_names_the_way_out_and_the_hub_is_tried_once(
    tmp_path, monkeypatch
):
    calls = []

    def unreachable(*args, **kwargs):
        calls.append(args)
        raise ConnectionError("Couldn't reach 'roneneldan/TinyStories' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    for _ in range(3):
        with pytest.raises(PlanError, match="Couldn't reach .* save_to_disk .* data.path=FOLDER"):
            open_source(data_config("hf", tmp_path), seq_len=T, seed=0)
    assert calls == [("roneneldan/TinyStories", None)]


def test_a_data_set_of_the_hub_that_was_tokenised_is_planned_without_loading_it(
    tmp_path, monkeypatch
):
    texts = [f"a tale of number {i} and some words" for i in range(200)]
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *args, **kwargs: datasets.Dataset.from_dict({"text": texts})
    )
    settings = ["data=hf", f"data.cache={tmp_path}", "data.tokenizer=bytes", "model.seq_len=32"]
    settings += ["data.heldout_tokens=512", "train.tokens=1e5", "model=w16"]
    (first,) = grid(settings, multirun=False)
    monkeypatch.setattr("datasets.load_dataset", None)
    (again,) = grid(settings, multirun=False)
    assert [r.run for _, r in again.runs()] == [r.run for _, r in first.runs()]


@pytest.mark.parametrize(
    ("tokenizer", "vocab"), [("bytes", 257), ("bpe", 700), ("no-such", "is unknown")]
)
def test_a_data_set_that_is_not_here_is_planned_by_its_settings(
    tmp_path, monkeypatch, capsys, tokenizer, vocab
):
    def fetched(*args, **kwargs):
        raise AssertionError("a plan fetched the data")

    monkeypatch.setattr("datasets.load_dataset", fetched)
    settings = ["data=hf", f"data.cache={tmp_path}", f"data.tokenizer={tokenizer}", "device=h100"]
    settings += ["data.vocab=700"] if tokenizer == "bpe" else []
    with pytest.raises(SystemExit) as ended:
        plan_command([*settings, "model.seq_len=32", "train.tokens=1e5", "model=w16"])
    said = capsys.readouterr().out
    assert bool(ended.value.code) is isinstance(vocab, str)
    assert str(vocab) in said
    if not ended.value.code:
        assert "tokens     not known before the data set is fetched" in said
        assert "estimate  for h100" in said


def test_the_library_offline_ends_in_one_line(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.sweep.data.builders import data_config;"
        "from sweep.data.registry import describe; from fit.errors import PlanError\n"
        "try: describe(data_config('hf', Path(sys.argv[1]), path='no/such'), 32)\n"
        "except PlanError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("data set 'no/such' could not be loaded:")
    assert len(done.stdout.splitlines()) == 1


def test_rows_of_a_data_set_are_ordered_by_the_seed(saved):
    config = data_config("hf", saved, path=str(saved / "one"))
    one, other = (open_source(config, seq_len=T, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.train(0, 100), other.train(0, 100))
    assert np.array_equal(one.train(40, 60), one.train(0, 100)[40:])
