"""Hostile requests: fields, names, addresses, headers and bodies, each with its right outcome.

The application is called in process over ASGI, so that a request may hold what no client would
send.
"""

import asyncio
import functools
import gzip
import json
import re
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from urllib.parse import quote_plus, unquote

import pytest

from fit.results import write_fit
from fit.service.app import application
from fit.service.errors import LONGEST_MESSAGE
from tests.fit.builders import make_fit
from tests.fit.service.client import pilot, service, table
from tests.hostile.outcomes import Case, Reply, check_outcome

TOKEN = "a-token-of-twenty-chars"
CSV = ("content-type", "text/csv")


@functools.cache
def served():
    """One service for all cases: two fits, and one under an odd name outside of it."""
    root = Path(tempfile.mkdtemp())
    write_fit(root / "secret" / "pilot", make_fit(name="secret"))
    return service(pilot(root / "reports"))


def call(method, target, headers=(), body=(b"",), token=None):
    """The response of the application: status, headers, body."""
    path, _, query = target.partition("?")
    head = [("host", "localhost"), *headers]
    if headers and headers[0][0] == "host":
        head = list(headers)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode("utf-8", "surrogateescape"),
        "headers": [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in head],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    parts, sent = list(body), []

    async def receive():
        await asyncio.sleep(0)
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(application(served(), token=token)(scope, receive, send))
    content = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, content


def ask(method, target, headers=(), body=(b"",), token=None):
    """What a request gets, as a reply of a door; every refusal has the one shape."""

    def run(_):
        status, head, content = call(method, target, headers, body, token)
        if status < 400:
            return Reply(code=0, out=content.decode("utf-8", "replace"), err="", value=head)
        document = json.loads(content)
        assert list(document)[-1] == "error" and status < 500, document
        error = document["error"]
        assert list(error) == ["kind", "message", "field"]
        assert len(error["message"]) <= LONGEST_MESSAGE and error["message"].isprintable()
        assert len(content) < 2500, "nothing long that was sent comes back"
        own = re.sub(r"'[^']*'|isoflop fit RUNS --", "", error["message"])
        for words in ("--", "Traceback", tempfile.gettempdir(), "/site-packages/"):
            assert words not in own, error
        said = f"status {status} {error['kind']}, field {error['field']}: {error['message']}"
        return Reply(code=status, out="", err=said, value=head)

    return run


def refused(name, words, target, method="GET", **given):
    """A case whose refusal has a status, words of its kind and field, and parts of its message."""
    first, *parts = words.split(" & ")
    status, *kind = first.split()
    run = ask(method, target, **given)
    return Case(name=name, run=run, refused=(f"status {status} ", *kind, *parts))


def taken(name, check, target, method="GET", **given):
    return Case(name=name, run=ask(method, target, **given), taken=check)


def value_is(field, value):
    """Asserts that a number of an answer is the one that was meant."""

    def check(reply):
        number = json.loads(reply.out)[field]
        number = number["value"] if isinstance(number, dict) else number
        assert number == pytest.approx(value, rel=1e-9)

    return check


def says(words):
    """Asserts that an answer holds these words."""

    def check(reply):
        assert words in reply.out

    return check


def says_nothing(reply):
    """Asserts that there is no body."""
    assert reply.out == "" and "content-type" in reply.value


def has_level(reply):
    """Asserts that a fit has the level that was asked."""
    assert json.loads(reply.out)["interval"]["level"] == 0.8


def field(name, value):
    return f"/v1/query?fit=pilot&{name}={quote_plus(value, safe='')}"


