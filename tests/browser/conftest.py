"""A real Chromium, scripted servers for it, and what every page must keep to whatever a test does with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.programs import TOOL_TEMPLATE
from tests.api.scripted_server import RunningServer, running_server

PLAYWRIGHT = "these tests need Playwright: make test-browser installs it into an environment of its own"
CHROMIUM = "no browser: install Debian's chromium, or name one with CHROMIUM=/path/to/it"

OpenPage = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Playwright's Browser. Skips where there is none, and says which half is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason=PLAYWRIGHT)
    place = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if place is None:
        pytest.skip(CHROMIUM)
    with playwright.sync_playwright() as started:
        # Without a sandbox of its own, because tests may run as root; pages come from this machine alone.
        running = started.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def played() -> Iterator[RunningServer]:
    """A server whose template knows tools and reasoning, with room for long answers."""
    with running_server(template=TOOL_TEMPLATE, max_model_len=4096) as running:
        yield running


@pytest.fixture
def open_page(browser: Any, played: RunningServer) -> Iterator[OpenPage]:
    """Opens the playground of a server in a browser's context of its own.

    Whatever the test does: no script fails, nothing offends the policy, no other host is asked, no cookie is set.
    ``allowed`` are beginnings of console errors that a test provokes.
    """
    contexts: list[tuple[Any, list[str], list[str], tuple[str, ...]]] = []

    def start(
        server: RunningServer = played,
        *,
        url: str | None = None,
        width: int = 1280,
        height: int = 800,
        scheme: str = "light",
        ready: bool = True,
        allowed: tuple[str, ...] = (),
    ) -> Any:
        base = url or server.base_url
        size = {"width": width, "height": height}
        context = browser.new_context(
            viewport=size, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"]
        )
        wrong: list[str] = []
        asked: list[str] = []
        contexts.append((context, wrong, asked, allowed))
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("dialog", lambda dialog: note_dialog(dialog, wrong))
        page.on(
            "request", lambda request: None if request.url.startswith((base, "data:")) else asked.append(request.url)
        )
        page.goto(base + "/")
        if ready:
            page.wait_for_selector("#question:not([disabled])")
        return page

    yield start
    for context, wrong, asked, allowed in contexts:
        cookies = context.cookies()
        context.close()
        assert [text for text in wrong if not text.startswith(allowed or ("\0",))] == []
        assert asked == []
        assert cookies == []


REFUSED = ("Failed to load resource: the server responded with a status of",)
"""What a browser's console says of every answer that is no success."""


def note_dialog(dialog: Any, wrong: list[str]) -> None:
    """Nothing in the page opens one; a script that got in might."""
    wrong.append(f"dialog: {dialog.message}")
    dialog.dismiss()


class _Steps(threading.Event):
    """A gate that lets a number of steps pass before it is closed, until it is opened."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left >= 0 or super().wait(timeout)


@contextlib.contextmanager
def held_after(server: RunningServer, steps: int) -> Iterator[None]:
    """The engine takes this many steps and then none until the block ends: a stream is seen while it is one."""
    gate = server.gate.open = _Steps(steps)
    try:
        yield
    finally:
        gate.set()


def say(page: Any, text: str) -> None:
    """Type a message and send it with the keyboard."""
    page.fill("#question", text)
    page.press("#question", "Enter")


def last_answer(page: Any, status: str = "done") -> Any:
    """The last answer, once it has this status."""
    answer = page.locator(".message.assistant").last
    page.wait_for_function(
        "status => [...document.querySelectorAll('.message.assistant')].at(-1)?.dataset.status === status", arg=status
    )
    return answer
