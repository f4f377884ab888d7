"""What the audit trail is told of the query service: who asked, looked at or corrected which study.

Not access control (`dicom_node.service.access`) and no log. Scrolling through a study asks for hundreds of
pictures: the same client is told of once in ten minutes for the same study and kind of access.
Texts that were asked for are not kept.
"""

from __future__ import annotations

import logging
import time

import sqlalchemy as sa
from anyio.to_thread import run_sync
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.archive import Archive
from dicom_node.audit import AuditTrail
from dicom_node.audit_message import UNKNOWN, Concerned, Participant
from dicom_node.config import Config
from dicom_node.index import Instance
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 600.0
MAX_REMEMBERED = 4096  # (client, study, kind); beyond that all are forgotten, and told again
ASKED, EXPORTED, CORRECTED, REFUSED = "asked", "exported", "corrected", "refused"


def kind_of(method: str, route: str, status: int) -> str | None:
    """What a request was, for the audit trail; None where it gave away nothing of a patient.

    Parameters
    ----------
    route: the pattern of its path.

    >>> kind_of("POST", "/api/1/studies/{study_uid}/query", 200)
    'asked'
    >>> kind_of("GET", "/api/1/studies/{study_uid}/slices", 404)
    """
    if status == 401:
        return REFUSED
    if status >= 400:
        return None
    of_study = "/studies/{study_uid}/" in route
    if method == "POST" and (route.endswith("/query") or (of_study and not route.endswith("/retry"))):
        return CORRECTED if route.endswith("/corrections") else ASKED
    if method == "GET" and (of_study or route.endswith("/result")):
        return EXPORTED
    return None


class Audited:
    """ASGI middleware round everything else.

    Parameters
    ----------
    app: what answers.
    config, archive: of the node.
    """

    def __init__(self, app: ASGIApp, config: Config, archive: Archive) -> None:
        self._app = app
        self._archive = archive
        self._trail = AuditTrail(config)
        self._told: dict[tuple[str, str, str], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and tell of it afterwards."""
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, noted)
        if scope["type"] != "http" or status == 0:
            return
        route = str(getattr(scope.get("route"), "path", ""))
        kind = kind_of(scope["method"], route, status)
        client = scope["client"][0] if scope.get("client") else UNKNOWN
        study = str(scope.get("path_params", {}).get("study_uid", ""))
        if kind is not None and self._is_news((client, study, kind)):
            await run_sync(self._tell, kind, route, client, study)

    def _is_news(self, what: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        if len(self._told) >= MAX_REMEMBERED:
            self._told.clear()
        last = self._told.get(what)
        if last is not None and now - last < AGAIN_SECONDS:
            return False
        self._told[what] = now
        return True

    def _tell(self, kind: str, route: str, client: str, uid: str) -> None:
        peer = Participant(client, address=client)
        try:
            study = self._study(uid) if uid else None
        except sa.exc.SQLAlchemyError as error:
            logger.error("audit message without its study error=%s", in_words(error))
            study = None
        if kind == REFUSED:
            self._trail.alert(peer, "a request without the access token")
        elif kind == ASKED:
            self._trail.asked(route, peer, study)
        elif kind == CORRECTED:
            self._trail.corrected(peer, study)
        else:
            self._trail.exported(peer, study)

    def _study(self, uid: str) -> Concerned:
        with self._archive.index.reading() as session:
            one = session.scalar(
                sa.select(Instance.sop_instance_uid).where(Instance.study_instance_uid == uid).limit(1)
            )
        patient = UNKNOWN if one is None else self._trail.patient_of(self._archive.path(one))
        return Concerned(uid, patient, {})
