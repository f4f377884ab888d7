"""Results to a DICOMweb server: STOW-RS (PS3.18 10.5), one instance in each request.

Knows nothing of what is due when (`dicom_node.delivery`). An instance counts as stored only
where the answer names it: a proxy's log-in page has status 200 too.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from dicom_node.config import Config
from dicom_node.delivery_parcels import (
    NATIVE,
    SUCCESS,
    Outcome,
    Parcel,
    UnreachableError,
    fitting,
    in_words,
    transfer_syntax,
)
from dicom_node.delivery_tls import tls_problem
from dicom_node.destination_settings import Destination

MAX_TOKEN = 8192  # characters
# Answers that are about the server or our rights, not about the instance that was sent.
_CURES = {
    401: "check token_file, or certificate and key",
    403: "check what the server lets this node do",
    404: "check url; it is what comes before /studies",
    405: "check url; it is what comes before /studies",
    408: "the server was too slow",
    429: "the server asks to be left alone for a while",
    502: "the server behind it is down",
    503: "the server is not available",
    504: "the server behind it does not answer",
}
_SYNTAX_NOT_SUPPORTED = 0xC122  # Referenced Transfer Syntax Not Supported, PS3.18 table I.2-2


class _AnyHost(HTTPAdapter):
    """Connections that check the server's certificate, but not which host it names."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, assert_hostname=False, **kwargs)


@dataclass(frozen=True)
class _Answer:
    """HTTP status, and the Store Instances Response (PS3.18 I.2.2), empty where there is none."""

    status: int
    dataset: Dataset


class _Server:
    """A DICOMweb server as the node speaks to it."""

    def __init__(self, destination: Destination, config: Config) -> None:
        self._destination = destination
        self._timeout = config.delivery.timeout_seconds
        self._response: requests.Response | None = None
        self._client = DICOMwebClient(
            destination.url.rstrip("/"),
            session=_session(destination),
            timeout=self._timeout,
            chunk_size=1 << 62,  # one body of known length: not every server takes chunks
            callback=self._keep_response,
        )
        self._client.set_http_retry_params(retry=False)  # it would sleep; our retries wait in the index
        logging.getLogger("retrying").setLevel(logging.CRITICAL)  # a traceback for every failed request

    def _keep_response(self, response: requests.Response, *_: Any, **__: Any) -> requests.Response:
        self._response = response
        return response

    def store(self, datasets: Sequence[Dataset]) -> _Answer:
        """One store transaction.

        Raises
        ------
        UnreachableError: it is not about these instances.
        TimeoutError, ConnectionError: the server went silent, or hung up, on this request.
        """
        self._response = None
        try:
            self._client.store_instances(datasets)
        except requests.TooManyRedirects:
            raise UnreachableError("the server sends the node elsewhere; check url and token_file") from None
        except requests.ConnectionError as error:  # TLS and connection time-outs are among them
            problem = self._problem()
            if problem is not None:
                raise UnreachableError(problem) from None
            raise ConnectionError("the server broke the connection") from error
        except requests.Timeout:
            raise TimeoutError("no answer in time") from None
        # With an answer, it is one that dicomweb-client makes nothing of; it is read below.
        except OSError as error:
            if self._response is None:  # such as a PEM file that is not there
                raise UnreachableError(f"not sent: {str(error).partition(chr(10))[0]}") from error
        except Exception as error:
            if self._response is None:
                raise ConnectionError(f"the result cannot be sent: {type(error).__name__}") from error
        return self._answer()

    def _answer(self) -> _Answer:
        if self._response is None:
            raise UnreachableError("no answer")
        status = int(self._response.status_code)
        if status in _CURES:
            raise UnreachableError(f"HTTP {status}: {_CURES[status]}")
        return _Answer(status, _store_response(self._response))

    def _problem(self) -> str | None:
        """Why there is no connection; None if there can be one."""
        parts = urlsplit(self._destination.url)
        host, secure = str(parts.hostname), parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        if secure:
            return tls_problem(self._destination, host, port, self._timeout)
        try:
            socket.create_connection((host, port), self._timeout).close()
        except OSError as error:
            return f"no connection: {error.strerror or error}; check url and that the server runs"
        return None


