"""Runs logged to W&B as a table: its API stood in for, its offline files read as they are."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.errors import RecordError
from sweep.fetch import (
    BLOCK,
    CHUNK_HEADER,
    FIRST,
    LAST,
    MIDDLE,
    WHOLE,
    commands,
    fetch,
    main,
    offline,
    parse_filters,
    read_wandb_file,
)

wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2  # noqa: E402


class Summary(dict):
    """`HTTPSummary`: a mapping of the last values."""


class Run:
    """`wandb.apis.public.Run`, as far as its documentation goes."""

    def __init__(self, id, name, state, config, summary, project="me/demo"):
        self.id, self.name, self.state = id, name, state
        self.config, self.summary = config, Summary(summary)
        self.path = [*project.split("/"), id]
        self.url = f"https://wandb.ai/{project}/runs/{id}"


RUNS = [
    Run(
        "a1", "sun-1", "finished", {"model": {"width": 64}, "n": 1e6}, {"loss": 3.5, "tokens": 2e7}
    ),
    Run("b2", "sun-2", "running", {"model": {"width": 64}, "n": 2e6}, {"loss": 3.4, "tokens": 1e7}),
    Run("c3", None, "crashed", {"model": {"width": 64}, "n": 4e6}, {"tokens": 1e6, "loss": "NaN"}),
]


@pytest.fixture
def api(monkeypatch):
    """W&B's API; what it was asked is kept."""
    asked = {}

    class Api:
        def __init__(self, timeout=None):
            asked["timeout"] = timeout

        def runs(self, path, filters=None, order="+created_at", per_page=50, lazy=True):
            asked.update(path=path, filters=filters)
            return iter(RUNS)

    monkeypatch.setattr(wandb, "Api", Api)
    return asked


def failing(error):
    """An API that raises when it is made or asked."""

    def make(timeout=None):
        raise error

    return make


