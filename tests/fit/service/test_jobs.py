"""Tables that are sent in: fitted beside the service, bounded, kept for a while."""

import asyncio
import errno
import json

import pytest

import fit.__main__ as worker
from fit.service.errors import RequestError
from fit.service.jobs import MOST_BYTES, WAITING, WorkerPool, fit_arguments, read_body
from tests.fit.service.client import ask, pilot, service, table

CSV = {"content-type": "text/csv"}


def send(served, body, headers=CSV, query=""):
    return ask(served, f"/v1/fits{query}", method="POST", content=body, headers=headers)


def test_a_table_that_is_sent_in_can_be_asked(tmp_path):
    served = service(pilot(tmp_path))
    reply = send(served, table(), query="?resamples=50&level=0.8")
    assert reply.status_code == 201, reply.text
    name = reply.json()["name"]
    assert reply.headers["location"] == f"/v1/fits/{name}"
    assert reply.json()["theta"]["E"] == pytest.approx(1.7, abs=0.02)
    assert reply.json()["interval"]["level"] == 0.8
    answer, runs, again = ask(
        served, f"/v1/query?flops=1e20&fit={name}", f"/v1/fits/{name}/runs.csv", "/v1/fits"
    )
    assert answer.json()["params"]["low"] < answer.json()["params"]["value"]
    assert runs.text.splitlines()[1].startswith("'=run(1),")
    assert again.json()["fits"][-1]["uploaded"]
    assert served.registry.newest().name != name, "an upload is never the default"
    served.close()
    assert not served.jobs.folder.exists()


async def run_command(pool, folder):
    await pool.command(["laws"], folder=folder, kind="fit")


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"", "text/csv", 422, "empty"),
        (b"a,b\n1,2\n", "text/csv", 422, "Name yours: `column=params=YOURS`"),
        (b'{"params": 1, ', "application/jsonl", 422, "jsonl"),
        (b"params,tokens,loss\n1e999,1,2\n", "text/csv", 422, "params"),
        (b"PAR1", "application/vnd.apache.parquet", 422, "parquet"),
        (b"\x00\xff\xfe", "text/csv", 422, "table.csv"),
        (table(), "text/plain", 415, "content-type is 'text/plain'"),
        (table(), "", 415, "content-type"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, body, kind, status, said):
    served = service(pilot(tmp_path))
    result = send(served, body, headers={"content-type": kind})
    assert result.status_code == status
    assert said in result.json()["error"]["message"]
    assert str(served.jobs.folder) not in result.text
    assert served.registry.uploads == {}


def test_fifty_megabytes_are_refused_and_not_kept(tmp_path):
    async def parts():
        for _ in range(50):
            yield bytes(1 << 20)

    with pytest.raises(RequestError) as caught:
        asyncio.run(read_body(parts(), None))
    assert caught.value.status == 413
    with pytest.raises(RequestError) as caught:
        asyncio.run(read_body(parts(), str(10**12)))
    assert caught.value.status == 413
    assert MOST_BYTES < 50 << 20


def test_a_slow_sender_is_not_waited_for(monkeypatch):
    async def parts():
        yield b"params,"
        await asyncio.sleep(60)

    monkeypatch.setattr("fit.service.jobs.READ_SECONDS", 0.05)
    with pytest.raises(RequestError) as caught:
        asyncio.run(read_body(parts(), None))
    assert caught.value.status == 408


def test_options_become_arguments_and_unknown_ones_are_named():
    pairs = [("law", "tied"), ("column", "params=n"), ("column", "tokens=d")]
    assert fit_arguments(pairs) == ["--column=params=n", "--column=tokens=d", "--law=tied"]
    for fields, message in (
        ([("base", "/etc")], "unknown field 'base'"),
        ([("out", "/etc")], "unknown field 'out'"),
        ([("law", "tied"), ("law", "outer")], "given 2 times"),
        ([("resamples", "100000")], "at most 4000"),
        ([("loss", "l2\x00")], "not printable"),
        ([("column", "a=b")] * 60, "given 60 times"),
    ):
        with pytest.raises(RequestError, match=message):
            fit_arguments(fields)


