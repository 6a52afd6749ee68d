"""Files of other trackers and trainers: what they are is found out, and their runs are read."""

import json
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.detection import find_runs
from fit.data.readers import load
from fit.errors import RecordError

SAMPLES = Path(__file__).with_name("samples")
KEYS = ["--column", "params=n_params", "--column", "loss=val/loss"]
TRACKED = [("sun-0", 1e6, 3e6, 3.0), ("sun-1", 2e6, 3e6, 2.5)]
"""(run, params, tokens, loss) of what each tracker is given here."""


def write_mlruns(folder, states=("3", "3")):
    """A file store as MLflow documents it."""
    for i, state in enumerate(states):
        run = folder / "mlruns" / "1" / f"id{i}"
        (run / "params").mkdir(parents=True)
        (run / "metrics" / "val").mkdir(parents=True)
        stage = "deleted" if state == "deleted" else "active"
        meta = f"lifecycle_stage: {stage}\nrun_id: {i}\nrun_name: sun-{i}\nstatus: {state}\n"
        (run / "meta.yaml").write_text(meta)
        (run / "params" / "n_params").write_text(f"{(i + 1) * 10**6}")
        (run / "params" / "opt").write_text("adamw")
        (run / "metrics" / "tokens").write_text("17 1000000.0 0\n18 3000000.0 2\n")
        (run / "metrics" / "val" / "loss").write_text(f"17 9.0 0\n18 {3 - i / 2} 2\n18 8.0 1\n17 5")
    return folder / "mlruns"


def write_mlflow_base(folder):
    """The tables of MLflow's SQLite store that hold runs."""
    path = folder / "mlflow.db"
    with sqlite3.connect(path) as base:
        base.executescript(
            "CREATE TABLE runs (run_uuid, name, status, start_time, lifecycle_stage);"
            "CREATE TABLE params (key, value, run_uuid);"
            "CREATE TABLE latest_metrics (key, value, timestamp, step, is_nan, run_uuid);"
        )
        for i in range(2):
            base.execute("INSERT INTO runs VALUES (?,?,'FINISHED',?,'active')", (i, f"sun-{i}", i))
            base.execute("INSERT INTO params VALUES ('n_params',?,?)", (f"{(i + 1) * 10**6}", i))
            for key, value in (("tokens", 3e6), ("val/loss", 3 - i / 2)):
                base.execute("INSERT INTO latest_metrics VALUES (?,?,0,2,0,?)", (key, value, i))
        base.execute("INSERT INTO runs VALUES ('x','old','FINISHED',9,'deleted')")
    base.close()
    return path


def write_trackio(folder, *, old=False, plan=None):
    """A project of trackio: with ids of runs and configs, or as its first versions had it."""
    path = folder / "demo.db"
    with sqlite3.connect(path) as base:
        if old:
            base.execute("CREATE TABLE metrics (id, project_name, run_name, step, metrics)")
        else:
            base.execute("CREATE TABLE metrics (id, run_id, run_name, step, metrics)")
            base.execute("CREATE TABLE configs (id, run_id, run_name, config)")
        for i in range(2):
            config = {"n_params": (i + 1) * 10**6, "_Username": None, "max_steps": plan or 3}
            for step in (2, 0, 1):
                logged = {"tokens": 1e6 * (step + 1), "val/loss": 3 - i / 2 + (2 - step)}
                logged |= config if old else {}
                row = (step, "demo" if old else f"id{i}", f"sun-{i}", step, json.dumps(logged))
                base.execute("INSERT INTO metrics VALUES (?,?,?,?,?)", row)
            if not old:
                cells = (i, f"id{i}", f"sun-{i}", json.dumps(config).encode())
                base.execute("INSERT INTO configs VALUES (?,?,?,?)", cells)
    base.close()
    return path


def imported(path, *arguments, out=None):
    """The printed text and the table of an import."""
    out = out or path.parent / "table.csv"
    result = CliRunner().invoke(main, ["import", str(path), "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    return result, load(out)


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (write_mlruns, "MLflow"),
        (write_mlflow_base, "MLflow"),
        (write_trackio, "trackio"),
        (lambda folder: write_trackio(folder, old=True), "trackio"),
    ],
)
def test_the_files_of_a_tracker_become_a_table(tmp_path, write, kind):
    result, table = imported(write(tmp_path), *KEYS)
    assert result.stdout.startswith(f"found    {kind}: 2 runs\nparams   from n_params\n")
    rows = zip(table.run, table.params, table.tokens, table.loss, strict=True)
    assert sorted(rows) == TRACKED
    assert find_runs([tmp_path]).kind == kind, "a folder above is found as well"


def test_states_of_mlflow_are_kept_and_deleted_runs_left_out(tmp_path):
    runs = find_runs([write_mlruns(tmp_path, ("3", "4", "1", "deleted"))]).runs
    assert sorted(run.state for run in runs) == ["failed", "finished", "running"]


def test_a_run_without_a_state_that_is_short_of_its_plan_is_left_out(tmp_path):
    runs = find_runs([write_trackio(tmp_path, plan=10)]).runs
    assert {run.state for run in runs} == {"7 steps short of its plan"}


