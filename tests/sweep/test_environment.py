"""What the surroundings of a command are: wandb's variables, a closed pipe, no home."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fit.errors import PlanError
from sweep import cache
from sweep.planning.grid import compose_config
from sweep.training.tracking import log_to_wandb, say

ENTRY = "import sys; from sweep.plan import main; main(sys.argv[1:])"


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({}, {"project": "isoflop", "entity": None, "group": "pilot", "mode": "offline"}),
        (
            {"WANDB_PROJECT": "laws", "WANDB_ENTITY": "team", "WANDB_MODE": "online"},
            {"project": "laws", "entity": "team", "group": "pilot", "mode": "online"},
        ),
        (
            {"WANDB_PROJECT": "", "WANDB_RUN_GROUP": "night", "WANDB_DISABLED": "true"},
            {"project": "isoflop", "entity": None, "group": "night", "mode": "disabled"},
        ),
    ],
)
def test_wandbs_own_variables_hold(variables, used, monkeypatch, tmp_path):
    names = "PROJECT ENTITY RUN_GROUP MODE DIR DISABLED".split()
    for name in names:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = {}

    def init(**options):
        seen.update(options)
        return SimpleNamespace(summary={}, log=lambda *a, **k: None, finish=lambda: None)

    fake = SimpleNamespace(init=init, Settings=lambda **k: k)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    names = ("status", "loss", "loss_bpb", "params_total", "tokens", "flops", "mfu", "run")
    record = SimpleNamespace(**dict.fromkeys(names, "x"))
    log_to_wandb(compose_config(["name=pilot", f"runs_dir={tmp_path}"]), record, ())
    assert {name: seen[name] for name in used} == used


@pytest.mark.parametrize("words", [["--help"], ["measure=off", "seed=range(0,30)"]])
def test_a_plan_whose_reader_has_gone_ends_without_a_traceback(words, tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = [*words, f"runs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, *words], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_training_goes_on_where_nobody_reads_its_progress(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    say("step 1")


def test_without_a_home_the_cache_lies_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.cache_folder(None)
    assert folder == tmp_path / f"isoflop-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    (tmp_path / "isoflop-54321").mkdir()
    with pytest.raises(PlanError, match="XDG_CACHE_HOME"):
        cache.cache_folder(None)


def test_the_cache_is_where_the_user_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder(None) == Path("/somewhere/isoflop")
