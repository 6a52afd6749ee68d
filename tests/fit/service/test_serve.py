"""The service on a socket: where it may bind, what it does with bad clients."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.service.serve import find_token
from tests.fit.service.client import pilot

ROOT = Path(__file__).parents[3]


def refusal(*args):
    result = CliRunner().invoke(main, ["serve", *map(str, args)])
    lines = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert result.exit_code == 1 and len(lines) == 1
    return lines[0]


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_TOKEN", raising=False)
    pilot(tmp_path / "reports")
    pilot(tmp_path / "other")
    assert "there is no token" in refusal("--host", "0.0.0.0")
    assert "16 to 1024 of printable ASCII" in refusal("--host", "0.0.0.0", "--token", "short")
    assert "no folder nope" in refusal("--runs", "nope")
    assert "no fit in nope" in refusal("--fit", "nope")
    twice = refusal("--fit", "reports/pilot", "--fit", "other/pilot")
    assert "two fits are named pilot" in twice
    assert "cannot serve at 192.0.2.1" in refusal("--host", "192.0.2.1", "--token", "x" * 16)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in refusal("--port", port)


def test_a_token_comes_from_a_file_or_the_environment_and_is_warned_about_on_the_command_line(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("t" * 20 + "\n")
    monkeypatch.setenv("ISOFLOP_TOKEN", "e" * 20)
    assert find_token(None, None) == "e" * 20
    assert find_token(None, tmp_path / "token") == "t" * 20
    assert "cannot read the token in nope" in refusal("--token-file", "nope")
    assert "both given" in refusal("--token-file", "token", "--token", "x" * 20)
    for content in (b"", b"two words of a token", b"x" * 200_000, "größer-als-sechzehn".encode()):
        (tmp_path / "token").write_bytes(content)
        assert "of printable ASCII" in refusal("--token-file", "token")
    said = CliRunner().invoke(main, ["serve", "--host", "192.0.2.1", "--token", "x" * 20]).stderr
    assert "every user of this machine can read --token (ps)" in said and "x" * 20 not in said


@contextmanager
def serving(folder, *args, code="from fit.cli.main import main; main()"):
    """A service in a process of its own; yields its address and the process."""
    command = [sys.executable, "-c", code, "serve", "--port", "0", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line)[0], process
    finally:
        process.kill()
        process.communicate()


def test_a_service_survives_bad_clients_and_ends_on_a_signal(tmp_path):
    pilot(tmp_path / "reports")
    code = (
        "import fit.service.http\nfit.service.http.HEAD_SECONDS = 0.3\n"
        "from fit.cli.main import main; main()"
    )
    with serving(tmp_path, "--fit", "reports/pilot", "reports/blind", code=code) as (url, process):
        port = int(url.rstrip("/").rpartition(":")[2])
        assert httpx.get(f"{url}v1/query?flops=1e13&fit=pilot").status_code == 200
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"what is this\r\n\r\n")
            said = client.makefile("rb").read()
            assert said.startswith(b"HTTP/1.1 400") and b'{"error": {"kind": "bad_request"' in said
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
            assert client.recv(100) == b"", "a head that never ends is not waited for"
        gone = socket.create_connection(("127.0.0.1", port))
        gone.sendall(b"POST /v1/fits HTTP/1.1\r\nHost: localhost\r\ncontent-type: text/csv\r\n"
                     b"content-length: 99\r\n\r\nparams")  # fmt: skip
        gone.close()
        head = f"GET /v1/query?flops={'9' * 100_000}"
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(head.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        big = httpx.post(
            f"{url}v1/fits", content=bytes(50 << 20), headers={"content-type": "text/csv"}
        )
        assert (big.status_code, big.json()["error"]["kind"]) == (413, "too_large")
        assert httpx.get(f"{url}healthz").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_refits_at_once_and_changing_fits_leave_the_service_up(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from fit.results import write_fit
    from tests.fit.builders import make_fit
    from tests.fit.service.client import table

    pilot(tmp_path / "reports")
    with serving(tmp_path) as (url, _), ThreadPoolExecutor(24) as pool:
        bodies = [table() + f"\nx,1e7,1e9,{3 + i / 100}".encode() for i in range(14)]
        sent = [
            pool.submit(
                httpx.post,
                f"{url}v1/fits?resamples=20",
                content=b,
                headers={"content-type": "text/csv"},
                timeout=120,
            )
            for b in bodies
        ]
        statuses = set()
        ended = time.monotonic() + 5
        while time.monotonic() < ended:
            write_fit(tmp_path / "reports" / "pilot", make_fit(name="pilot", noise=0.01))
            statuses.add(httpx.get(f"{url}v1/query?flops=1e13&fit=pilot").status_code)
        assert statuses == {200}
        codes = [s.result().status_code for s in sent]
        assert set(codes) <= {201, 503} and codes.count(201) >= 8
