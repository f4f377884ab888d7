"""The service as a process: the model that embeds texts, a socket, TLS, and a clean end."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable

import torch
import uvicorn

from core_model.reader import Reader
from dicom_node.archive import Archive
from dicom_node.config import Config, ServiceSettings
from dicom_node.errors import SightlineError
from dicom_node.service.access import access_token, token_path
from dicom_node.service.app import create_app
from dicom_node.service.parts import Parts

logger = logging.getLogger(__name__)

STOP_SECONDS = 5  # for answers under way
WAITING = 128  # connections that may wait to be taken, and requests in work before 503 is answered


def run_service(config: Config, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    """Answer queries until `stop` is set.

    Raises
    ------
    SightlineError: the archive cannot be opened, the checkpoint not loaded, the token or a
        certificate not read, or the port not listened on.
    """
    archive = Archive.open(config)
    token = access_token(config)
    with listen(config.service) as listening:
        try:
            # Texts are embedded on the CPU: short sentences, and the device is the reader's.
            reader = Reader.load(config.checkpoint, "cpu")
        except (OSError, ValueError, RuntimeError) as error:
            raise SightlineError(f"checkpoint: {error}") from error
        reader.question("lesion")  # embeds the dictionary: the first to ask would wait a second for it
        # Many short questions at once: one core each beats all cores for each.
        torch.set_num_threads(1)
        parts = Parts.of(config, archive, reader)
        server = uvicorn.Server(_server_config(config, create_app(parts, token)))
        with parts.running():
            _serve(server, listening, config, stop, say_ready)
    logger.info("service stopped")


def _serve(
    server: uvicorn.Server,
    listening: socket.socket,
    config: Config,
    stop: threading.Event,
    say_ready: Callable[[], None],
) -> None:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http")
    thread.start()
    try:
        while not server.started and thread.is_alive() and not stop.wait(0.05):
            pass
        if not thread.is_alive():
            raise SightlineError("the service did not start; its log says why")
        _announce(config)
        say_ready()
        while thread.is_alive() and not stop.wait(1.0):
            pass
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS + 5)


def listen(settings: ServiceSettings) -> socket.socket:
    """A socket that is bound where the settings say; uvicorn makes it listen.

    Raises
    ------
    SightlineError: the address or port cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.address, settings.port))
        bound.listen(WAITING)  # here, so that a taken port is known before the model is loaded
    except OSError as error:
        bound.close()
        raise SightlineError(
            f"service.port = {settings.port}: cannot listen on {settings.address} ({error.strerror}); stop "
            "the program that uses it or choose another port"
        ) from None
    return bound


def _server_config(config: Config, app: object) -> uvicorn.Config:
    settings = config.service
    server = uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI application, whatever its annotation is
        log_config=None,
        access_log=False,  # a line per request without paths comes from the envelope
        server_header=False,
        ws="none",
        limit_concurrency=WAITING,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        ssl_ca_certs=None if settings.client_authority is None else str(settings.client_authority),
        ssl_cert_reqs=ssl.CERT_NONE if settings.client_authority is None else ssl.CERT_REQUIRED,
    )
    try:
        server.load()
    except (OSError, ssl.SSLError) as error:
        raise SightlineError(
            f"service.certificate, service.key or service.client_authority: {error.strerror or error}; "
            "name PEM files that belong together"
        ) from None
    return server


def _announce(config: Config) -> None:
    settings = config.service
    scheme = "http" if settings.certificate is None else "https"
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    address = f"{scheme}://{host}:{settings.port}"
    guard = f"token in {token_path(config)}" if settings.asks_token else "client certificate"
    logger.info("service ready url=%s/api/1 guard=%s", address, guard)
    logger.info("in the browser: %s/", address)
    if scheme == "http" and settings.address not in ("127.0.0.1", "::1"):
        logger.warning("the service sends patients' results and its token in clear: set service.certificate")
