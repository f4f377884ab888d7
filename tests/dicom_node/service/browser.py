"""Headless Chromium for the tests of the page: where it is, and a watch over all that it does.

Not a driver (playwright is): it finds the browser, and notes what must not happen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from dicom_node.config import ServiceSettings
from dicom_node.http_server import listen
from dicom_node.service.app import create_app
from dicom_node.service.parts import Parts
from tests.dicom_node.network import free_port, wait_until
from tests.peers import require

SIZE = {"width": 1280, "height": 800}
PATIENCE = 45_000  # ms; a busy machine is slow, not wrong
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation",
    (event) => console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def browsing() -> Iterator[Browser]:
    """Chromium; see `tests.peers.require` for where it is missing."""
    path = require("chromium")
    root = sys.platform.startswith("linux") and os.geteuid() == 0
    arguments = ["--disable-gpu", *(["--no-sandbox"] if root else [])]
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def served(parts: Parts, token: str | None) -> Iterator[str]:
    """The application behind a real socket on loopback; its address, without a slash at the end."""
    settings = ServiceSettings(port=free_port())
    server = uvicorn.Server(uvicorn.Config(create_app(parts, token), log_config=None, lifespan="off"))
    with listen("service", settings.address, settings.port) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), 30, "the service")
            yield f"http://127.0.0.1:{settings.port}"
        finally:
            server.should_exit = True
            thread.join(20)


@dataclass
class Watch:
    """A tab, and what it did.

    Attributes
    ----------
    page: the tab.
    address: of the service.
    requests: all of them, whatever their kind.
    errors: what the console complained of, without answers that were refused.
    refused: statuses of 400 and more, in order.
    """

    page: Page
    address: str
    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.add_init_script(_TELL_VIOLATIONS)
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - playwright marks it
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda a: self.refused.append(a.status) if a.status >= 400 else None)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def assert_well(self, token: str, *, refused: tuple[int, ...] = ()) -> None:
        """Nothing left the origin, nothing was violated, no token is in an address, no other refusals."""
        foreign = [
            r.url for r in self.requests if not r.url.startswith((self.address, f"blob:{self.address}"))
        ]
        assert foreign == []
        assert len(self.requests) > 5
        assert not [r.url for r in self.requests if token in r.url]
        assert self.errors == []
        assert self.refused == list(refused)


@contextmanager
def tab(browser: Browser, address: str) -> Iterator[Watch]:
    """A tab of its own, without anything kept."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]  # playwright's own TypedDict
    context.set_default_timeout(PATIENCE)
    try:
        yield Watch(context.new_page(), address)
    finally:
        context.close()
