"""A command that was killed while Slurm jobs run: the next one waits, and trains the rest."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from sweep.launch import launcher, queue
from sweep.launch.jobs import run
from sweep.launch.launcher import HydraLauncher, PendingCell, launch_cells
from sweep.launch.queue import NOTE_NAME, earlier_launches, note_launch
from sweep.planning.grid import grid
from tests.sweep.launch.test_launcher import TINY, play, statuses

EARLIER = "isoflop-1234"


@pytest.fixture
def cells(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.01)
    return grid([*TINY, f"runs_dir={tmp_path}", "model.width=8,16"], multirun=True)


def noted(folder, cells):
    """The note that a command leaves which is killed while its jobs train cells."""
    note = folder / "tiny" / ".hydra" / EARLIER
    note_launch(note, [r.run for c in cells for _, r in c.runs()])
    (note / "0.pkl").write_bytes(b"bundle")
    return note


@pytest.mark.parametrize("dies", [False, True])
def test_jobs_of_a_killed_command_are_waited_for_and_not_trained_twice(
    tmp_path, cells, monkeypatch, dies
):
    note, looks = noted(tmp_path, cells[:1]), []

    def states(name):
        assert name == EARLIER
        looks.append(name)
        if len(looks) == 4 and not dies:
            run(cells[0].config)
        return ["RUNNING"] if len(looks) < 4 else ["COMPLETED"]

    def launched(batch):
        assert note.exists() or len(looks) > 4, "a bundle's file stays while its jobs live"
        for cell in batch:
            run(cell.config)

    monkeypatch.setattr(queue, "job_states", states)
    batches = play(monkeypatch, launched)
    launch_cells(cells, [])
    assert batches == ([[16], [8]] if dies else [[16]])
    assert statuses(cells) == {8: "done", 16: "done"}
    assert not note.exists()


@pytest.mark.parametrize(
    ("states", "kept"), [(["COMPLETED", "FAILED"], False), ([], False), (None, True)]
)
def test_a_launch_that_is_over_holds_nothing_back(tmp_path, cells, monkeypatch, states, kept):
    note = noted(tmp_path, cells)
    monkeypatch.setattr(queue, "job_states", lambda name: states)
    assert earlier_launches([tmp_path / "tiny"]) == {}
    assert note.exists() == kept, "only where Slurm says so"


@pytest.mark.parametrize("ends", [True, False])
def test_a_launch_keeps_its_note_while_its_jobs_may_be_alive(tmp_path, cells, monkeypatch, ends):
    config = OmegaConf.create(
        {
            "files": "all",
            "hydra": {
                "sweep": {"dir": f"{tmp_path}/tiny/.hydra"},
                "launcher": {"_target_": "x.SlurmLauncher", "submitit_folder": f"{tmp_path}/%j"},
                "runtime": {"choices": {"hydra/launcher": "slurm"}},
            },
        }
    )
    seen = []

    def wait(name, launch):
        (note,) = Path(config.hydra.sweep.dir).glob(f"*/{NOTE_NAME}")
        assert note.parent.name == name == config.hydra.launcher.name
        seen.append(json.loads(note.read_text()))
        if not ends:
            raise KeyboardInterrupt
        return [SimpleNamespace(return_value=[None])]

    monkeypatch.setattr(launcher, "compose_multirun", lambda overrides: config)
    monkeypatch.setattr(launcher, "wait_for_jobs", wait)
    monkeypatch.setattr(launcher, "isolated_child_interpreters", nullcontext)
    jobs = [[PendingCell(cell=cell)] for cell in cells[:1]]
    if ends:
        assert HydraLauncher([]).launch(jobs) is None
    else:
        with pytest.raises(KeyboardInterrupt):
            HydraLauncher([]).launch(jobs)
    assert seen == [[r.run for _, r in cells[0].runs()]]
    assert bool(list((tmp_path / "tiny").glob(f".hydra/*/{NOTE_NAME}"))) == (not ends)
