"""What the plan says of the data, before its runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweep.plan import main

ROOT = Path(__file__).parents[2]
SMALL = ["measure=off", "model=w16", "model.seq_len=32", "data.heldout_tokens=1024"]


def planned(capsys, *words):
    """The lines of a plan above its table, by their names."""
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, *words])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert max(map(len, out.splitlines())) <= 80
    blocks = out.partition("run   ")[0].strip().split("\n\n")
    return [_facts(block.splitlines()) for block in blocks]


def _facts(lines):
    facts: dict[str, str] = {}
    for line in lines:
        name = line[:11].strip() or list(facts)[-1]
        facts[name] = f"{facts.get(name, '')} {line[11:]}".strip()
    return facts


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "a folder of texts with a rather long name, as people have them"
    folder.mkdir()
    words = np.random.default_rng(0).choice(["red", "green", "blue", "grey"], size=(20, 400))
    for number, row in enumerate(words):
        (folder / f"{number}.txt").write_text(" ".join(row))
    for number in range(3):
        (folder / f"copy {number}.txt").write_text(" ".join(words[0]))
    return [f"data.path='{folder}'", "data=text", f"data.cache={tmp_path}/cache"]


def test_stories_are_endless(capsys):
    (facts,) = planned(capsys, "train.tokens=[1e5,2e5]", "data.size=small")
    assert facts["data"].startswith("stories of size small (hash ")
    assert (facts["vocabulary"], facts["tokens"]) == ("497", "endless")
    assert facts["epochs"] == "none: no token is repeated"
    assert facts["held out"] == "1,024 tokens, 32 rows of 32, never trained on"


def test_text_has_its_documents_and_copies_counted(capsys, texts):
    (facts,) = planned(capsys, *texts, "data.tokenizer=bytes", "train.tokens=50e3,200e3")
    assert facts["documents"] == "20, 3 copies dropped"
    assert facts["tokenizer"] == "bytes of UTF-8"
    assert facts["vocabulary"] == "257"
    tokens = int(facts["tokens"].split()[0].replace(",", ""))
    shortest, longest = (float(n) for n in facts["epochs"].split(" over")[0].split(" to "))
    assert shortest == pytest.approx(50e3 / tokens, rel=0.01)
    assert longest == pytest.approx(200e3 / tokens, rel=0.01)


def test_a_corpus_of_before_copies_were_counted_says_so(capsys, texts, tmp_path):
    planned(capsys, *texts, "data.vocab=300", "train.tokens=50e3")
    (meta,) = tmp_path.glob("cache/corpora/*/meta.json")
    meta.write_text(meta.read_text().replace('"duplicates": 3,', ""))
    (facts,) = planned(capsys, *texts, "data.vocab=300", "train.tokens=50e3")
    assert facts["documents"] == "20, copies of others not counted"


def test_every_data_set_of_a_grid_is_described_up_to_three(capsys):
    caps = "data.unique_tokens=32e3,null"
    capped, endless = planned(capsys, "train.tokens=1e5", caps)
    assert capped["tokens"] == "32,000 to train on by data.unique_tokens"
    assert capped["epochs"] == "3.12 over these tokens"
    assert endless["tokens"] == "endless"
    blocks = planned(capsys, "train.tokens=1e5", "data.seed=0,1,2,3,4")
    assert list(blocks[-1]) == ["and 2 furth"] and len(blocks) == 4


@pytest.mark.slow
def test_planning_needs_no_torch(texts):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sweep.plan import main\n"
        f"main({[*SMALL, *texts, 'train.tokens=5e4']!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "documents  20, 3 copies dropped" in done.stdout
