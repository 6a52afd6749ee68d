"""The page in chromium: opened, waited for and read."""

import asyncio
import shutil
import socket
import threading
from contextlib import contextmanager

import httpx

from fit.service.app import application

PATIENCE_MS = 120_000
"""For an element to appear, on a busy machine."""
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@contextmanager
def served_page(served, token=None):
    """The page on a free port, served from a thread."""
    import uvicorn

    from fit.service.http import TimeoutProtocol

    listener = socket.create_server(("127.0.0.1", 0))
    app = application(served, token=token)
    config = uvicorn.Config(
        app, http=TimeoutProtocol, ws="none", log_level="critical", access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def browser():
    """Debian's chromium, headless."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "these tests need chromium: apt-get install chromium"
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def opened(site, query="", **given):
    """The page, loaded; what it asked for, and what its console said."""
    chromium, url, _ = site
    context = chromium.new_context(accept_downloads=True, **given)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda r: page.asked.append(r.url))
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
    page.goto(f"{url}{query}")
    page.wait_for_selector("body[data-ready]")
    try:
        yield page
        assert not page.faults, page.faults
        assert all(address.startswith((url, "blob:", "data:")) for address in page.asked)
    finally:
        context.close()


def forgive_refusals(page):
    """Forget what the browser itself says of refused requests, but no error of the page."""
    page.faults[:] = [text for text in page.faults if "Failed to load resource" not in text]


def until(page, condition):
    """Wait for a condition on the page; its policy forbids the driver's own way, eval."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never {condition}")


def shown(page):
    """The numbers on the page, exactly."""
    names = ("params", "tokens", "tokens_per_param", "loss")
    return {
        n: float(page.locator(f"#facts data[data-name={n}]").get_attribute("value")) for n in names
    }


def said(site, query):
    document = httpx.get(f"{site[1]}v1/query?{query}").json()
    return {n: document[n]["value"] for n in ("params", "tokens", "tokens_per_param", "loss")}