NO_NUMBERS = (
    "", " ", "abc", "-1", "0", "-0", "inf", "-inf", "nan", "1e400", "1e-400", "\uff11e13",
    "\u0663", "0x10", "1e", "e5", "1e5e5", "--1", "+-1", "1e13\x00",
    "null", "true", "[1e13]", '{"a":1}', "1e13;1e14", "\u2212 5", "1 000 000 000 000", "1/0",
    "%31", "½", "१e13", "_1e13", "1e1_3",
)  # fmt: skip
FLOPS = [
    refused(f"flops {text!r}", "422 question flops & positive finite number", field("flops", text))
    for text in NO_NUMBERS
]
MEANT = [
    taken(f"flops {text!r}", value_is("flops", 1e13), f"/v1/query?fit=pilot&flops={text}")
    for text in (
        "1e13",
        "1E13",
        "1e%2B13",
        "1e+13",
        "%2B1e13",
        "10000000000000",
        "+1e13",
        "1e13+",
        "1e13%20FLOP",
    )
]
LONG = [
    refused("500 digits", "422 invalid flops & 500 characters", field("flops", "9" * 500)),
    refused("a field of 30 kB", "422 invalid & 30000 characters", field("device", "h" * 30_000)),
    refused("a field of 200 kB", "414 uri_too_long query & 200", field("fit", "x" * 200_000)),
    refused("a name of 20 kB", "422 invalid & unknown field", f"/v1/query?{'x' * 20_000}=1"),
    refused("a name of 200 kB", "414 uri_too_long query", f"/v1/query?{'x' * 200_000}=1"),
    refused("200 kB of fields", "414 uri_too_long query", "/v1/query?" + "flops=1&" * 25_000),
    refused("4000 fields", "422 invalid flops & given 4000", "/v1/query?" + "flops=1&" * 4000),
    refused("a path of 200 kB", "414 uri_too_long path", f"/v1/fits/{'x' * 200_000}"),
    refused("a fit of 900 characters", "404 not_found fit", f"/v1/fits/{'x' * 900}"),
    refused("200 kB of headers", "431 header", "/v1/fits", headers=[("x-a", "y" * 200_000)]),
    refused("3000 headers", "431 header", "/v1/fits", headers=[("x-many", "abcdef")] * 3000),
]
OTHERS = [
    refused(f"{name} {text!r}", f"422 question {name} & {words}", f"{field(name, text)}&{rest}")
    for name, text, words, rest in (
        ("max_params", "0", "positive finite", "flops=1e13"),
        ("max_params", "1e400", "positive finite", "flops=1e13"),
        ("max_params", "\uff17B", "positive finite", "flops=1e13"),
        ("tokens", "-3M", "positive finite", "flops=1e13"),
        ("unique_tokens", "many", "positive finite", "flops=1e13"),
        ("min_ratio", "20B", "positive finite", "flops=1e13"),
        ("mfu", "1.5", "share up to 1", "flops=1e13&device=a100"),
        ("mfu", "140%", "share up to 1", "flops=1e13&device=a100"),
        ("mfu", "-4%", "share up to 1", "flops=1e13&device=a100"),
        ("mfu", "\uff14\uff10%", "share up to 1", "flops=1e13&device=a100"),
        ("mfu", "nan", "share up to 1", "flops=1e13&device=a100"),
        ("memory", "8XB", "8GB, 80GiB", "flops=1e13"),
        ("memory", "-8GB", "8GB, 80GiB", "flops=1e13"),
        ("memory", "\u0668GB", "8GB, 80GiB", "flops=1e13"),
        ("devices", "1.5", "whole number", "deadline=4&device=a100"),
        ("devices", "0", "positive finite", "deadline=4&device=a100"),
        ("device", " ", "empty", "flops=1e13"),
        ("price", "free", "positive finite", "dollars=4&device=a100"),
        ("regret", "perhaps", "true or false", "flops=1e13"),
        ("force", "2", "true or false", "flops=1e13"),
        ("loss", "2&loss", "positive finite", ""),
        ("loss", "3.2B", "positive finite", ""),
    )
]
TOGETHER = [
    refused("no budget", "422 flops & `flops`, `dollars`", "/v1/query?fit=pilot"),
    refused("two budgets", "422 loss & given 2 times", "/v1/query?fit=pilot&flops=1e13&loss=2"),
    refused("one field twice", "422 flops & 2 times", "/v1/query?flops=1e13&flops=1e14"),
    refused("fit twice", "422 fit & 2 times", "/v1/query?flops=1e13&fit=pilot&fit=blind"),
    refused("fit and law", "422 law & not both", "/v1/query?flops=1e13&fit=pilot&law=kaplan2020"),
    refused("money without device", "422 device & `device`", "/v1/query?fit=pilot&dollars=9"),
    refused("no unit", "422 flops & no known unit", field("flops", "1e13 FLIP")),
    refused(
        "both fixed", "422 tokens & /v1/predict?", field("params", "1e5") + "&tokens=1e6&flops=1e13"
    ),
    refused(
        "fixed and limited",
        "422 max_params & `max_params`",
        field("params", "1e5") + "&max_params=1e6&flops=1e13",
    ),
    refused("an unknown field", "422 invalid budget & known are flops", field("budget", "1e13")),
    refused(
        "a field of the command", "422 invalid --flops & unknown field", "/v1/query?-%2Dflops=1"
    ),
    refused("a nameless field", "422 invalid & unknown field ''", "/v1/query?=1e13"),
    refused("a field where none is", "422 invalid draws", "/v1/fits/pilot?draws=true"),
    refused("a field of laws", "422 invalid x", "/v1/laws?x=1"),
    refused("a field of a report", "422 invalid page", "/v1/report/pilot.pdf?page=2"),
    refused(
        "a fit not identified",
        "422 refused & not identified & `force=true`",
        "/v1/query?flops=1e13&fit=blind",
    ),
    refused("too small a budget", "422 question & 1 FLOP", "/v1/query?flops=1&fit=pilot"),
    refused("a budget of 1e300", "422 question", "/v1/query?flops=1e300&fit=pilot"),
    refused("no unit in common", "422 question & which_data", "/v1/compare?a=hoffmann2022&b=pilot"),
    refused(
        "a level of 0.9_5", "422 question level & share", "/v1/compare?a=pilot&b=pilot&level=0.9_5"
    ),
    refused("a level of inf", "422 question level", "/v1/compare?a=pilot&b=pilot&level=inf"),
    refused("a level of 1", "422 question", "/v1/compare?a=pilot&b=pilot&level=1"),
    refused(
        "60 budgets", "422 flops & 60 times", "/v1/compare?a=pilot&b=pilot" + "&flops=1e13" * 60
    ),
    refused("one law alone", "422 invalid b & needed", "/v1/compare?a=pilot"),
    refused("tokens alone", "422 invalid params & needed", "/v1/predict?tokens=1e9"),
    refused("no parameters", "422 question params", "/v1/predict?tokens=1e9&params=0&fit=pilot"),
    taken(
        "a loss predicted", value_is("params", 2e5), "/v1/predict?tokens=3M&params=200k&fit=pilot"
    ),
]
NAMES = [
    refused(
        f"fit {name[:20]!r}",
        "404 not_found fit & there is no fit & pilot",
        f"/v1/query?flops=1e13&fit={quote_plus(name)}",
    )
    for name in (
        "",
        ".",
        "..",
        "../secret/pilot",
        "..\\secret",
        "/etc/passwd",
        "secret%2Fpilot",
        "pilot/",
        "pilot\x00",
        "pilot\n",
        "\x1b[31mred",
        "pilot\u202e",
        "-x",
        "--help",
        "<script>",
        "'; drop",
        "pılot",
        "PILOT",
        "pilot ",
        "x" * 150,
        "\U0001f600",
        "~root",
        "$HOME",
        "file:///etc",
    )  # fmt: skip
]
ADDRESSES = [
    refused(f"address {target}", words, target)
    for target, words in (
        ("/v1/fits/..%2F..%2Fsecret", "404"),
        ("/v1/fits/%2e%2e", "404"),
        ("/v1/fits/pilot%00", "404 fit"),
        ("/v1/fits/pilot/../blind", "404"),
        ("/v1/fits//pilot", "404"),
        ("/v1/report/..%2Fsecret.pdf", "404"),
        ("/v1/report/pilot.pdf.pdf", "404 fit"),
        ("/v1/report/kaplan2020.pdf", "404 fit"),
        ("/page/..%2fapp.py", "404"),
        ("/page/%2e%2e/app.py", "404"),
        ("/page/vendor/../../app.py", "404"),
        ("/page/index.html%00.js", "404"),
        ("//evil.example/v1/fits", "404"),
        ("/v1", "404 openapi"),
        ("/V1/query?flops=1e13", "404"),
        ("/v1/query/", "404"),
    )
]
CROSS = (("sec-fetch-site", "cross-site"),)
EVIL = "https://evil.example"
WHO = [
    refused(
        f"{target} from {headers[0][1]}", "403 forbidden & another site", target, headers=headers
    )
    for target in ("/v1/report/pilot.pdf", "/v1/query?flops=1e13&fit=pilot", "/metrics")
    for headers in (
        CROSS,
        (("sec-fetch-site", "same-site"),),
        (("sec-fetch-site", ""),),
        (("origin", EVIL),),
        (("origin", "null"),),
        (("origin", "http://localhost:99"),),
    )
]
WHO += [
    refused("a table from another site", "403", "/v1/fits", "POST", headers=[CSV, *CROSS]),
    refused("a forged origin", "403", "/v1/laws", headers=[("origin", EVIL), *CROSS]),
    taken("the page, by a link", says("<title>isoflop"), "/?fit=pilot", headers=CROSS),
    taken(
        "an address typed in",
        value_is("flops", 1e13),
        field("flops", "1e13"),
        headers=[("sec-fetch-site", "none")],
    ),
    taken(
        "the page itself",
        value_is("flops", 1e13),
        field("flops", "1e13"),
        headers=[("sec-fetch-site", "same-origin"), ("origin", "http://localhost")],
    ),
    *(
        refused(
            f"host {host}", "403 forbidden host & localhost", "/v1/fits", headers=[("host", host)]
        )
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "0.0.0.0",
            "[::]",
            "10.0.0.1:8000",
            "localhost:80:80",
            "127.0.0.1@evil.example",
            "",
        )
    ),
    refused("two hosts", "400 host", "/v1/fits", headers=[("host", "localhost")] * 2),
    *(
        refused(
            f"token {text!r}",
            "401 unauthorized",
            "/v1/fits",
            token=TOKEN,
            headers=[("authorization", text)],
        )
        for text in (
            "",
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer ",
            "Bearer \xe9",
        )
    ),
    taken(
        "the token",
        says("pilot"),
        "/v1/fits",
        token=TOKEN,
        headers=[("authorization", f"bearer {TOKEN}")],
    ),
]
METHODS = [
    refused(f"{method} {target}", "405 method_not_allowed", target, method)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get")
    for target in ("/v1/query?flops=1e13", "/v1/fits")
]
METHODS += [
    refused("a question that is posted", "405", "/v1/query?flops=1e13", "POST"),
    *(taken(f"HEAD {target}", says_nothing, target, "HEAD")
      for target in ("/", "/healthz", "/v1/fits", "/v1/query?flops=1e13&fit=pilot")),
    taken("HEAD of the page's file", says_nothing, "/page/app.js", "HEAD"),
]  # fmt: skip


