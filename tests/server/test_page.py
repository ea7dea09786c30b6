"""The page in a browser without a head: it loads, points appear, the chat streams, nothing complains."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.server.conftest import Live

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)
NEWEST = "document.getElementById('roofline').data?.[1].text.at(-1)"
pytestmark = pytest.mark.models
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """A page, and all it complained of or asked for."""

    def __init__(self, browser: Browser, url: str, *, width: int, height: int, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type != "log" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        expect(self.page.locator("#state")).to_have_text("live")

    def newest(self) -> str:
        """What the latest point says; the page keeps some hundreds."""
        return str(self.page.evaluate(f"{NEWEST} ?? ''"))

    def picture(self, name: str) -> None:
        """Into docs, where asked to."""
        folder = os.environ.get("MEMBOUND_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def load(live: Live, count: int) -> list[threading.Thread]:
    """Requests in the background."""

    def one(number: int) -> None:
        live.client.completions.create(
            model="smollm2",
            prompt=f"Story {number}: once upon a time " * (1 + number % 4),
            max_tokens=16 + 8 * (number % 5),
            extra_body={"ignore_eos": True},
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


@needs_chromium
def test_points_appear_and_the_chat_streams(browser: Browser, live: Live) -> None:
    watched = Watched(browser, live.url, width=1400, height=1000)
    page = watched.page
    expect(page.locator("#model")).to_have_text("smollm2")
    before = watched.newest()
    threads = load(live, 16)
    page.fill("#prompt", "Say hi.")
    page.fill("#temperature", "0")
    page.fill("#most", "40")
    page.press("#prompt", "Enter")
    answer = page.locator(".message.assistant")
    expect(answer).to_contain_text(re.compile(r"\w{2}"), timeout=60_000)
    expect(page.locator(".told")).to_contain_text("TPOT", timeout=60_000)
    for thread in threads:
        thread.join()
    page.wait_for_function(f"before => ({NEWEST} ?? '') !== before", arg=before)
    watched.picture("page-light")
    expect(page.locator("#ttft-99")).to_contain_text("s")
    page.fill("#slo-ttft", "0.001")
    expect(page.locator("#attained")).to_have_text("0.0 %")
    page.fill("#slo-ttft", "1000000")
    page.fill("#slo-tpot", "1000000")
    expect(page.locator("#attained")).to_have_text("100 %")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert watched.complaints == []
    assert all(asked.startswith((live.url, "data:", "blob:")) for asked in watched.asked)
    watched.context.close()


@needs_chromium
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, live: Live) -> None:
    watched = Watched(browser, live.url, width=390, height=844, dark=True)
    for thread in load(live, 8):
        thread.join()
    watched.page.wait_for_function("() => document.getElementById('roofline').data?.[1].x.length > 0")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.page.evaluate("document.documentElement.dataset.theme") == "dark"
    watched.picture("page-phone-dark")
    assert watched.complaints == []
    watched.context.close()


def test_the_page_names_no_other_place(live: Live) -> None:
    place = urlsplit(live.url)
    connection = HTTPConnection(place.hostname or "", place.port)
    connection.request("GET", "/", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    connection.close()
    folder = Path(__file__).parents[2] / "src/membound/server/page"
    for file in folder.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
