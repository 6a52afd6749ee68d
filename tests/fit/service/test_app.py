"""The service's answers: the same as the command line's, and one shape of error."""

import dataclasses
import json
from urllib.parse import urlencode

import numpy as np
import pytest
from click.testing import CliRunner

import isoflop
from fit.allocation.scaling_law import further_budget
from fit.cli.main import main
from fit.data.progress import snapshot_document, take_snapshot
from fit.data.records import write_record
from fit.results import write_fit
from fit.service.errors import RequestError
from fit.verdict import NOTED_REACH
from tests.fit.builders import make_fit, make_points
from tests.fit.data.builders import record
from tests.fit.service.client import SweepWorkers, ask, finish, live_sweep, pilot, service

QUESTIONS = [
    *(["query", f"{c:.6g}"] for c in np.geomspace(1e12, 8e15, 8)),
    ["query", "3e13", "--force"],
    ["query", "1e8", "--fit", "reports/pilot"],
    ["query", "2.5e14", "--fit", "reports/pilot"],
    *(["query", f"{c:g}", "--law", name] for name in ("hoffmann2022", "gadre2024")
      for c in (1e18, 1e21, 5.76e23)),
    ["query", "1e22", "--law", "muennighoff2023", "--unique-tokens", "25e9"],
    ["query", "--dollars", "250k", "--price", "2.5", "--device", "h100", "--law", "hoffmann2022"],
    ["query", "--deadline", "48", "--devices", "8", "--device", "a100", "--mfu", "40%",
     "--law", "gadre2024"],
    ["query", "1e14", "--max-params", "200k", "--serve-tokens", "1B", "--regret"],
    ["query", "--loss", "1.35", "--min-ratio", "20"],
    ["query", "1e22", "--law", "besiroglu2024", "--memory", "8GB"],
    ["predict", "--params", "200k", "--tokens", "3M"],
    ["predict", "--params", "7B", "--tokens", "1.4T", "--law", "besiroglu2024"],
    ["compare", "reports/pilot", "reports/pilot", "--flops", "1e13"],
]  # fmt: skip


def fields_of(command):
    """The name of a command and the fields that it asks by, as (name, text)."""
    name, *rest = command
    fields = []
    if name == "query" and not rest[0].startswith("-"):
        fields.append(("flops", rest.pop(0)))
    if name == "compare":
        fields += [("a", rest.pop(0)[8:]), ("b", rest.pop(0)[8:])]
    while rest:
        option = rest.pop(0)[2:].replace("-", "_")
        value = "true" if option in ("force", "regret") else rest.pop(0).removeprefix("reports/")
        fields.append((option, value))
    return name, fields


def as_url(command):
    """The address that asks what a command asks."""
    name, fields = fields_of(command)
    return f"/v1/{name}?{urlencode(fields)}"


def in_python(command):
    """What the Python interface answers to a command."""
    name, fields = fields_of(command)
    fields = dict(fields)
    source = fields.pop("law", None) or f"reports/{fields.pop('fit', 'pilot')}"
    ask = {"query": isoflop.query, "predict": isoflop.predict}[name]
    return json.loads(json.dumps(ask(source, **fields).document()))