def test_event_files_that_tensorboard_wrote_are_read():
    found = find_runs([SAMPLES / "tensorboard"])
    (run,) = found.runs
    assert (found.kind, run.name, run.state) == ("TensorBoard", "run0", "finished")
    assert run.config == {
        "n_params": 1e6, "lr": 0.01, "opt": "adamw", "amp": True, "max_steps": 101
    }  # fmt: skip
    wanted = {"val/loss": 2.5, "tokens": 1e7, "train/loss": 1.25, "hp/final": 2.5, "_step": 100}
    assert run.summary == wanted


def test_an_event_file_cut_short_anywhere_is_read_as_far_as_it_goes(tmp_path):
    (path,) = (SAMPLES / "tensorboard" / "run0").glob("events*")
    data = path.read_bytes()
    cut = tmp_path / path.name
    steps = set()
    for size in range(0, len(data), 7):
        cut.write_bytes(data[:size])
        steps.add(find_runs([cut]).runs[0].summary["_step"])
    assert steps == {0, 50, 100}


def test_a_damaged_event_file_is_read_or_refused_in_one_line(tmp_path):
    (path,) = (SAMPLES / "tensorboard" / "run0").glob("events*")
    data = path.read_bytes()
    damaged = tmp_path / path.name
    refused = 0
    for place in range(0, len(data), 3):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            find_runs([damaged])
        except RecordError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10


def test_a_length_beyond_the_file_costs_no_memory(tmp_path):
    path = tmp_path / "events.out.tfevents.1.x"
    head = struct.pack("<Q", 1 << 60)
    from fit.data.stores import MASK, _crc32c

    crc = _crc32c(head)
    path.write_bytes(head + struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF))
    assert find_runs([path]).runs[0].summary == {"_step": 0}
    assert _crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"


LOGS = {
    "nanogpt": ("nanoGPT", 10_745_088, 8_192_000, 1.7256),
    "nanochat": ("nanochat", 8_388_608 + 3_145_776, 131_072_000, 1.288001),
    "torchtitan": ("torchtitan", 6_139_136, 10 * 64 * 2048, 4.1001),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_log_of_a_trainer_becomes_a_table(tmp_path, name):
    trainer, params, tokens, loss = LOGS[name]
    result, table = imported(SAMPLES / f"{name}.log", out=tmp_path / "table.csv")
    lines = result.stdout.splitlines()
    assert lines[0] == f"found    logs of {trainer}: 1 run"
    assert [line.split()[0] for line in lines[1:4]] == ["params", "tokens", "loss"]
    assert (table.run[0], table.params[0], table.tokens[0], table.loss[0]) == (
        name, params, tokens, loss
    )  # fmt: skip


def test_bits_per_byte_of_nanochat_stay_bits_per_byte_unless_another_loss_is_asked_for(tmp_path):
    path, out = SAMPLES / "nanochat.log", tmp_path / "table.csv"
    imported(path, out=out)
    assert out.read_text().splitlines()[1].endswith(",bpb")
    _, table = imported(path, "--column", "loss=train_loss", out=out)
    assert "bpb" not in out.read_text()
    assert table.loss[0] == 4.012345


def test_a_log_that_stops_before_its_plan_is_left_out_and_says_where_it_stopped(tmp_path):
    for name in LOGS:
        text = (SAMPLES / f"{name}.log").read_text()
        last = {"nanogpt": "step 500:", "nanochat": "Step 00500", "torchtitan": "validate step: 10"}
        (tmp_path / f"{name}.log").write_text(text[: text.index(last[name])])
        with pytest.raises(RecordError, match=r"evaluated last at step \d+ of \d+"):
            result = CliRunner().invoke(
                main, ["import", str(tmp_path / f"{name}.log"), "--out", str(tmp_path / "t.csv")]
            )
            assert result.exit_code == 1
            raise RecordError(result.stderr)


def test_a_log_without_validation_has_the_tokens_of_its_last_step(tmp_path):
    lines = (SAMPLES / "torchtitan.log").read_text().splitlines(keepends=True)
    trained = [line for line in lines if "validate" not in line]
    (tmp_path / "a.log").write_text("".join(trained))
    ask = ("--column", "loss=train_loss")
    _, table = imported(tmp_path / "a.log", *ask, out=tmp_path / "t.csv")
    assert (table.tokens[0], table.loss[0]) == (10 * 64 * 2048, 4.0256)
    (tmp_path / "a.log").write_text("".join(line for line in trained if "step: 10" not in line))
    assert find_runs([tmp_path / "a.log"]).runs[0].state == "trained last at step 1 of 10"


def test_a_log_whose_last_loss_is_nan_is_of_a_diverged_run(tmp_path):
    text = (SAMPLES / "nanogpt.log").read_text()
    (tmp_path / "good.log").write_text(text)
    (tmp_path / "bad.log").write_text(text.replace("val loss 1.7256", "val loss nan"))
    result = CliRunner().invoke(main, ["import", str(tmp_path), "--out", str(tmp_path / "t.csv")])
    assert "taken for diverged, since the loss is no number: bad" in result.output
    rows = (tmp_path / "t.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["diverged", "done"]


def test_a_log_of_several_runs_gives_each_of_them(tmp_path):
    text = (SAMPLES / "nanogpt.log").read_text()
    resumed = text.replace("val loss 1.7256", "val loss 1.5")
    (tmp_path / "all.log").write_text(text[: text.index("step 500:")] + resumed)
    first, second = find_runs([tmp_path / "all.log"]).runs
    assert first.state == "evaluated last at step 250 of 500"
    assert (second.name, second.state, second.summary["loss"]) == ("all#2", "finished", 1.5)


def test_a_log_that_ends_in_an_exception_is_a_failed_run(tmp_path):
    text = (SAMPLES / "torchtitan.log").read_text()
    head = text[: text.index("[rank0]:[titan] 2025-11-25 19:45:02")]
    (tmp_path / "a.log").write_text(head + "Traceback (most recent call last):\n  File ...\n")
    assert find_runs([tmp_path / "a.log"]).runs[0].state == "crashed"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.log": "hello\n"}, "holds no runs"),
        ({"a.db": "SQLite format 3\0 and no more"}, "as a tracker's SQLite file"),
        ({"events.out.tfevents.1.x": "not at all an event file"}, "is damaged, or no event file"),
        ({"record.json": "{}"}, "isoflop fit"),
        ({"wandb/run-a1.wandb": ":W&B"}, "isoflop fetch offline"),
        ({"r/meta.yaml": "status: 3", "r/metrics/loss": "x"}, "holds no metric of MLflow"),
    ],
)
def test_what_holds_no_runs_is_refused_in_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    result = CliRunner().invoke(main, ["import", str(tmp_path), "--out", "t.csv"])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_two_kinds_in_one_folder_are_refused_and_named(tmp_path):
    write_trackio(tmp_path)
    shutil.copy(SAMPLES / "nanogpt.log", tmp_path)
    with pytest.raises(RecordError, match="holds trackio and logs of nanoGPT; one kind"):
        find_runs([tmp_path])


