"""An HTTP server in a thread: a socket, TLS, and a clean end. Not what is served.

Used by the query service (`dicom_node.service.run`) and by the monitor (`dicom_node.monitor`).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from dicom_node.errors import SightlineError

STOP_SECONDS = 5  # for answers under way
WAITING = 128  # connections that may wait to be taken, and requests in work before 503 is answered


def listen(table: str, address: str, port: int) -> socket.socket:
    """A socket that listens already, so that a taken port is known before anything is loaded.

    Parameters
    ----------
    table: of the configuration, for messages.

    Raises
    ------
    SightlineError: the address or port cannot be had.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it (Linux). Else the body of an answer waits 40 ms for an acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((address, port))
        bound.listen(WAITING)
    except OSError as error:
        bound.close()
        raise SightlineError(
            f"{table}.port = {port}: cannot listen on {address} ({error.strerror}); stop "
            "the program that uses it or choose another port"
        ) from None
    return bound


def server(
    table: str,
    app: ASGIApp,
    certificate: Path | None,
    key: Path | None,
    client_authority: Path | None = None,
) -> uvicorn.Server:
    """A server for `app`, with TLS where a certificate is given; it does not run yet.

    Raises
    ------
    SightlineError: the PEM files cannot be used.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # paths hold UIDs
        server_header=False,
        ws="none",
        limit_concurrency=WAITING,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=None if client_authority is None else str(client_authority),
        ssl_cert_reqs=ssl.CERT_NONE if client_authority is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SightlineError(
            f"{table}.certificate, {table}.key or {table}.client_authority: {error.strerror or error}; "
            "name PEM files that belong together"
        ) from None
    return uvicorn.Server(config)


def serve_until(
    stop: threading.Event, server: uvicorn.Server, listening: socket.socket, started: Callable[[], None]
) -> None:
    """Serve until `stop` is set; `started` is called once requests are answered.

    Raises
    ------
    SightlineError: the server ended before it answered anything.
    """
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http")
    thread.start()
    try:
        while not server.started and thread.is_alive() and not stop.wait(0.05):
            pass
        if not thread.is_alive():
            raise SightlineError("the HTTP server did not start; its log says why")
        started()
        while thread.is_alive() and not stop.wait(1.0):
            pass
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS + 5)


def base_url(address: str, port: int, certificate: Path | None) -> str:
    """Where a server is to be found.

    >>> base_url("::1", 11113, None)
    'http://[::1]:11113'
    """
    host = f"[{address}]" if ":" in address else address
    return f"{'http' if certificate is None else 'https'}://{host}:{port}"