def upload(name, words, query="", body=(b"params,tokens,loss\n1,2,3\n",), headers=(CSV,)):
    """A table that is refused before or after it is read."""
    return refused(name, words, f"/v1/fits?{query}", "POST", headers=headers, body=body)


def zipped():
    """A zip that unfolds into 50 MB, as a spreadsheet is one."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sheet.xml", bytes(50 << 20))
    return out.getvalue()


OPTIONS = [
    upload(f"{name}={text!r}", f"422 invalid {name}", f"{name}={quote_plus(text)}")
    for name, texts in {
        "resamples": ("4001", " 4001", "4_001", "+4001", "4001 ", "\uff14001", "4k1", "5k", "1e9",
                      "1e400", "inf", "nan", "-1", "0.5", "", "0x10", "9" * 150, "4000.5"),
        "level": ("0", "1.1", "-0.9", "nan", "0.9_5", "\uff10.9", "110%", "", "0,9"),
        "delta": ("0", "-1", "inf", "nan", "1e400", "1M", "\uff11"),
        "law": ("x" * 201, "a\x00b", "a\nb"),
        "column": ("x" * 300, "params=a\x07"),
        "where": ("x" * 300,),
        "out": ("/etc",),
        "no_report": ("",),
    }.items()
    for text in texts
]  # fmt: skip
BODIES = [
    upload("no type", "415 content-type", headers=()),
    upload("a form", "415", headers=[("content-type", "multipart/form-data; boundary=x")]),
    upload("plain text", "415 & text/csv", headers=[("content-type", "text/plain")]),
    upload("a type of 9 kB", "415", headers=[("content-type", "x" * 9000)]),
    upload("utf-16", "415 & utf-8", headers=[("content-type", "text/csv; charset=utf-16")]),
    upload("packed", "415 content-encoding", headers=[CSV, ("content-encoding", "gzip")]),
    upload("empty", "422 record & empty", body=(b"",)),
    upload("empty parts", "422 record & empty", body=(b"",) * 30),
    upload("170 MB in parts", "413 too_large & 20 MiB", body=(bytes(1 << 20),) * 170),
    upload("a length of 1 TB", "413", headers=[CSV, ("content-length", str(10**12))]),
    upload("60 renamings", "422 column & 60 times", query="column=a%3Db&" * 60),
    upload("two laws", "422 law & 2 times", query="law=tied&law=outer"),
    upload("an unknown law", "422 law", query="law=--help"),
    upload("an archive", "422 fit", body=(zipped(),)),
    upload("packed bytes", "422 fit", body=(gzip.compress(bytes(30 << 20)),)),
    upload("a page", "422 fit", body=(b"<!doctype html><p>404",)),
    upload("one name of 200 kB", "422 fit", body=(b"x" * 200_000 + b",params\n1,2\n",)),
    upload("bytes", "422 fit", body=(bytes(range(256)) * 40,)),
    upload("no table", "422 fit", body=(b"PAR1" + bytes(99),),
           headers=[("content-type", "application/vnd.apache.parquet")]),
    upload("deep json", "422 fit", body=(b"[" * 100_000,),
           headers=[("content-type", "application/jsonl")]),
    upload("a run without loss", "422 fit & `column=loss=YOURS`", body=(b"params,tokens\n1,2\n",)),
    taken("a table with names of 100 kB", says("upload-"), "/v1/fits?resamples=20",
          "POST", headers=[CSV], body=(table().replace(b"=run(7)", b"r" * 100_000),)),
    upload("a table with names of 200 kB", "422 fit & field larger", query="resamples=20",
           body=(table().replace(b"=run(7)", b"r" * 200_000),)),
    taken("blanks around a number", has_level,
          "/v1/fits?resamples=+20+&level=80%25", "POST", headers=[CSV], body=(table(),)),
]  # fmt: skip
CASES = [
    *FLOPS, *MEANT, *LONG, *OTHERS, *TOGETHER, *NAMES, *ADDRESSES, *WHO, *METHODS, *OPTIONS, *BODIES
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[:60])
def test_a_hostile_request_has_its_right_outcome(case, tmp_path):
    check_outcome(case, tmp_path)


@pytest.mark.slow
def test_long_names_of_runs_do_not_fill_the_answers(tmp_path):
    body = (table().replace(b"=run(7)", b"r" * 100_000),)
    status, _, content = call("POST", "/v1/fits?resamples=20", [CSV], body)
    name = json.loads(content)["name"]
    assert status == 201
    curves = call("GET", f"/v1/curves?fit={name}")[2]
    assert len(curves) < 100_000 and len(json.loads(curves)["runs"]) == 36


@pytest.mark.slow
def test_there_are_enough_hostile_requests():
    assert len(CASES) >= 90 and len({case.name for case in CASES}) == len(CASES)
    print(f"{len(CASES)} hostile requests")