def test_a_cell_of_trackio_that_is_no_object_is_refused(tmp_path):
    path = write_trackio(tmp_path)
    with sqlite3.connect(path) as base:
        base.execute("UPDATE metrics SET metrics = '[1]'")
    base.close()
    with pytest.raises(RecordError, match="holds no object"):
        find_runs([path])


def test_missing_columns_are_named_in_one_line_with_the_keys_that_there_are(tmp_path):
    result = CliRunner().invoke(main, ["import", str(write_trackio(tmp_path)), "--out", "t.csv"])
    assert result.exit_code == 1
    assert "no run has 'params' for the column params, nor 'loss' for the column loss" in (
        result.stderr
    )
    assert "n_params" in result.stderr
    assert "val/loss" in result.stderr
    assert "--column params=KEY --column loss=KEY" in result.stderr


WRITERS = {
    "mlflow": "import mlflow, os\nos.environ['MLFLOW_ALLOW_FILE_STORE'] = 'true'\n"
    "for uri in ('file:' + out + '/mlruns', 'sqlite:///' + out + '/base/mlflow.db'):\n"
    "    mlflow.set_tracking_uri(uri)\n"
    "    for i in range(2):\n"
    "        with mlflow.start_run(run_name=f'sun-{i}'):\n"
    "            mlflow.log_params({'n_params': 10**6 * (i + 1)})\n"
    "            for s in range(3):\n"
    "                logged = {'tokens': 1e6 * (s + 1), 'val/loss': 5 - i / 2 - s}\n"
    "                mlflow.log_metrics(logged, step=s)\n",
    "trackio": "import os\nos.environ['TRACKIO_DIR'] = out + '/base'\nimport trackio\n"
    "for i in range(2):\n"
    "    config = {'n_params': 10**6 * (i + 1)}\n"
    "    trackio.init(project='demo', name=f'sun-{i}', config=config, embed=False)\n"
    "    for s in range(3): trackio.log({'tokens': 1e6 * (s + 1), 'val/loss': 5 - i / 2 - s})\n"
    "    trackio.finish()\n",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter\n"
    "for i in range(2):\n"
    "    w = SummaryWriter(out + f'/base/sun-{i}')\n"
    "    for s in range(3):\n"
    "        w.add_scalar('tokens', 1e6 * (s + 1), s)\n"
    "        w.add_scalar('val/loss', 5 - i / 2 - s, s, new_style=True)\n"
    "    w.add_hparams({'n_params': 10**6 * (i + 1)}, {})\n"
    "    w.close()\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", WRITERS)
def test_what_the_packages_themselves_write_is_imported(tmp_path, package):
    pytest.importorskip(package)
    (tmp_path / "base").mkdir()
    code = f"import sys\nout = sys.argv[1]\n{WRITERS[package]}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300)
    for folder in [f for f in (tmp_path / "mlruns", tmp_path / "base") if f.exists()]:
        _, table = imported(folder, *KEYS, out=tmp_path / "table.csv")
        rows = zip(table.run, table.params, table.tokens, table.loss, strict=True)
        assert sorted(rows) == TRACKED
