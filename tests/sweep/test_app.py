"""The sweep's door from outside: real multiruns in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fit.cli.main import main as isoflop_main
from fit.data.records import read_runs
from sweep import app

ROOT = Path(__file__).parents[2]
TINY = [
    "model.depth=1",
    "model.head_dim=8",
    "model.seq_len=32",
    "data.heldout_tokens=2048",
    "train.batch_tokens=128",
    "train.warmup_tokens=300",
    "train.compile=off",
]
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def start(folder: Path, *arguments: str, module: str = "sweep") -> subprocess.Popen[str]:
    flags = [a for a in arguments if a == "-m"]
    overrides = [*TINY, f"runs_dir={folder}", "name=pilot", *(a for a in arguments if a != "-m")]
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags, *overrides],
        cwd=ROOT,
        env={**environment, **NO_NETWORK, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str, module: str = "sweep") -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments, module=module)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def results(folder: Path) -> dict[str, dict]:
    return {r.run: r.result() for r in read_runs(folder).records}


def test_a_multirun_leaves_a_record_per_cell_and_refused_cells_are_named(tmp_path):
    first = run(tmp_path, "-m", "model.width=8,12,16", "train.tokens=4e3,8e3", "tracking=csv")
    assert first.returncode == 1
    assert "model.width=12 is not a multiple" in first.stderr
    assert "4 done, 2 refused" in first.stderr
    assert first.stderr.count("is not a multiple") == 1, "the closing lines repeat no refusal"
    assert "Traceback" not in first.stderr
    assert len(results(tmp_path)) == 4
    for folder in (tmp_path / "pilot").glob("w*"):
        assert {p.name for p in folder.iterdir()} == {"record.json", "curve.csv", "config.yaml"}


@pytest.mark.slow
def test_wandb_logs_offline_without_key_or_network(tmp_path):
    done = run(tmp_path, "model.width=8", "train.tokens=4e3", "tracking=wandb")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "pilot" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert "not logged" not in done.stderr


def test_a_wrong_override_is_one_line_and_costs_nothing(tmp_path):
    wrong = run(tmp_path, "-m", "model.widht=8")
    assert wrong.returncode == 1
    opening, error = wrong.stderr.strip().splitlines()
    assert opening.startswith("planning -m ")
    assert error.startswith("error: ") and "widht" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "said"), [("wrte", "the nearest is write."), ("qqqq", "commands are write, export")]
)
def test_a_misspelt_command_is_told_the_nearest(word, said):
    with pytest.raises(SystemExit, match=f"{word} is no command of isoflop sweep, .*{said}"):
        app.main([word, "runs/mine"], prog="isoflop sweep")


def test_a_command_of_the_trainer_is_called_as_it_was_typed(monkeypatch):
    called = []
    entry = SimpleNamespace(load=lambda: lambda words, prog: called.append((words, prog)))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [entry])
    CliRunner().invoke(isoflop_main, ["sweep", "write", "--help"])
    assert called == [(["write", "--help"], "isoflop sweep")]


def test_the_plan_lists_every_run_and_launches_none(tmp_path):
    words = ("model.width=8,16", "train.tokens=[4e3,8e3]", "measure=off")
    plan = run(tmp_path, *words, module="sweep.plan")
    assert plan.returncode == 0, plan.stderr
    assert "4 runs, 0 there already" in plan.stdout
    assert max(map(len, plan.stdout.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
from importlib import import_module
if __name__ == "__main__":
    import_module(sys.argv[1]).main(sys.argv[2:], prog="isoflop")
"""
"""What an installed command does: the folder that Python searches first is the script's own."""


@pytest.mark.slow
def test_files_of_the_users_with_names_of_ours_do_no_harm(tmp_path):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "command"
    script.write_text(SCRIPT)
    work = tmp_path / "work"
    (work / "conf").mkdir(parents=True)
    (work / "conf" / "__init__.py").touch()
    (work / "conf" / "config.yaml").write_text("name: other\n")
    (work / "mine" / "experiment").mkdir(parents=True)
    (work / "mine" / "experiment" / "two.yaml").write_text("# @package _global_\nseed: 7\n")
    for name in ("fit", "isoflop", "sweep"):
        (work / f"{name}.py").write_text("raise SystemExit('a file of the user was run')\n")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = ["model.width=8", "tracking=none", "name=pilot", *TINY]
        return subprocess.run(
            [sys.executable, *arguments, *words],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    plan = command(
        *(str(script), "sweep.plan", "measure=off", "train.tokens=4e3"),
        *("--config-dir", "mine", "+experiment=two"),
    )
    assert plan.returncode == 0, plan.stderr
    assert "-s7-" in plan.stdout
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = command(str(script), "sweep.app", "-m", *workers, "train.tokens=4e3,8e3")
    assert done.returncode == 0, done.stderr
    assert len(results(work / "runs")) == 2
    (work / "sweep.py").unlink()  # `python -m sweep` itself means the file that is found first
    module = command("-m", "sweep.plan", "measure=off", "train.tokens=4e3")
    assert module.returncode == 0, module.stderr
    assert "1 there already" in module.stdout


@pytest.mark.slow
def test_kill_nine_at_random_moments_changes_no_record(tmp_path):
    """Five kills of the whole process group, each followed by the same command again."""
    grid = [
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "model.width=8,16,24",
        "train.tokens=[3e5,6e5,9e5,12e5]",
        "train.checkpoint_seconds=0.2",
        "tracking=none",
    ]
    calm = run(tmp_path / "calm", *grid)
    assert calm.returncode == 0, calm.stderr
    moments, kills = random.Random(0), 0
    while kills < 5:
        process = start(tmp_path / "shaken", *grid)
        time.sleep(moments.uniform(6, 13))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills == 5, "the sweep ended before it was killed five times"
    last = run(tmp_path / "shaken", *grid)
    assert last.returncode == 0, last.stderr
    assert len(results(tmp_path / "calm")) == 12
    assert results(tmp_path / "calm") == results(tmp_path / "shaken")


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_seconds_only(tmp_path):
    grid = [
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "model.width=8",
        "train.tokens=3e5,6e5,9e5,12e5",
        "tracking=none",
    ]
    process = start(tmp_path, *grid)
    workers: list[int] = []
    while len(workers) < 2 or not list(tmp_path.glob("pilot/.work-*")):
        time.sleep(0.2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            int(c) for c in children if "popen_loky" in Path(f"/proc/{c}/cmdline").read_text()
        ]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "the launch broke off" in err and "Traceback" not in err
    assert len(results(tmp_path)) == 4
