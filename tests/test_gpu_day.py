"""The first hour on a GPU, without one: what is written, and when."""

import json

import torch

from tests.bench.gpu import SMALL
from tests.bench.gpu_day import measure_all, sweep


def test_the_file_has_every_finished_cell_before_the_next_begins(tmp_path):
    path, seen = tmp_path / "gpu.json", []

    def cell(value):
        if path.exists():
            seen.append(json.loads(path.read_text()))
        return {"value": 1 / value}

    cells = [(f"1/{v}", lambda v=v: cell(v)) for v in (1, 0, 2)]
    measure_all({"device": "none"}, path, {"first": cells[:2], "second": cells[2:]}, 60.0)
    assert [[*d["first"]] for d in seen] == [["1/1"], ["1/1", "1/0"]]
    found = json.loads(path.read_text())
    assert found["first"]["1/0"]["failed"].startswith("ZeroDivisionError")
    assert found["second"]["1/2"]["value"] == 0.5 and found["left_out"] == []


def test_after_the_limit_no_cell_is_begun_and_the_file_and_the_terminal_say_so(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    measure_all({}, path, {"speed": [("1M", dict), ("9M", dict)]}, -1.0)
    assert json.loads(path.read_text())["left_out"] == ["speed: 1M", "speed: 9M"]
    assert "speed: 1M; speed: 9M" in capsys.readouterr().out


def test_a_cpu_says_why_it_has_no_sweep_with_several_runs_at_once(tmp_path):
    path = tmp_path / "gpu.json"
    measure_all({}, path, {"sweep": sweep(SMALL, torch.device("cpu"))}, 60.0)
    found = json.loads(path.read_text())["sweep"]
    assert [*found] == ["train.runs_per_gpu=1", "train.runs_per_gpu=4"]
    assert all("share a GPU" in cell["skipped"] for cell in found.values())
