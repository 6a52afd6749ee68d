"""One rule decides whether an answer may be launched, for every way to ask."""

import json

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.errors import QueryError
from fit.query.answer import query
from fit.query.exports import export
from fit.results import read_fit
from tests.fit.builders import make_fit
from tests.fit.service.client import ask, pilot, service


@pytest.mark.parametrize(
    ("budget", "force", "refused"),
    [("1e14", False, False), ("3e20", False, True), ("3e20", True, False)],
)
def test_command_line_http_and_python_agree_on_what_is_launched(
    tmp_path, monkeypatch, budget, force, refused
):
    pilot(tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    options = [budget, "--fit", "reports/pilot", *(["--force"] if force else [])]

    def command(*words):
        return CliRunner().invoke(main, ["query", *options, *words])

    answers = [
        query("reports/pilot", budget, force=force).document(),
        json.loads(command("--json").stdout),
        ask(
            service(tmp_path / "reports"), f"/v1/query?fit=pilot&flops={budget}&force={force}"
        ).json(),
    ]
    assert [list(a["config"]) for a in answers] == [list(answers[0]["config"])] * 3
    refusals = {a["launch_refusal"] for a in answers}
    assert len(refusals) == 1
    (refusal,) = refusals
    assert (refusal is not None) == refused == (not answers[0]["config"])
    for words in (["--config"], ["--export", "hf"]):
        run = command(*words)
        assert run.exit_code == (1 if refused else 0)
        if refused:
            assert run.stdout == ""
            assert run.stderr == f"isoflop: {refusal}\n"
            assert "add --force" in run.stderr


def test_an_export_in_python_obeys_the_same_rule(tmp_path):
    fit = read_fit(pilot(tmp_path) / "pilot")
    with pytest.raises(QueryError, match="not launched: extrapolates"):
        export(query(fit, 3e20), fit, "hf")
    assert json.loads(export(query(fit, 3e20, force=True), fit, "hf"))["model_type"] == "llama"


def test_a_doubtful_fit_launches_nothing_at_any_budget():
    answer = query(make_fit(kappa=400.0), 1e14)
    assert (answer.config, answer.shape is not None) == ((), True)
    assert "barely" in answer.launch_refusal
