"""TLS towards a destination: the context to speak with, and in words why a handshake fails.

TLS 1.2 and newer, server authentication always, client authentication where a certificate is
configured (PS3.15 B.9 and B.10 take both from BCP 195). Not the TLS of the node's own ports.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from dicom_node.destination_settings import Destination
from dicom_node.errors import SightlineError


def tls_context(destination: Destination) -> ssl.SSLContext:
    """The client side of TLS with a destination.

    Raises
    ------
    SightlineError: a PEM file is missing or damaged, or key and certificate do not match.
    """
    try:
        context = ssl.create_default_context(cafile=destination.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = destination.check_hostname
        if destination.certificate is not None:
            context.load_cert_chain(destination.certificate, destination.key)
    except OSError as error:  # SSLError is one
        raise SightlineError(
            f"destination {destination.name!r}: authority, certificate or key: {error.strerror or error}; "
            "name PEM files that belong together"
        ) from None
    return context


def tls_problem(destination: Destination, host: str, port: int, timeout: float) -> str | None:
    """Why TLS with a destination does not come about, found by trying; None if it does.

    For messages: the libraries that send only say that there is no connection. With TLS 1.3
    a server says only after the handshake that it wants another client certificate; half a
    second is given to that.

    Parameters
    ----------
    timeout: seconds for connection and handshake.
    """
    try:
        context = tls_context(destination)
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.settimeout(min(timeout, 0.5))
            with contextlib.suppress(TimeoutError):
                secured.recv(1)
    except SightlineError as error:
        return error.message
    except ssl.SSLCertVerificationError as error:
        return f"TLS: its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
    except TimeoutError:
        return "TLS: no answer in time; does the peer speak TLS on this port?"
    except OSError as error:
        return f"no connection: {error.strerror or error}"
    return None
