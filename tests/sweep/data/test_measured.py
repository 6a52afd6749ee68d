"""Further held-out texts and tasks: tokenised as the source, refused before training."""

import dataclasses
import json

import numpy as np
import pytest

from fit.errors import PlanError
from sweep.data.language import text
from sweep.data.measured import further_heldout, measured_identity, read_tasks
from sweep.data.registry import SOURCES, open_source
from tests.sweep.data.builders import data_config

T = 16


def write_tasks(path, *rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d").mkdir()
    lines = "\n".join(json.dumps({"text": f"line {i} of many in a file"}) for i in range(300))
    (tmp_path / "d" / "a.jsonl").write_text(lines)
    return tmp_path


def config(folder, **given):
    return data_config("text", folder, path=str(folder / "d"), heldout_tokens=64, **given)


def opened(data):
    return open_source(data, seq_len=T, seed=0)


def test_rows_of_a_further_text_are_a_sample_of_its_tokens(folder):
    (folder / "poem.txt").write_text("abcdefghijklmnopqrstuvwxyz0123456789" * 20)
    data = config(folder, also_heldout=[str(folder / "poem.txt")])
    (rows,) = further_heldout(data, opened(data)).values()
    assert rows.shape == (4, T + 1)
    begun = bytes([255]) + (folder / "poem.txt").read_bytes()
    for row in rows:
        assert bytes(row[1:].tolist()) in begun
    assert list(further_heldout(data, opened(data))) == ["poem"]


def test_a_short_further_text_is_measured_whole(folder):
    (folder / "short.txt").write_text("x" * (2 * T))
    data = config(folder, also_heldout=[str(folder / "short.txt")])
    assert further_heldout(data, opened(data))["short"].shape == (2, T + 1)
    (folder / "short.txt").write_text("x")
    with pytest.raises(PlanError, match="has 3 tokens, below one row"):
        further_heldout(data, opened(data))


def test_a_further_text_is_tokenised_by_the_bpe_of_the_source(folder):
    (folder / "poem.txt").write_text("line 7 of many in a file, " * 40)
    data = config(folder, tokenizer="bpe", also_heldout=[str(folder / "poem.txt")])
    source = opened(data)
    rows = further_heldout(data, source)["poem"]
    words = source.encode("line 7 of many in a file, " * 40)
    flat = rows[0, 1:].tolist()
    assert any(words[i : i + T] == flat for i in range(len(words)))


def test_what_is_measured_is_known_by_name_and_content(folder):
    (folder / "poem.txt").write_text("one")
    plain = measured_identity(config(folder))
    first = measured_identity(config(folder, also_heldout=[str(folder / "poem.txt")]))
    (folder / "poem.txt").write_text("another")
    second = measured_identity(config(folder, also_heldout=[str(folder / "poem.txt")]))
    assert plain == {} and first != second


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["none.txt"], "does not exist"),
        (["d", "d"], "two texts called 'd'"),
    ],
)
def test_texts_that_are_missing_or_named_alike_are_refused_before_training(folder, paths, message):
    with pytest.raises(PlanError, match=message):
        opened(config(folder, also_heldout=[str(folder / p) for p in paths]))


def test_tasks_are_prompts_that_begin_a_document_and_their_continuations(folder):
    tasks = write_tasks(
        folder / "t.jsonl",
        {"prompt": "ab", "answer": " c"},
        "",
        {"prompt": "d", "answer": "f", "choices": ["e", "f"], "skill": "letters"},
    )
    data = config(folder, tasks=tasks)
    first, second = read_tasks(data, opened(data))
    assert first.prompt == (256, 97, 98) and first.options == ((32, 99),) and first.answer == 0
    assert second.options == ((101,), (102,)) and second.answer == 1
    assert first.skill is None and second.skill == "letters"


def test_tasks_of_stories_are_in_words_of_the_language(tmp_path):
    source = open_source(data_config("stories"), seq_len=64, seed=0)
    tokens = source.train(0, 1)[0, 1:40]
    assert source.encode(text(source._language, tokens)) == tokens.tolist()
    tasks = write_tasks(tmp_path / "t.jsonl", {"prompt": "once upon", "answer": "a dragster"})
    with pytest.raises(PlanError, match="'dragster' is no word of stories"):
        open_source(data_config("stories", tasks=tasks), seq_len=64, seed=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of .* is not JSON"),
        ({"prompt": "a"}, "is no task"),
        ({"prompt": "a", "answer": "b", "weight": 1}, "is no task"),
        ({"prompt": "a", "answer": 4}, "holds what is no text"),
        ({"prompt": "a", "answer": "b", "choices": ["c"]}, "one of the choices"),
        ({"prompt": "a", "answer": ""}, "empty prompt or answer"),
        ({"prompt": "a" * 20, "answer": "b"}, "has 21 tokens.*model.seq_len=16"),
        ({"prompt": "a", "answer": "b", "skill": 3}, "holds what is no text"),
        ({"prompt": "a", "answer": "b", "skill": "a.b"}, "the skill 'a.b', which names a column"),
        ("[" * 100_000, "line 1 of .* is not JSON"),
        ("", "holds no tasks"),
    ],
)
def test_a_line_that_is_no_task_is_refused_before_training(folder, line, message):
    with pytest.raises(PlanError, match=message):
        opened(config(folder, tasks=write_tasks(folder / "t.jsonl", line)))


OWN = """
import dataclasses
from sweep.data.registry import open_source

def source(config, seq_len, seed):
    text = dataclasses.replace(config, name="text", _target_=None, tasks=None, also_heldout=[])
    return open_source(text, seq_len=seq_len, seed=seed)

def mute(config, seq_len, seed):
    found = source(config, seq_len, seed)
    del found.encode
    return found

def wrong(config, seq_len, seed):
    found = source(config, seq_len, seed)
    found.encode = lambda text: {}[text]
    return found
"""


def test_a_source_of_ones_own_with_encode_reads_tasks_and_further_texts(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "own_measured.py").write_text(OWN)
    (folder / "poem.txt").write_text("abcdefghijklmnopqrstuvwxyz0123456789" * 20)
    tasks = write_tasks(folder / "t.jsonl", {"prompt": "line 7", "answer": " of"})
    given = {"tasks": tasks, "also_heldout": [str(folder / "poem.txt")]}

    def own(name):
        return dataclasses.replace(
            config(folder, **given), _target_=f"own_measured:{name}", options={}
        )

    data = own("source")
    assert (data.name, "tasks" in SOURCES["own"].reads) == ("own", True)
    found = opened(data)
    assert list(further_heldout(data, found)) == ["poem"]
    assert bytes(read_tasks(data, found)[0].options[0]) == b" of"
    with pytest.raises(PlanError, match="has no tokenizer for it. Leave it out, or give a source"):
        opened(own("mute"))
    with pytest.raises(PlanError, match=r"cannot encode 'line 7' \(KeyError: 'line 7'\)"):
        opened(dataclasses.replace(own("wrong"), also_heldout=[]))


def test_a_missing_file_of_tasks_is_refused(folder):
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        opened(config(folder, tasks=str(folder / "none.jsonl")))


def test_rows_of_further_texts_are_the_same_for_every_seed_of_a_run(folder):
    (folder / "poem.txt").write_text("".join(map(chr, range(97, 123))) * 50)
    data = config(folder, also_heldout=[str(folder / "poem.txt")])
    one, other = (
        further_heldout(data, open_source(data, seq_len=T, seed=seed))["poem"] for seed in (0, 1)
    )
    assert np.array_equal(one, other)
