"""The service as a process: the model that embeds texts, and what it says when it is ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.http_server import base_url, listen, serve_until, server
from dicom_node.model_in_use import ModelInUse
from dicom_node.service.access import access_token, token_path
from dicom_node.service.app import create_app
from dicom_node.service.parts import Parts

logger = logging.getLogger(__name__)


def run_service(config: Config, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    """Answer queries until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened, the checkpoint not loaded, the token or a
        certificate not read, or the port not listened on.
    """
    archive = Archive.open(config)
    token = access_token(config)
    settings = config.service
    with listen("service", settings.address, settings.port) as listening:
        # Texts are embedded on the CPU: short sentences, and the device is the reader's.
        parts = Parts.of(config, archive, ModelInUse(config, "cpu"))
        # Many short questions at once: one core each beats all cores for each.
        torch.set_num_threads(1)
        app = create_app(parts, token)
        http = server("service", app, settings.certificate, settings.key, settings.client_authority)

        def started() -> None:
            _announce(config)
            say_ready()

        with parts.running():
            serve_until(stop, http, listening, started)
    logger.info("service stopped")


def _announce(config: Config) -> None:
    settings = config.service
    address = base_url(settings.address, settings.port, settings.certificate)
    guard = f"token in {token_path(config)}" if settings.asks_token else "client certificate"
    logger.info("service ready url=%s/api/1 guard=%s", address, guard)
    logger.info("in the browser: %s/", address)
    if settings.certificate is None and settings.address not in ("127.0.0.1", "::1"):
        logger.warning("the service sends patients' results and its token in clear: set service.certificate")
