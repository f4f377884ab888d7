"""TLS for incoming associations (PS3.15 annex B): certificates from PEM files, TLS 1.2 or newer.

Only the context; the handshakes are in `dicom_node.lobby`.
"""

from __future__ import annotations

import ssl

from dicom_node.errors import SightlineError
from dicom_node.receiver_settings import ReceiverSettings


def server_context(settings: ReceiverSettings) -> ssl.SSLContext | None:
    """The context of the receiver, or None where TLS is not configured.

    With `ReceiverSettings.client_authority` a peer without a certificate of these authorities is
    refused in the handshake (BCP 195, mutual authentication).

    Raises
    ------
    SightlineError: a file cannot be read, or the files do not belong together.
    """
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.client_authority is not None:
            context.load_verify_locations(settings.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # SSLError is one
        raise SightlineError(
            f"receiver.certificate, receiver.key or receiver.client_authority: {error.strerror or error}; "
            "name PEM files that belong together"
        ) from None
    return context
