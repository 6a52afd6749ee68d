"""Ctrl-C ends the trainer's commands with 130 and one line."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("sweep.app", "grid", ["model=w16"]),
        ("sweep.plan", "grid", ["model=w16"]),
        ("sweep.rehearse", "rehearse", ["answer.json"]),
        ("sweep.fetch", "offline", ["offline", "wandb", "--out", "runs.csv"]),
    ],
)
def test_ctrl_c_is_one_line_and_exit_code_130(
    module, function, arguments, monkeypatch, capsys, tmp_path
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    command = importlib.import_module(module)
    monkeypatch.setattr(command, function, interrupted)
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 130
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("stopped; ") and err.count("\n") == 1
