"""One rule decides whether an answer may be launched, for every way to ask."""

import json

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.errors import RefusedError
from fit.query.answer import query
from fit.results import read_fit
from tests.fit.builders import make_fit
from tests.fit.service.client import ask, pilot, service


@pytest.mark.parametrize(("budget", "force"), [("1e14", False), ("3e20", True)])
def test_command_line_http_and_python_launch_the_same(tmp_path, monkeypatch, budget, force):
    pilot(tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    options = [budget, "--fit", "reports/pilot", *(["--force"] if force else [])]
    answers = [
        query("reports/pilot", budget, force=force).document(),
        json.loads(CliRunner().invoke(main, ["query", *options, "--json"]).stdout),
        ask(
            service(tmp_path / "reports"), f"/v1/query?fit=pilot&flops={budget}&force={force}"
        ).json(),
    ]
    assert [list(a["config"]) for a in answers] == [list(answers[0]["config"])] * 3
    assert answers[0]["config"]
    assert [a["launch_refusal"] for a in answers] == [None] * 3
    for words in (["--config"], ["--export", "hf"]):
        assert CliRunner().invoke(main, ["query", *options, *words]).exit_code == 0


def test_what_is_refused_is_refused_everywhere_in_one_sentence(tmp_path, monkeypatch):
    pilot(tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError, match="beyond the largest budget fitted") as refusal:
        query("reports/pilot", 3e20)
    question = ["query", "3e20", "--fit", "reports/pilot"]
    for words in ([], ["--config"], ["--export", "hf"], ["--json"]):
        run = CliRunner().invoke(main, [*question, *words])
        assert run.exit_code == 1
        assert run.stderr == f"isoflop: {refusal.value} To see it all the same: --force.\n"
        assert bool(run.stdout) is (words == ["--json"])
    document = json.loads(run.stdout)
    assert (document["verdict"], document["verdict_reason"]) == ("refuse", refusal.value.reason)
    assert (document["params"], document["loss"], document["config"]) == (None, None, [])
    reply = ask(service(tmp_path / "reports"), "/v1/query?fit=pilot&flops=3e20")
    assert reply.status_code == 422
    assert str(refusal.value) in reply.json()["error"]["message"]


def test_what_is_insisted_on_beyond_the_reach_has_no_interval(tmp_path):
    answer = query(read_fit(pilot(tmp_path) / "pilot"), 3e20, force=True)
    assert answer.verdict.verdict == "refuse"
    assert (answer.level, answer.regret_band) == (None, None)
    numbers = (answer.flops, answer.params, answer.tokens, answer.loss, answer.loss_next_run)
    assert [(n.low, n.high) for n in numbers] == [(None, None)] * 5


def test_a_doubtful_fit_is_answered_with_care():
    answer = query(make_fit(kappa=400.0), 1e14)
    assert answer.verdict.verdict == "careful"
    assert "barely identified" in answer.verdict.reason
    assert answer.config