@pytest.mark.parametrize("text", [" 4001", "4001 ", "4_001", "+4001", "4.001k", "1e9", "1e400"])
def test_no_spelling_of_a_number_passes_the_limit(text):
    with pytest.raises(RequestError, match=r"at most 4000|positive finite"):
        fit_arguments([("resamples", text)])


def test_numbers_reach_the_command_as_they_were_read():
    pairs = [("resamples", " 2_000"), ("level", "80%"), ("delta", "1e-3")]
    assert fit_arguments(pairs) == ["--delta=0.001", "--level=0.8", "--resamples=2000"]
    assert fit_arguments([("resamples", "0")]) == ["--resamples=0"]
    for name, text in (("level", "\uff10.9"), ("level", "nan"), ("delta", "-1"), ("delta", "1k")):
        with pytest.raises(RequestError) as caught:
            fit_arguments([(name, text)])
        assert caught.value.field == name


def test_a_wrong_option_is_named(tmp_path):
    result = send(service(pilot(tmp_path)), table(), query="?law=--help").json()["error"]
    assert result["field"] == "law" and "is not known" in result["message"]


def test_a_worker_that_ends_without_an_error_of_its_own_is_one_error(tmp_path, monkeypatch):
    # Whether Python can still raise MemoryError depends on what it has loaded by then.
    monkeypatch.setattr("fit.service.jobs.MEMORY_BYTES", 1 << 20)
    with pytest.raises(RequestError, match="without a message|more than 0 GiB") as caught:
        asyncio.run(run_command(WorkerPool(), tmp_path))
    assert (caught.value.status, caught.value.kind) == (422, "fit")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory", "/a/file")])
def test_a_worker_without_memory_says_so_whatever_python_raises(error, monkeypatch, capsys):
    def fail(self, context):
        raise error

    monkeypatch.setattr(worker, "limit_memory", lambda limit: None)
    monkeypatch.setattr(worker.click.Group, "invoke", fail)
    monkeypatch.setattr("sys.argv", ["isoflop", "laws"])
    with pytest.raises(SystemExit):
        worker.run_worker(4 << 30)
    message = "the table needs more than 4 GiB of memory."
    assert json.loads(capsys.readouterr().err) == {"message": message, "field": None}


def test_a_fit_that_takes_too_long_is_stopped(tmp_path):
    with pytest.raises(RequestError) as caught:
        asyncio.run(run_command(WorkerPool(seconds=0.01), tmp_path))
    assert caught.value.kind == "time_limit"


def test_more_requests_than_can_wait_are_told_to_come_back():
    async def run():
        pool = WorkerPool(workers=1)
        pool.waiting = WAITING
        async with pool.place():
            pass

    with pytest.raises(RequestError) as caught:
        asyncio.run(run())
    assert (caught.value.status, caught.value.kind) == (503, "busy")


def test_the_oldest_upload_goes_when_there_are_too_many(tmp_path):
    from fit.service.jobs import FitJobs
    from tests.fit.service.client import make_fit, write_fit

    served = service(pilot(tmp_path))

    class Workers(WorkerPool):
        async def command(self, arguments, *, folder, kind):
            name = arguments[2].removeprefix("--out=")
            write_fit(folder / name, make_fit(name=name))

    kept = FitJobs(served.registry, Workers(), most_uploads=2)
    for body in (b"1", b"2", b"3"):
        asyncio.run(kept.fit_table(body, "csv", []))
    assert len(served.registry.uploads) == 2
    assert len(list(kept.folder.iterdir())) == 2
    kept.close()


def test_one_table_sent_twice_at_once_is_fitted_once(tmp_path):
    from fit.service.jobs import FitJobs
    from tests.fit.service.client import make_fit, write_fit

    made = []

    class Workers(WorkerPool):
        async def command(self, arguments, *, folder, kind):
            name = arguments[2].removeprefix("--out=")
            made.append(name)
            await asyncio.sleep(0)
            write_fit(folder / name, make_fit(name=name))

    served = service(pilot(tmp_path))
    kept = FitJobs(served.registry, Workers())

    async def run():
        return await asyncio.gather(*(kept.fit_table(b"1", "csv", []) for _ in range(5)))

    assert len({held.name for held in asyncio.run(run())}) == 1
    assert len(made) == 1
    kept.close()
