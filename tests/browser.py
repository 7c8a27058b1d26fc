"""Headless Chromium for tests of pages. Where there is none they are skipped, and say so."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
DEADLINE = 20_000  # milliseconds


def chromium() -> str | None:
    there = next((path for name in NAMES if (path := shutil.which(name))), None)
    return there or (str(MACOS) if MACOS.exists() else None)


needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="there is no Chromium here (Debian: apt-get install chromium)"
)


@contextmanager
def started() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """A page in a profile of its own. Fails if a script of it fails, or if its policy had to stop something."""
    own = browser.new_context(**context)
    own.set_default_timeout(DEADLINE)
    page = own.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
    )
    try:
        page.goto(url)
        yield page
        assert not wrong
    finally:
        own.close()
