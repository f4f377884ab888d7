"""A small process that answers Prometheus and health probes, and does the housekeeping.

``/metrics``, ``/healthz`` (this process answers) and ``/readyz`` (the node can work) have a port of their
own, so that they answer while the service loads a model or has died. `dicom_node.retention`
runs here too: it must not share a GIL with the receiver.
"""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.health import OK, readiness
from dicom_node.http_server import base_url, listen, serve_until, server
from dicom_node.metrics import NodeCollector
from dicom_node.retention import Retention
from dicom_node.service.access import read_token

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Longer than a busy disk takes, shorter than most probes wait.
ANSWER_SECONDS = 5.0
AT_ONCE = 4  # questions to the index; one that hangs with its database keeps its thread


def run_monitor(config: Config, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    """Answer probes and keep house until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened, the token or a certificate not read, or the port
        not listened on.
    """
    archive = Archive.open(config)
    settings = config.monitor
    http = server("monitor", monitor_app(config, archive), settings.certificate, settings.key)
    with listen("monitor", settings.address, settings.port) as listening:
        housekeeping = threading.Thread(
            target=Retention(config, archive).run, args=(stop,), name="retention", daemon=True
        )
        housekeeping.start()

        def started() -> None:
            url = base_url(settings.address, settings.port, settings.certificate)
            logger.info("monitor ready url=%s/metrics", url)
            say_ready()

        serve_until(stop, http, listening, started)
        housekeeping.join(10.0)
    logger.info("monitor stopped")


def monitor_app(config: Config, archive: Archive) -> Starlette:
    """The monitor as an ASGI application.

    Raises
    ------
    SightlineError: the token file cannot be read.
    """
    file = config.monitor.token_file
    token = None if file is None else read_token(file, "monitor.token_file")
    registry = CollectorRegistry()
    registry.register(NodeCollector(config, archive))
    limiter = CapacityLimiter(AT_ONCE)

    def may_see(request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return token is None or hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    async def metrics(request: Request) -> Response:
        if not may_see(request):
            return PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
        text = await _in_time(limiter, lambda: generate_latest(registry))
        if text is None:
            return PlainTextResponse("no answer in time\n", 503)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        found = await _in_time(limiter, lambda: readiness(config, archive))
        found = {"monitor": "no answer in time"} if found is None else found
        ready = all(answer == OK for answer in found.values())
        document = {"ready": ready, **({"checks": found} if may_see(request) else {})}
        return JSONResponse(document, 200 if ready else 503)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    )


async def _in_time(limiter: CapacityLimiter, work: Callable[[], T]) -> T | None:
    """The result of work that may block, or None where it takes too long."""
    with anyio.move_on_after(ANSWER_SECONDS):
        return await run_sync(work, abandon_on_cancel=True, limiter=limiter)
    return None
