"""Who is let in, and what every response carries."""

import httpx

from fit.service.http import CHART_STYLE, loopback
from fit.service.static import PAGE
from tests.fit.service.client import ask, pilot, service

TOKEN = "a-token-of-twenty-chars"


def test_a_token_is_required_everywhere_but_for_health_and_the_page(tmp_path):
    served = service(pilot(tmp_path))
    paths = ["/v1/fits", "/metrics", "/openapi.json", "/nope", "/healthz", "/"]
    without = ask(served, *paths, token=TOKEN)
    assert [r.status_code for r in without] == [401, 401, 401, 401, 200, 200]
    assert without[0].json()["error"]["kind"] == "unauthorized"
    assert without[0].headers["www-authenticate"] == "Bearer"
    wrong = ask(served, "/v1/fits", token=TOKEN, headers={"authorization": "Bearer nope"})
    right = ask(served, "/v1/fits", token=TOKEN, headers={"authorization": f"Bearer {TOKEN}"})
    assert (wrong.status_code, right.status_code) == (401, 200)


def test_without_a_token_foreign_host_names_are_refused(tmp_path):
    served = service(pilot(tmp_path))
    for host, status in (("evil.example", 403), ("localhost:8000", 200), ("[::1]:80", 200)):
        assert ask(served, "/healthz", headers={"host": host}).status_code == status
    assert ask(served, "/healthz", token=TOKEN, headers={"host": "cluster"}).status_code == 200


def test_what_another_site_asks_is_refused_but_the_page_may_be_linked_to(tmp_path):
    served = service(pilot(tmp_path))
    for foreign in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
    ):
        for path in ("/v1/report/pilot.pdf", "/v1/query?flops=1e13&fit=pilot", "/v1/fits"):
            reply = ask(served, path, headers=foreign)
            assert (reply.status_code, reply.json()["error"]["kind"]) == (403, "forbidden")
        assert ask(served, "/?fit=pilot", headers=foreign).status_code == 200
    own = {"sec-fetch-site": "same-origin", "origin": "http://localhost"}
    for kept in (own, {"sec-fetch-site": "none"}, {"origin": "http://localhost"}, {}):
        assert ask(served, "/v1/query?flops=1e13&fit=pilot", headers=kept).status_code == 200
    assert not any(k.startswith("access-control") for k in reply.headers)


def test_head_is_answered_as_get_without_a_body(tmp_path):
    served = service(pilot(tmp_path))
    for path in ("/healthz", "/v1/query?flops=1e13&fit=pilot", "/"):
        head, get = ask(served, path, method="HEAD"), ask(served, path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert (
            path == "/healthz" or head.headers["content-length"] == (get.headers["content-length"])
        )


def test_what_is_far_too_long_is_refused_in_few_words(tmp_path):
    served = service(pilot(tmp_path))
    long = "x" * 40_000
    for path, headers, status in (
        (f"/v1/query?flops={long}", {}, 414),
        (f"/v1/fits/{long}", {}, 414),
        ("/v1/fits", {"x-long": long}, 431),
        (f"/v1/query?{long[:20_000]}=1", {}, 422),
    ):
        reply = ask(served, path, headers=headers)
        assert reply.status_code == status and len(reply.content) < 700, path


def test_loopback_is_known_by_name_and_number():
    assert all(map(loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(loopback, ("0.0.0.0", "::", "10.0.0.1", "127.evil.example", "")))


def test_too_many_at_once_are_told_to_come_back(tmp_path, capsys):
    served = service(pilot(tmp_path))
    served.metrics.in_flight = 10_000
    reply = ask(served, "/healthz")
    assert (reply.status_code, reply.json()["error"]["kind"]) == (503, "busy")
    assert int(reply.headers["retry-after"]) > 0
    assert capsys.readouterr().err == "", "a full house is no fault of the service"
    assert served.metrics.in_flight == 10_000


def test_every_response_forbids_foreign_and_inline_code(tmp_path):
    replies: list[httpx.Response] = ask(service(pilot(tmp_path)), "/", "/v1/fits", "/nope")
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_style_that_is_allowed_inline_is_the_chart_library_s():
    library = (PAGE / "vendor" / "plot.min.js").read_text()
    written = CHART_STYLE.replace("chart", "${c}").replace("\n", "\\n")
    assert written in library
