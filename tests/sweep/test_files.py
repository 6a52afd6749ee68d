"""At most three files a run where few are asked for: nothing is lost, and all is read as before."""

from __future__ import annotations

import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from fit.data.records import FILES_NAME, read_beside, read_curve, read_runs
from fit.errors import PlanError
from sweep.launch import launcher
from sweep.launch.jobs import run as train_cell
from sweep.launch.launcher import HydraLauncher
from sweep.planning.grid import compose_config, grid
from sweep.training.tracking import CommandLineTracker, pack_files
from sweep.writing.weights import CARD_NAME, load_run
from tests.sweep.launch.test_launcher import TINY

CELLS = "model.width=8,16"
GIVEN = [word for word in TINY if not word.startswith("tracking")]


@pytest.fixture
def wandb(monkeypatch):
    """A wandb that leaves files as the real one does offline."""

    def init(*, dir, name, **_):
        folder = Path(dir) / "wandb" / f"offline-run-{name}"
        (folder / "logs").mkdir(parents=True)
        (folder / f"run-{name}.wandb").write_bytes(b"\0binary")
        (folder / "logs" / "debug.log").write_text("log")
        (Path(dir) / "wandb" / "latest-run").unlink(missing_ok=True)
        (Path(dir) / "wandb" / "latest-run").symlink_to(folder.name)
        return SimpleNamespace(summary={}, log=lambda *a, **k: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **k: k))
    monkeypatch.delenv("WANDB_DIR", raising=False)


def files_below(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() or p.is_symlink()]


def trained(folder, *overrides):
    for cell in grid([*GIVEN, f"runs_dir={folder}", *overrides], multirun=True):
        train_cell(cell.config)
    return folder / "tiny"


def test_a_sweep_of_n_cells_leaves_at_most_three_files_a_run(tmp_path, wandb):
    few = trained(tmp_path / "few", CELLS, "files=few", "train.keep=weights")
    many = trained(tmp_path / "all", CELLS, "train.keep=weights")
    runs = sorted(p for p in few.iterdir() if p.is_dir() and p.name[0] == "w")
    assert len(runs) == 2
    expected = {"record.json", "weights.safetensors", FILES_NAME}
    assert all({p.name for p in run.iterdir()} == expected for run in runs)
    assert len(files_below(few)) <= 3 * len(runs) < len(files_below(many))
    few_runs, all_runs = read_runs(few), read_runs(many)
    assert [r.result() for r in few_runs.records] == [r.result() for r in all_runs.records]
    for run in runs:
        other = many / run.name
        assert (read_curve(str(run)) == read_curve(str(other))).all()
        assert read_beside(run, "curve.csv") == (other / "curve.csv").read_text()
        assert read_beside(run, "config.yaml").replace("few", "all") == (
            other / "config.yaml"
        ).read_text().replace("few", "all")
        with zipfile.ZipFile(run / FILES_NAME) as archive:
            inside = f"wandb/offline-run-{run.name}/run-{run.name}.wandb"
            assert archive.read(inside) == b"\0binary"
            assert f"wandb/offline-run-{run.name}/logs/debug.log" in archive.namelist()
        assert read_beside(run, CARD_NAME) == (other / CARD_NAME).read_text()
        assert load_run(run) is not None


def test_files_that_are_packed_replace_those_of_an_earlier_try_and_the_reverse(tmp_path):
    record = SimpleNamespace(run="r", status="failed", reason="no")
    for which in ("all", "few", "all"):
        config = compose_config([*TINY, f"files={which}", "tracking=csv"])
        curve = [(1.0, 2.0, 3.0, 4.0)] if which == "few" else [(5.0, 6.0, 7.0, 8.0)]
        CommandLineTracker(config).finish_run(tmp_path, record, curve)
        assert read_beside(tmp_path, "curve.csv").splitlines()[1] == ",".join(
            f"{v:g}" for v in curve[0]
        )
        assert (tmp_path / FILES_NAME).exists() == (which == "few")


def test_an_archive_that_is_damaged_or_lacks_a_file_is_no_curve(tmp_path):
    assert read_curve(str(tmp_path)) is None
    (tmp_path / "config.yaml").write_text("a: 1\n")
    pack_files(tmp_path)
    assert read_curve(str(tmp_path)) is None
    (tmp_path / FILES_NAME).write_bytes(b"cut")
    with pytest.raises(OSError, match=r"files\.zip does not hold it"):
        read_beside(tmp_path, "config.yaml")


def test_what_slurm_jobs_leave_is_one_archive_per_launch(tmp_path, monkeypatch):
    config = OmegaConf.create(
        {
            "files": "few",
            "hydra": {
                "sweep": {"dir": f"{tmp_path}"},
                "launcher": {
                    "_target_": "x.SlurmLauncher",
                    "submitit_folder": f"{tmp_path}/.submitit/%j",
                },
                "runtime": {"choices": {"hydra/launcher": "slurm"}},
            },
        }
    )

    def run_jobs(launcher, jobs, bundles):
        folder = Path(config.hydra.launcher.submitit_folder.replace("%j", "17"))
        folder.mkdir(parents=True)
        for number, name in enumerate(("log.out", "log.err", "submitted.pkl", "result.pkl")):
            (folder / f"17_{number}_{name}").write_text(name)
        return []

    monkeypatch.setattr(launcher, "compose_multirun", lambda overrides: config)
    monkeypatch.setattr(launcher, "wait_for_jobs", lambda name, launch: launch())
    monkeypatch.setattr(HydraLauncher, "_run", run_jobs)
    monkeypatch.setattr(launcher, "isolated_child_interpreters", nullcontext)
    played = HydraLauncher([])
    assert [played.launch([]) for _ in range(2)] == [None, None]
    archives = files_below(tmp_path)
    assert len(archives) == 2, "one for each launch"
    with zipfile.ZipFile(archives[0]) as archive:
        assert len(archive.namelist()) == 4


def test_another_number_of_files_is_refused():
    with pytest.raises(PlanError, match="files=one; known are all, few"):
        compose_config([*TINY, "files=one"])