def _session(destination: Destination) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither proxies nor passwords from the environment
    session.max_redirects = 0  # a redirect would send patients, and the token, elsewhere
    session.verify = True if destination.authority is None else str(destination.authority)
    if destination.certificate is not None and destination.key is not None:
        session.cert = (str(destination.certificate), str(destination.key))
    if not destination.check_hostname:
        session.mount("https://", _AnyHost())
    session.headers["Accept"] = "application/dicom+json"
    if destination.token_file is not None:
        session.headers["Authorization"] = f"Bearer {_token(destination.token_file)}"
    return session


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreachableError(f"token_file {path} cannot be read: {type(error).__name__}") from None
    if not token or len(token) > MAX_TOKEN or not token.isprintable() or " " in token:
        raise UnreachableError(f"token_file {path} does not hold a token in one line")
    return token


def _store_response(response: requests.Response) -> Dataset:
    """The body of an answer as a data set.

    Not left to dicomweb-client 0.61: it drops the body of every error, and reads none whose
    media type has a parameter.
    """
    try:
        return Dataset.from_json(json.loads(response.content))
    except Exception:  # a proxy's page or a broken document acknowledges nothing
        return Dataset()


def store(
    destination: Destination, config: Config, parcels: Sequence[Parcel]
) -> Generator[Outcome, None, None]:
    """Store results one by one, in order; each outcome as soon as it is known.

    Raises
    ------
    UnreachableError: there is no connection, TLS fails, the server refuses the node, or its
        answer is about the server and not about the instance.
    """
    server = _Server(destination, config)
    for parcel in parcels:
        syntax = transfer_syntax(parcel.path)
        outcome = _store_one(server, parcel, [syntax])
        if outcome.status == _SYNTAX_NOT_SUPPORTED and syntax not in NATIVE:
            outcome = _store_one(server, parcel, NATIVE)
        yield outcome


def answers(destination: Destination, config: Config) -> str | None:
    """Ask a server whether it would take results, by a request that holds none.

    Returns
    -------
    None if it would, as far as that shows, else the reason why not.
    """
    try:
        status = _Server(destination, config).store([]).status
    except (UnreachableError, OSError) as error:
        return str(error)
    return None if status < HTTPStatus.INTERNAL_SERVER_ERROR else f"HTTP {status}"


def _store_one(server: _Server, parcel: Parcel, syntaxes: Sequence[str]) -> Outcome:
    """One request with one result, in one of the transfer syntaxes."""
    try:
        dataset = fitting(parcel.path, syntaxes)
    except ValueError as error:
        return Outcome(parcel, None, str(error))
    try:
        answer = server.store([dataset])
    except (TimeoutError, ConnectionError) as error:
        return Outcome(parcel, None, str(error))
    return _outcome(parcel, answer)


def _outcome(parcel: Parcel, answer: _Answer) -> Outcome:
    """What an answer says about the one instance of its request (PS3.18 table I.2-1)."""
    failed = _item(answer.dataset, "FailedSOPSequence", parcel)
    if failed is not None and failed.get("FailureReason"):
        status = int(failed.FailureReason)
        return Outcome(parcel, status, in_words(status))
    stored = _item(answer.dataset, "ReferencedSOPSequence", parcel)
    if stored is not None:
        status = int(stored.get("WarningReason") or SUCCESS)
        return Outcome(parcel, status, in_words(status))
    if answer.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        return Outcome(parcel, _SYNTAX_NOT_SUPPORTED, "HTTP 415: the server takes no such object")
    if answer.status < HTTPStatus.BAD_REQUEST:
        return Outcome(parcel, None, f"HTTP {answer.status}, but the answer does not name the result")
    return Outcome(parcel, None, f"HTTP {answer.status}")


def _item(dataset: Dataset, keyword: str, parcel: Parcel) -> Dataset | None:
    items = (item for item in dataset.get(keyword) or [])
    return next((i for i in items if i.get("ReferencedSOPInstanceUID") == parcel.sop_instance_uid), None)