def test_runs_of_a_project_become_a_table(api, tmp_path):
    out = tmp_path / "runs.csv"
    args = "wandb me/demo --filter state=finished --column params=n --column width=model.width"
    found = CliRunner().invoke(commands, [*args.split(), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert api["path"] == "me/demo"
    assert api["filters"] == {"state": "finished"}
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["source"] for r in rows] == ["me/demo/a1", "me/demo/c3"]
    assert [r["run"] for r in rows] == ["sun-1", "c3"]
    assert [r["status"] for r in rows] == ["done", "failed"]
    assert [r["params"] for r in rows] == ["1000000", "4000000"]
    assert "left out: sun-2: it is running" in found.stderr


def test_filters_are_keys_and_values_or_json():
    given = ["group=demo", "config.lr=0.01", '{"$or": [{"state": "finished"}]}']
    wanted = {"group": "demo", "config.lr": 0.01, "$or": [{"state": "finished"}]}
    assert parse_filters(given) == wanted
    for text in ("demo", "{bad", "x="):
        with pytest.raises(RecordError, match="--filter"):
            parse_filters([text])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (wandb.errors.UsageError("No API key configured. Use `wandb login`."), "no W&B key"),
        (wandb.errors.CommError("Could not reach\nthe server"), "did not answer for me/demo"),
        (ValueError("Could not find project demo"), "has no project me/demo"),
        (wandb.errors.AuthenticationError("bad credentials"), "could not check the key"),
        (OSError("Network is unreachable"), "sweep.fetch offline"),
    ],
)
def test_trouble_with_the_servers_is_one_line(monkeypatch, capsys, error, message):
    monkeypatch.setattr(wandb, "Api", failing(error))
    monkeypatch.setattr(sys, "argv", ["fetch", "wandb", "me/demo", "--out", "x.csv"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert message in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


@pytest.mark.parametrize("project", ["demo", "me/", "me/demo/runs"])
def test_a_project_needs_its_entity(project):
    with pytest.raises(RecordError, match="ENTITY/PROJECT"):
        list(fetch(project, {}))


def record(**fields):
    """A record of W&B's log, as bytes."""
    return wandb_internal_pb2.Record(**fields).SerializeToString()


def items(kind, **values):
    """Key and JSON value of each."""
    return [kind(key=k, value_json=json.dumps(v)) for k, v in values.items()]


def logbook(path, *, padding=0, exit_code=0):
    """An offline run's file, written chunk by chunk as LevelDB's log has it."""
    pb = wandb_internal_pb2
    config = pb.ConfigRecord(update=items(pb.ConfigItem, n=1e6, note="x" * padding))
    log = [
        record(run=pb.RunRecord(run_id="a1", project="demo", display_name="sun", config=config)),
        record(history=pb.HistoryRecord(item=items(pb.HistoryItem, loss=5.0, tokens=1e6))),
        record(history=pb.HistoryRecord(item=items(pb.HistoryItem, loss=3.0, tokens=2e7))),
        record(
            summary=pb.SummaryRecord(
                update=[pb.SummaryItem(nested_key=["val", "loss"], value_json="3.25")]
            )
        ),
        record(exit=pb.RunExitRecord(exit_code=exit_code)),
    ]
    data = bytearray(b":W&B\xe1\xbe\x00")
    for entry in log:
        position, first = 0, True
        while first or position < len(entry):
            left = BLOCK - len(data) % BLOCK
            if left < CHUNK_HEADER.size:
                data += bytes(left)
                continue
            body = entry[position : position + left - CHUNK_HEADER.size]
            position += len(body)
            kinds = {(True, True): WHOLE, (True, False): FIRST, (False, True): LAST}
            kind = kinds.get((first, position == len(entry)), MIDDLE)
            data += CHUNK_HEADER.pack(0, len(body), kind) + body
            first = False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("padding", [0, 32_640, 100_000])
def test_an_offline_file_is_read_whole_across_its_blocks(tmp_path, padding):
    found = read_wandb_file(logbook(tmp_path / "run-a1.wandb", padding=padding))
    assert (found.name, found.source, found.state) == ("sun", "demo/a1", "finished")
    assert found.config["n"] == 1e6
    assert len(found.config["note"]) == padding
    assert found.summary == {"loss": 3.0, "tokens": 2e7, "val.loss": 3.25}


@pytest.mark.parametrize("exit_code", [1, 255])
def test_a_run_that_ended_badly_is_failed(tmp_path, exit_code):
    assert read_wandb_file(logbook(tmp_path / "r.wandb", exit_code=exit_code)).state == "failed"


def test_a_file_cut_short_is_read_as_far_as_it_goes(tmp_path):
    path = logbook(tmp_path / "run-a1.wandb", padding=50_000)
    data = path.read_bytes()
    path.write_bytes(data[:-5])  # into the record that says how the run ended
    assert read_wandb_file(path).state == "running"
    assert read_wandb_file(path).summary["loss"] == 3.0
    path.write_bytes(data[:1000])
    with pytest.raises(RecordError, match="holds no run"):
        read_wandb_file(path)


def test_what_is_no_offline_run_is_named(tmp_path):
    (tmp_path / "run-x.wandb").write_text("hello")
    with pytest.raises(RecordError, match="is no offline run"):
        list(offline(tmp_path))
    with pytest.raises(RecordError, match="no offline runs below"):
        offline(tmp_path / "elsewhere")


@pytest.mark.slow
def test_what_wandb_itself_leaves_offline_is_imported(tmp_path):
    code = (
        "import sys, wandb\n"
        "for i in (1, 2):\n"
        "    run = wandb.init(project='demo', name=f'sun-{i}', dir=sys.argv[1], mode='offline',\n"
        "        config={'model': {'width': 16 * i}, 'n': 1000 * i}, reinit='finish_previous',\n"
        "        settings=wandb.Settings(silent=True, console='off', x_disable_stats=True))\n"
        "    for step in range(3):\n"
        "        run.log({'tokens': 1e5 * (step + 1), 'val/loss': 4.0 - step}, step=step)\n"
        "    run.finish()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    args = "--column params=n --column loss=val/loss --column width=model.width".split()
    out = tmp_path / "runs.jsonl"
    found = CliRunner().invoke(commands, ["offline", str(tmp_path), *args, "--out", str(out)])
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    # two runs of one second are ordered by their random ids
    assert sorted((r["run"], r["params"], r["width"]) for r in rows) == [
        ("sun-1", 1000, 16),
        ("sun-2", 2000, 32),
    ]
    assert [(r["tokens"], r["loss"]) for r in rows] == [(300000, 2), (300000, 2)]
    assert [(r["status"], r["source"].split("/")[0]) for r in rows] == [("done", "demo")] * 2
