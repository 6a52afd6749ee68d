"""One chart in a frame of another site: drawn, refused or explained, and the page itself never."""

import html
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import httpx
import pytest

from tests.fit.service.browser import PATIENCE_MS, served_page, until
from tests.fit.service.client import pilot, service
from tests.fit.service.test_page_axe import violations

pytestmark = pytest.mark.browser


class Host(BaseHTTPRequestHandler):
    """Another site, whose page has the address after the question mark in a frame."""

    def do_GET(self):  # noqa: N802
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        address = html.escape(unquote(self.path.partition("?")[2]))
        self.wfile.write(f'<iframe src="{address}" width="640" height="520">'.encode())

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def host():
    """The address of another site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


def framed(chromium, host, address):
    """A page of another site with the address in a frame, and what was asked for."""
    page = chromium.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(f"{host}?{quote(address)}")
    return page, page.query_selector("iframe").content_frame(), asked


@pytest.mark.parametrize("chart", ["loss", "params", "tokens", "valleys", "contours"])
def test_a_chart_is_drawn_in_a_frame_of_another_site(site, host, chart):
    chromium, url, _ = site
    page, frame, asked = framed(chromium, host, f"{url}embed?fit=pilot&chart={chart}&flops=1e13")
    frame.wait_for_selector("body[data-ready]")
    assert frame.locator("svg.chart").count() == 1
    assert "pilot" in frame.locator("h1").inner_text()
    assert "careful" in frame.locator("#verdict").inner_text()
    assert frame.locator("#full").get_attribute("href") == "./?fit=pilot&flops=1e13"
    assert all(address.startswith((url, host)) for address in asked), asked
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


def test_what_is_refused_or_unknown_is_said_and_not_drawn(site, host):
    chromium, url, _ = site
    for query, words in (
        ("fit=blind", "refuse"),
        ("fit=nope", "There is no fit 'nope'"),
        ("fit=pilot&chart=pie", "one of loss, params, tokens, valleys, contours"),
        ("fit=pilot&theme=pink", "light or dark"),
        ("law=hoffmann2022&chart=valleys", "no runs at equal budgets"),
        ("fit=blind&chart=contours", "refuse"),
        ("fit=pilot&chart=contours&flops=1e17", "`force=true`"),
        ("fit=pilot&chart=contours&flops=1e17&force=true", "refuse"),
        ("fit=pilot&chart=contours&flops=lots", "lots"),
        ("fit=pilot&chart=contours&max_params=few", "Max params is 'few'"),
    ):
        page, frame, _ = framed(chromium, host, f"{url}embed?{query}")
        frame.wait_for_selector("body[data-ready]")
        assert words in frame.locator("main").inner_text(), query
        assert frame.locator("svg.chart").count() == 0, query
        page.context.close()


def test_the_page_itself_cannot_be_framed_and_a_frame_takes_no_token(site, host, tmp_path):
    served = service(pilot(tmp_path))
    chromium, url, _ = site
    page, frame, _ = framed(chromium, host, url)
    page.wait_for_timeout(300)
    assert frame.url.startswith("chrome-error:") or frame.locator("#ask").count() == 0
    page.context.close()
    with served_page(served, "a-token-of-twenty-chars") as guarded:
        page, frame, _ = framed(chromium, host, f"{guarded}embed?fit=pilot")
        frame.wait_for_selector("body[data-ready]")
        assert "requires a token" in frame.locator("#fault").inner_text()
        assert frame.locator("input").count() == 0
        page.context.close()
    replies = [httpx.get(f"{url}{path}") for path in ("embed", "", "v1/fits")]
    policies = [reply.headers["content-security-policy"] for reply in replies]
    assert [p.rpartition(" ")[2] for p in policies] == ["*", "'none'", "'none'"]
    served.close()


def test_contours_lie_around_the_budget_that_is_asked_or_ten_times_the_largest(site):
    chromium, url, _ = site
    laws = ("fit=pilot", "law=hoffmann2022")
    spans = [httpx.get(f"{url}v1/curves?{law}").json()["range"]["flops"] for law in laws]
    asked = [(law, 10 * span[1]) for law, span in zip(laws, spans, strict=True)]
    for query, flops in (*asked, ("fit=pilot&flops=2e13&max_params=200k", 2e13)):
        page = chromium.new_context().new_page()
        with page.expect_response("**/v1/contours?*") as caught:
            page.goto(f"{url}embed?{query}&chart=contours")
        until(page, "document.body.dataset.ready === 'true'")
        assert caught.value.json()["budget"]["flops"] == pytest.approx(flops, rel=0.2)
        legend = page.locator(".legend").inner_text()
        assert "equal loss" in legend and ("excluded" in legend) == ("max_params" in query)
        assert page.locator("svg.chart").count() == 1
        page.context.close()


@pytest.mark.parametrize("chart", ["loss", "contours"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_framed_chart_has_no_serious_violation(site, scheme, chart):
    chromium, url, _ = site
    page = chromium.new_context(color_scheme=scheme).new_page()
    page.goto(f"{url}embed?fit=pilot&chart={chart}")
    until(page, "document.body.dataset.ready === 'true'")
    assert violations(page) == []
    page.context.close()