def test_twenty_questions_have_one_answer_by_command_by_http_and_in_python(tmp_path, monkeypatch):
    pilot(tmp_path / "reports")
    (tmp_path / "reports" / "blind" / "fit.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert len(QUESTIONS) >= 20
    replies = ask(service(tmp_path / "reports"), *map(as_url, QUESTIONS))
    for command, reply in zip(QUESTIONS, replies, strict=True):
        said = CliRunner().invoke(main, [*command, "--json"])
        assert said.exit_code == 0, said.output
        assert reply.status_code == 200, reply.text
        assert reply.json() == json.loads(said.stdout), command
        if command[0] != "compare":
            assert in_python(command) == reply.json(), command


REFUSED = [
    ("/v1/query", 422, "flops"),
    ("/v1/query?flops=abc", 422, "flops"),
    ("/v1/query?flops=-1", 422, "flops"),
    ("/v1/query?flops=1e400", 422, "flops"),
    ("/v1/query?flops=1e200", 422, None),
    ("/v1/query?flops=" + "9" * 300, 422, "flops"),
    ("/v1/query?flops=7B", 422, "flops"),
    ("/v1/query?flops=nan", 422, "flops"),
    ("/v1/query?flops=1e13&flops=1e14", 422, "flops"),
    ("/v1/query?flops=1e13&budget=3", 422, "budget"),
    ("/v1/query?flops=1e13&force=perhaps", 422, "force"),
    ("/v1/query?flops=1e13&fit=nope", 404, "fit"),
    ("/v1/query?flops=1e13&law=nope", 404, "law"),
    ("/v1/query?flops=1e13&fit=pilot&law=hoffmann2022", 422, "law"),
    ("/v1/query?flops=1e13&fit=blind", 422, None),
    ("/v1/query?flops=1e13&fit=%00", 404, "fit"),
    ("/v1/query?flops=1e13&fit=" + "x" * 300, 422, "fit"),
    ("/v1/predict?params=1e6", 422, "tokens"),
    ("/v1/predict?params=0&tokens=1e9", 422, "params"),
    ("/v1/compare?a=pilot", 422, "b"),
    ("/v1/compare?a=pilot&b=nope", 404, "b"),
    ("/v1/compare?a=pilot&b=pilot&level=2", 422, None),
    ("/v1/compare?a=pilot&b=pilot&level=x", 422, "level"),
    ("/v1/compare?a=pilot&b=pilot&interval=x", 422, None),
    ("/v1/training?fit=pilot", 422, "row"),
    ("/v1/training?fit=pilot&row=25", 422, "row"),
    ("/v1/training?fit=pilot&row=-1", 422, "row"),
    ("/v1/training?fit=pilot&row=1.5", 422, "row"),
    ("/v1/training?fit=pilot&row=" + "9" * 190, 422, "row"),
    ("/v1/training?fit=pilot&row=1&row=2", 422, "row"),
    ("/v1/training?fit=nope&row=1", 404, "fit"),
    ("/v1/training?law=hoffmann2022&row=1", 422, "law"),
    ("/v1/fits/nope", 404, "fit"),
    ("/v1/fits/..%2Fsecret", 404, None),
    ("/v1/report/nope.pdf", 404, "fit"),
    ("/v1/report/pilot.pdf?flops=%00", 422, "flops"),
    ("/page/nope.js", 404, "name"),
    ("/page/../api.py", 404, None),
    ("/page/%2e%2e/api.py", 404, None),
    ("/nope", 404, None),
]


def test_whatever_is_refused_is_refused_in_one_shape(tmp_path):
    replies = ask(service(pilot(tmp_path)), *(path for path, _, _ in REFUSED))
    for (path, status, field), reply in zip(REFUSED, replies, strict=True):
        assert reply.status_code == status, (path, reply.text)
        assert list(reply.json())[-1] == "error"
        result = reply.json()["error"]
        assert list(result) == ["kind", "message", "field"]
        assert result["kind"] and "\n" not in result["message"], path
        assert field is None or result["field"] == field, (path, result)


def test_the_verdict_stands_first_and_what_is_refused_has_no_number(tmp_path):
    served = service(pilot(tmp_path))
    fits, near, far, blind, curves, healthy, forced, predicted = ask(
        served,
        "/v1/fits/blind",
        "/v1/query?fit=pilot&flops=1e13",
        "/v1/query?fit=pilot&flops=1e17",
        "/v1/query?fit=blind&flops=1e13",
        "/v1/curves?fit=blind",
        "/v1/curves?fit=pilot",
        "/v1/query?fit=pilot&flops=1e17&force=true",
        "/v1/predict?fit=pilot&params=1e9&tokens=1e12",
    )
    assert list(fits.json())[1:3] == list(near.json())[1:3] == ["verdict", "verdict_reason"]
    assert near.json()["verdict"] == "careful" and fits.json()["verdict"] == "refuse"
    for reply in (far, blind, predicted):
        assert reply.status_code == 422
        assert list(reply.json()) == ["verdict", "verdict_reason", "error"]
        assert reply.json()["verdict"] == "refuse" and reply.json()["error"]["kind"] == "refused"
        assert "`force=true`" in reply.json()["error"]["message"]
    assert curves.json()["verdict"] == "refuse" and len(curves.json()["runs"]) == 25
    assert [curves.json()[k] for k in ("flops", "valleys", "floor")] == [[], [], None]
    assert curves.json()["params"] == {"value": [], "low": [], "high": []}
    last = healthy.json()["flops"][-1]
    assert ask(served, f"/v1/query?fit=pilot&flops={0.99 * last}").status_code == 200
    assert forced.json()["verdict"] == "refuse" and forced.json()["params"]["low"] is None


@pytest.mark.parametrize("name", ["../secret", "..", ".", "a/b", "a\\b", "", "/etc", ".work", "-x"])
def test_no_name_leads_out_of_the_reports(tmp_path, name):
    pilot(tmp_path / "reports")
    pilot(tmp_path / "secret")
    reply = ask(service(tmp_path / "reports"), "/v1/query", params={"flops": "1e13", "fit": name})
    assert reply.status_code == 404


def test_a_link_out_of_the_reports_is_not_followed(tmp_path):
    pilot(tmp_path / "reports")
    pilot(tmp_path / "secret")
    (tmp_path / "reports" / "out").symlink_to(tmp_path / "secret" / "pilot")
    assert ask(service(tmp_path / "reports"), "/v1/fits/out").status_code == 404


def test_methods_that_are_not_taken_are_refused_in_the_same_shape(tmp_path):
    reply = ask(service(pilot(tmp_path)), "/v1/query", method="DELETE")
    assert (reply.status_code, reply.json()["error"]["kind"]) == (405, "method_not_allowed")


def test_an_unexpected_error_is_a_response_and_one_line_of_log(tmp_path, capsys, monkeypatch):
    served = service(pilot(tmp_path))
    monkeypatch.setattr(served.registry, "names", lambda: 1 / 0)
    reply = ask(served, "/v1/fits")
    assert reply.status_code == 500
    assert reply.json()["error"]["kind"] == "internal"
    assert "division" not in reply.text
    assert capsys.readouterr().err.count("\n") == 1


def test_lists_have_what_is_there(tmp_path):
    fits, laws, one = ask(service(pilot(tmp_path)), "/v1/fits", "/v1/laws", "/v1/fits/pilot")
    assert [f["name"] for f in fits.json()["fits"]] == ["blind", "pilot"]
    assert [f["answers"] for f in fits.json()["fits"]] == [False, True]
    assert "besiroglu2024" in [row["name"] for row in laws.json()["laws"]]
    assert one.json()["schema"] == "isoflop.fit/1" and "draws" not in one.json()


def test_curves_pass_through_the_answers(tmp_path):
    served = service(pilot(tmp_path))
    curves = ask(served, "/v1/curves?fit=pilot").json()
    assert len(curves["runs"]) == 25
    for i in (3, 30, 50):
        result = ask(served, f"/v1/query?fit=pilot&flops={curves['flops'][i]!r}").json()
        for name in ("params", "tokens", "loss"):
            for end in ("value", "low", "high"):
                assert curves[name][end][i] == pytest.approx(result[name][end], rel=1e-6)
    assert not any(ask(served, "/v1/curves?law=hoffmann2022").json()["loss"]["low"])


def test_an_answer_is_remembered_until_its_fit_changes(tmp_path):
    served = service(pilot(tmp_path))
    first, again = ask(served, *["/v1/query?fit=pilot&flops=1e13"] * 2)
    assert first.content == again.content
    assert (served.hits, served.misses) == (1, 1)
    from tests.fit.service.client import make_fit, write_fit

    write_fit(tmp_path / "pilot", make_fit(name="pilot", noise=0.5))
    changed = ask(served, "/v1/query?fit=pilot&flops=1e13")
    assert changed.json()["loss_next_run"] != first.json()["loss_next_run"]


def test_the_training_curve_of_a_run_is_a_small_mean_of_what_stands_beside_its_record(tmp_path):
    names = made_runs(tmp_path / "runs")
    fit = make_fit(name="swept", points=make_points(run=names))
    write_fit(tmp_path / "swept", dataclasses.replace(fit, source={"path": str(tmp_path / "runs")}))
    served = service(pilot(tmp_path))
    long, short, broken, none, other = ask(
        served, *(f"/v1/training?fit=swept&row={row}" for row in (0, 1, 2, 3)),
        "/v1/training?fit=pilot&row=0",
    )  # fmt: skip
    assert (long.json()["run"], long.json()["row"]) == (names[0], 0)
    tokens, loss = (np.array(long.json()[name]) for name in ("tokens", "loss"))
    assert len(tokens) == 200 and tokens[-1] == 1e6 and len(long.content) < 5_000
    assert np.all(np.diff(tokens) > 0)
    assert np.sum(loss * np.diff(tokens, prepend=0.0)) == pytest.approx(2.5e6, rel=1e-4)
    assert short.json()["tokens"] == [1e5, 2e5] and short.json()["loss"] == [3.0, 2.0]
    for reply in (broken, none, other):
        assert (reply.status_code, reply.json()["tokens"], reply.json()["loss"]) == (200, [], [])
    (tmp_path / "runs" / names[3] / "curve.csv").write_text("t\n1e5,3,1,1\n2e5,2,1,1")
    assert ask(served, "/v1/training?fit=swept&row=3").json()["tokens"] == [1e5, 2e5]


def made_runs(folder):
    """Runs with a long curve, a short one, one that is cut short and none; the names of all."""
    lines = [f"{1000.0 * (i + 1)},{2 + i % 2},0.01,1" for i in range(1000)]
    curves = ["\n".join(["tokens,loss,lr,grad_norm", *lines]), "t\n1e5,3,1,1\n2e5,2,1,1", "t\n1e5,"]
    names = []
    for i, width in enumerate((16, 32, 48, 64)):
        run = record(width, 10**6)
        write_record(folder / run.run, run)
        names.append(run.run)
        if i < len(curves):
            (folder / run.run / "curve.csv").write_text(curves[i])
    return (*names, *(f"other{i}" for i in range(21)))


def test_a_sweep_is_told_as_the_command_tells_it_with_its_runs_and_what_fits_lack(tmp_path):
    folder, runs = tmp_path / "runs" / "live", live_sweep(tmp_path / "runs" / "live")
    fit = make_fit(
        name="live", points=make_points(run=(runs[0].run, *(f"x{i}" for i in range(24))))
    )
    write_fit(tmp_path / "live", dataclasses.replace(fit, source={"path": str(folder)}))
    served = service(pilot(tmp_path), runs=folder)
    reply, fits = ask(served, "/v1/sweep", "/v1/fits")
    document = reply.json()
    assert document["counts"] == {"done": 2, "failed": 1, "diverged": 0, "running": 1, "missing": 2}
    assert (document["planned"], document["over"]) == (6, False) and document["seconds_left"] > 0
    assert [r["alive"] for r in document["running"]] == [True, False]
    ended = {row["run"]: row for row in document["ended"]}
    assert ended[runs[1].run]["loss"] == runs[1].loss and ended[runs[2].run]["loss"] is None
    assert (
        len(ended[runs[2].run]["reason"]) == 300 and "OutOfMemory" in ended[runs[2].run]["reason"]
    )
    assert [(f["name"], f["fresh"]) for f in document["fits"]] == [("live", [runs[1].run])]
    assert fits.json()["runs"] == "live"
    same = ("counts", "planned", "missing", "flops_spent", "flops_left", "hours_spent")
    told = snapshot_document(take_snapshot(folder))
    assert {k: document[k] for k in same} == {k: told[k] for k in same}


def test_a_sweep_is_read_once_for_all_that_look_on_and_errors_are_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    live_sweep(folder)
    served = service(pilot(tmp_path / "reports"), runs=folder)
    first = ask(served, "/v1/sweep")
    (folder / "plan.json").unlink()
    assert ask(served, "/v1/sweep").content == first.content
    monkeypatch.setattr("fit.service.app.SWEEP_SECONDS", 0.0)
    assert ask(served, "/v1/sweep").json()["planned"] == 0
    (tmp_path / "empty").mkdir()
    for runs, status, words in (
        (None, 404, "isoflop serve --runs FOLDER"),
        (tmp_path / "empty", 422, "no run records and no plan"),
        (tmp_path / "gone", 422, "no folder"),
    ):
        reply = ask(service(tmp_path / "reports", runs=runs), "/v1/sweep")
        assert reply.status_code == status and words in reply.json()["error"]["message"]
    assert ask(served, "/v1/sweep?runs=..").json()["error"]["field"] == "runs"


def test_the_finished_runs_of_a_sweep_are_fitted_on_request_and_the_fit_is_replaced(tmp_path):
    folder = tmp_path / "runs" / "my sweep"
    live_sweep(folder)
    finish(folder, 4)
    served = service(pilot(tmp_path / "reports"), runs=folder, workers=SweepWorkers())
    before, made, after = (
        ask(served, "/v1/sweep", method=method) for method in ("GET", "POST", "GET")
    )
    assert made.status_code == 201 and made.headers["location"] == "/v1/fits/my-sweep"
    assert made.json()["name"] == "my-sweep" and made.json()["verdict"]
    assert before.json()["fits"] == []
    assert [(f["name"], f["fresh"]) for f in after.json()["fits"]] == [("my-sweep", [])]
    row = next(f for f in ask(served, "/v1/fits").json()["fits"] if f["name"] == "my-sweep")
    assert row["uploaded"]
    first = served.registry.uploads["my-sweep"]
    finish(folder, 5)
    assert ask(served, "/v1/sweep", method="POST").json()["name"] == "my-sweep"
    assert list(served.registry.uploads) == ["my-sweep"] and not first.exists()
    served.close()


def test_a_fit_of_a_sweep_replaces_no_fit_of_its_name_that_came_otherwise(tmp_path):
    folder = tmp_path / "runs" / "pilot"
    live_sweep(folder)
    finish(folder, 4)
    served = service(pilot(tmp_path / "reports"), runs=folder, workers=SweepWorkers())
    names = [ask(served, "/v1/sweep", method="POST").json()["name"] for _ in range(2)]
    assert names == ["pilot-now", "pilot-now"]
    served.close()


def test_too_few_finished_runs_and_failed_fits_of_a_sweep_are_one_line(tmp_path):
    folder = tmp_path / "runs" / "live"
    live_sweep(folder)
    workers = SweepWorkers()
    served = service(pilot(tmp_path / "reports"), runs=folder, workers=workers)
    error = ask(served, "/v1/sweep", method="POST").json()["error"]
    assert error["message"] == (
        "2 runs of this sweep finished so far; a fit needs 6 of different size or length. Wait "
        "for more."
    )
    finish(folder, 4)
    workers.refusal = RequestError(422, "fit", f"{folder} has one length. {'Add ' * 200}")
    error = ask(served, "/v1/sweep", method="POST").json()["error"]
    assert error["message"].startswith("live has one length.") and len(error["message"]) <= 300
    assert not served.registry.uploads and not list(served.jobs.folder.iterdir())
    assert ask(served, "/v1/sweep?law=x", method="POST").status_code == 422
    off = service(pilot(tmp_path / "reports"), runs=folder, mode="off")
    assert ask(off, "/v1/sweep", method="POST").status_code == 403
    assert ask(service(tmp_path / "reports"), "/v1/sweep", method="POST").status_code == 404
    served.close()


def test_health_and_counts_are_reported(tmp_path):
    health, _, metrics = ask(service(pilot(tmp_path)), "/healthz", "/nope", "/metrics")
    assert health.json()["status"] == "ok"
    assert 'isoflop_requests_total{route="GET /healthz",status="200"} 1' in metrics.text
    assert 'isoflop_requests_total{route="other",status="404"} 1' in metrics.text
    assert 'isoflop_request_seconds_bucket{route="GET /healthz",le="+Inf"} 1' in metrics.text


def test_every_route_is_described_with_its_fields(tmp_path):
    document = ask(service(pilot(tmp_path)), "/openapi.json").json()
    assert {"/v1/query", "/v1/predict", "/v1/compare", "/v1/laws", "/v1/fits"} <= set(
        document["paths"]
    )
    query = document["paths"]["/v1/query"]["get"]
    assert {"flops", "fit", "law"} <= {p["name"] for p in query["parameters"]}
    assert "4XX" in query["responses"]


def test_what_is_large_is_sent_compressed_to_those_who_take_it(tmp_path):
    served = service(pilot(tmp_path))
    for path in ("/", "/page/app.js", "/v1/curves?fit=pilot", "/v1/laws", "/openapi.json"):
        plain = ask(served, path, headers={"accept-encoding": "identity"})
        zipped = ask(served, path, headers={"accept-encoding": "br, gzip;q=0.5"})
        refused = ask(served, path, headers={"accept-encoding": "gzip;q=0"})
        assert zipped.headers["content-encoding"] == "gzip"
        assert zipped.headers["vary"] == plain.headers["vary"] == "accept-encoding"
        assert "content-encoding" not in plain.headers and "content-encoding" not in refused.headers
        assert plain.content == zipped.content == refused.content  # the client decompresses
        sizes = [int(r.headers["content-length"]) for r in (plain, zipped)]
        assert sizes[1] < 0.6 * sizes[0], path
    small = ask(served, "/healthz", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


def test_an_address_with_a_hash_gives_one_content_for_good(tmp_path):
    served = service(pilot(tmp_path))
    rows = {row["name"]: row for row in ask(served, "/v1/fits").json()["fits"]}
    address = rows["pilot"]["address"]
    assert address == f"/fits/pilot-{rows['pilot']['hash'].removeprefix('sha256:')[:12]}"
    fit, table = ask(served, f"{address}.json", f"{address}.csv")
    assert fit.json() == ask(served, "/v1/fits/pilot").json()
    assert table.content == ask(served, "/v1/fits/pilot/runs.csv").content
    for reply in (fit, table):
        assert "immutable" in reply.headers["cache-control"]
        again = ask(served, f"{address}.json", headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    write_fit(tmp_path / "pilot", make_fit(name="pilot", notes=()))  # another content
    gone = ask(served, f"{address}.json")
    later = {row["name"]: row for row in ask(served, "/v1/fits").json()["fits"]}["pilot"]["address"]
    assert gone.status_code == 404 and later.removeprefix("/fits/") in gone.text
    for wrong in ("/fits/pilot.json", "/fits/pilot-.json", f"{later}.exe", "/fits/..%2Fx-1.json"):
        assert ask(served, wrong).status_code == 404, wrong


def test_the_report_at_an_address_with_a_hash_is_the_report(tmp_path, monkeypatch):
    served = service(pilot(tmp_path))
    made = []

    async def command(arguments, *, folder, kind):
        made.append(arguments)
        (folder / "pilot" / "report.pdf").write_bytes(b"%PDF-1.7 of a test")

    monkeypatch.setattr(served.workers, "command", command)
    address = ask(served, "/v1/fits").json()["fits"][1]["address"]
    replies = ask(served, f"{address}.pdf", "/v1/report/pilot.pdf")
    assert [r.content for r in replies] == [b"%PDF-1.7 of a test"] * 2
    assert len(made) == 1 and replies[0].headers["content-type"] == "application/pdf"


def test_the_report_in_markdown_links_figures_that_never_change_either(tmp_path, monkeypatch):
    served = service(pilot(tmp_path))
    made = []

    async def command(arguments, *, folder, kind):
        made.append(arguments)
        (folder / "pilot" / "figures").mkdir()
        (folder / "pilot" / "figures" / "frontier.svg").write_bytes(b"<svg/>")
        (folder / "pilot" / "report.md").write_text("# pilot\n\n![F](figures/frontier.svg)\n")

    monkeypatch.setattr(served.workers, "command", command)
    address = ask(served, "/v1/fits").json()["fits"][1]["address"]
    report, again = ask(served, *[f"{address}.md"] * 2)
    assert (
        report.text == f"# pilot\n\n![F]({address.removeprefix('/fits/')}/figures/frontier.svg)\n"
    )
    assert report.content == again.content and len(made) == 1 and "--format=md" in made[0]
    assert report.headers["content-type"] == "text/markdown; charset=utf-8"
    figure, none, other, field, old = ask(
        served, f"{address}/figures/frontier.svg", f"{address}/figures/nope.svg",
        f"{address}/figures/..%2Freport.svg", f"{address}/figures/frontier.svg?x=1",
        "/fits/pilot-000000000000/figures/frontier.svg",
    )  # fmt: skip
    assert (figure.content, figure.headers["content-type"]) == (b"<svg/>", "image/svg+xml")
    assert all("immutable" in r.headers["cache-control"] for r in (figure, report))
    assert none.status_code == 404 and "frontier" in none.json()["error"]["message"]
    assert [r.status_code for r in (other, field, old)] == [404, 422, 404] and len(made) == 1


def test_the_default_budget_of_the_page_is_that_of_the_report(tmp_path):
    served = service(pilot(tmp_path))
    further = ask(served, "/v1/curves?fit=pilot").json()["further"]
    source = served.registry.get("pilot").source
    assert further == further_budget(source) and source.reach(further) <= NOTED_REACH
    assert ask(served, "/v1/curves?law=hoffmann2022").json()["further"] > 1e20


def test_a_report_answers_the_question_of_its_address(tmp_path, monkeypatch):
    served = service(pilot(tmp_path))
    made = []

    async def command(arguments, *, folder, kind):
        made.append(arguments)
        if "--flops=1e99" in arguments:  # the report is written, and the command exits with 1
            (folder / "pilot" / "report.pdf").write_bytes(b"%PDF refused")
            raise RequestError(422, "report", "it answers no question")
        if "--flops=no" in arguments:
            raise RequestError(422, "report", "budget is 'no'", "flops")
        (folder / "pilot" / "report.pdf").write_bytes(b"%PDF " + str(arguments).encode())

    monkeypatch.setattr(served.workers, "command", command)
    path = "/v1/report/pilot.pdf"
    asked = f"{path}?flops=1e%2B13&max_params=200k"
    plain, put, again, far, wrong, regret, unknown = ask(
        served, path, asked, asked, f"{path}?flops=1e99", f"{path}?flops=no",
        f"{path}?regret=true", f"{path}?x=1",
    )  # fmt: skip
    assert (
        b"--flops" not in plain.content and b"'--flops=1e+13', '--max-params=200k'" in put.content
    )
    assert again.content == put.content and len(made) == 4
    assert far.content == b"%PDF refused" and wrong.status_code == 422
    for refused in (regret, unknown):
        assert refused.status_code == 422 and "unknown field" in refused.text
