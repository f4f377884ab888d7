"""What happens between a question and its answer: server, study, upload, query, heat map, outline.

Knows the order of the calls and nothing of widgets or nodes; who shows it gives it a `Listener`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import qt
from SightlineLib import failures
from SightlineLib.address import parseAddress
from SightlineLib.client import PATIENCE_S, Client, makeNetwork
from SightlineLib.failures import AnswerError, Failure
from SightlineLib.jobs import JobWatch
from SightlineLib.steps import Steps
from slicer.i18n import tr as _

HIT_COUNT = 5
# How often a study that the server has not read yet is looked at again.
LOOK_AGAIN_MS = 3000
READABLE = ("read", "unchanged")
COMING = ("receiving", "complete", "queued")


@dataclass(frozen=True)
class Listener:
    """Whom a session tells what it has got; every member is a function.

    Attributes
    ----------
    onActivity: text of what is under way and its part 0..1 or None; an empty text when nothing is.
    onFailure: a `Failure`.
    onServer: the answer of ``/health`` after the handshake.
    onTested: the worklist, after a test in which the server took the token.
    onUnknownSeries: nothing; the server does not have the CT, and `Session.upload` may send it.
    onStudy: STUDY; None for a CT that was sent from here and read.
    onHits: the text that was asked and its HITs, best first.
    onHeatMap: bytes of a file.
    onReading: the reading.
    onMask, onLesions, onOrgans: bytes of a file (lesions: None where the reading has none); return the work
        of showing it, a generator for `steps`.
    onCorrected: the server's answer.
    """

    onActivity: Callable[[str, float | None], None]
    onFailure: Callable[[Failure], None]
    onServer: Callable[[dict], None]
    onTested: Callable[[dict], None]
    onUnknownSeries: Callable[[], None]
    onStudy: Callable[[dict | None], None]
    onHits: Callable[[str, list], None]
    onHeatMap: Callable[[bytes], None]
    onMask: Callable[[bytes], Generator]
    onReading: Callable[[dict], None]
    onLesions: Callable[[bytes | None], Generator]
    onOrgans: Callable[[bytes], Generator]
    onCorrected: Callable[[dict], None]


@dataclass(frozen=True)
class Wanted:
    """What a question brings besides its places."""

    heatMap: bool = True
    mask: bool = True


class Session:
    """The conversation about one CT with one server.

    Parameters
    ----------
    listener: is told what comes.
    parent: the Qt object that the network lives and ends with.
    patienceS: seconds without a byte after which a call is given up.
    """

    def __init__(self, listener: Listener, parent, patienceS: int = PATIENCE_S) -> None:
        self._tell = listener
        self._networks = {loopback: makeNetwork(parent, loopback) for loopback in (True, False)}
        self._patienceS = patienceS
        self._client: Client | None = None
        self._called: tuple[str, str] | None = None
        self._greeted = False
        self._seriesUid: str | None = None
        self._studyUid: str | None = None
        self._hasReading = False
        self._then: Callable[[], None] | None = None
        self._running: list[Any] = []
        self._lookAgain = qt.QTimer()
        self._lookAgain.setSingleShot(True)
        self._lookAgain.setInterval(LOOK_AGAIN_MS)
        self._lookAgain.timeout.connect(self._identify)

    @property
    def connected(self) -> bool:
        """Whether the server has been greeted since its address was set."""
        return self._greeted

    @property
    def studyKnown(self) -> bool:
        """Whether the server has read the CT, so that it can be asked and corrected."""
        return self._studyUid is not None

    def setServer(self, address: str, token: str) -> bool:
        """Use this server from now on; False, and a failure is told, if the address is none."""
        if (address, token) == self._called and self._client is not None:
            return True
        self.cancel()
        self._forgetServer()
        try:
            parsed = parseAddress(address)
        except ValueError as error:
            self._tell.onFailure(Failure("address", str(error)))
            return False
        self._client = Client(parsed, self._networks[parsed.loopback], token, self._patienceS)
        self._called = (address, token)
        return True

    def setSeries(self, seriesUid: str | None) -> None:
        """Speak of this CT from now on; None for no CT."""
        if seriesUid != self._seriesUid:
            self.cancel()
            self._seriesUid = seriesUid
            self._forgetStudy()

    def test(self) -> None:
        """Greet the server anew and see whether it accepts the token."""
        self.cancel()
        self._greeted = False
        self._withServer(
            lambda: self._run(_("Testing the token"), self._client.worklist, self._tell.onTested)
        )

    def open(self) -> None:
        """Find the CT on the server and bring its findings and lesions."""
        self.cancel()
        self._withStudy(self._bringReading)

    def ask(self, text: str, wanted: Wanted) -> None:
        """Bring the places of a text, then what else is wanted."""
        self.cancel()
        self._withStudy(lambda: self._query(text, wanted))

    def bringOrgans(self) -> None:
        """Bring the masks of the organs."""
        self.cancel()

        def get() -> None:
            self._run(
                _("Loading the organs"),
                self._client.segmentation,
                lambda segNrrd: self._show(self._tell.onOrgans(segNrrd)),
                self._studyUid,
                "organs",
            )

        self._withStudy(get)

    def upload(self, file: Generator) -> None:
        """Send the CT that the server does not know; what waited for it goes on afterwards.

        Parameters
        ----------
        file: work that makes an open Qt file of it.
        """
        then = self._then
        self.cancel()
        self._then = then
        text = _("Sending the CT")

        def sent(part: float) -> None:
            self._tell.onActivity(text, part)

        def send(nrrd: Any) -> None:
            self._run(text, self._client.startUpload, self._onUploaded, self._seriesUid, nrrd, onSent=sent)

        self._work(_("Preparing the CT"), file, send)

    def correct(self, correction: dict[str, Any], segNrrd: Generator | None) -> None:
        """Send the radiologist's correction of the study's reading.

        Parameters
        ----------
        segNrrd: work that makes the bytes of the segmentation; None without one.
        """
        self.cancel()
        text = _("Sending your correction")

        def send(content: bytes | None) -> None:
            self._run(text, self._client.correct, self._tell.onCorrected, self._studyUid, correction, content)

        def start() -> None:
            if segNrrd is None:
                send(None)
            else:
                self._work(text, segNrrd, send)

        self._withStudy(start)

    def cancel(self) -> None:
        """Give up everything that is under way; the server is told to stop its jobs."""
        self._then = None
        self._lookAgain.stop()
        running, self._running = self._running, []
        for work in running:
            work.cancel()
        self._tell.onActivity("", None)

    def _forgetServer(self) -> None:
        self._client = None
        self._called = None
        self._greeted = False
        self._forgetStudy()

    def _forgetStudy(self) -> None:
        self._studyUid = None
        self._hasReading = False

    def _withServer(self, then: Callable[[], None]) -> None:
        if self._client is None:
            return
        if self._greeted:
            then()
            return

        def greeted(answer: dict) -> None:
            self._greeted = True
            self._tell.onServer(answer)
            then()

        self._run(_("Connecting"), self._client.health, greeted)

    def _withStudy(self, then: Callable[[], None]) -> None:
        if self._seriesUid is None:
            self._tell.onFailure(Failure("here", _("Choose a CT first.")))
            return
        if self._studyUid is not None:
            then()
            return
        self._then = then
        self._withServer(self._identify)

    def _identify(self) -> None:
        self._run(
            _("Looking for this CT"),
            self._client.series,
            self._onStudy,
            self._seriesUid,
            otherwise=self._onNoStudy,
        )

    def _onNoStudy(self, failure: Failure) -> None:
        if failure.kind == "unknown":
            self._tell.onUnknownSeries()
        else:
            self._tell.onFailure(failure)

    def _onStudy(self, study: dict[str, Any]) -> None:
        state = study.get("state")
        if state in COMING:
            self._tell.onActivity(_coming(state), None)
            self._lookAgain.start()
            return
        if state not in READABLE:
            reason = failures.job(study.get("reason")).sentence
            sentence = _("The server has not read this CT: {reason}").format(reason=reason)
            self._tell.onFailure(Failure("notReady", sentence))
            return
        self._use(study["study_instance_uid"], study)

    def _use(self, studyUid: str, study: dict[str, Any] | None) -> None:
        self._studyUid = studyUid
        self._tell.onStudy(study)
        then, self._then = self._then, None
        if then is not None:
            then()

    def _onUploaded(self, job: dict[str, Any]) -> None:
        def done(last: dict[str, Any]) -> None:
            if not last.get("study"):
                self._tell.onFailure(failures.broken(None))
                return
            self._use(last["study"], None)

        self._watch(_("The server is reading the CT"), job, done)

    def _query(self, text: str, wanted: Wanted) -> None:
        def answered(answer: dict[str, Any]) -> None:
            self._tell.onHits(text, answer["hits"])
            if wanted.heatMap:
                self._run(
                    _("Loading the heat map"),
                    self._client.heatMap,
                    self._tell.onHeatMap,
                    self._studyUid,
                    text,
                )
            if wanted.mask:
                self._run(_("Outlining"), self._client.startMask, self._onMaskStarted, self._studyUid, text)
            self._bringReading()

        self._run(_("Asking"), self._client.query, answered, self._studyUid, text, HIT_COUNT)

    def _onMaskStarted(self, job: dict[str, Any]) -> None:
        def done(last: dict[str, Any]) -> None:
            self._run(
                _("Loading the outline"),
                self._client.jobResult,
                lambda segNrrd: self._show(self._tell.onMask(segNrrd)),
                str(last["id"]),
            )

        self._watch(_("Outlining"), job, done)

    def _bringReading(self) -> None:
        if self._hasReading:
            return

        def got(reading: dict[str, Any]) -> None:
            self._hasReading = True
            self._tell.onReading(reading)
            if reading["lesions"]:
                self._run(
                    _("Loading the lesions"),
                    self._client.segmentation,
                    lambda segNrrd: self._show(self._tell.onLesions(segNrrd)),
                    self._studyUid,
                    "lesions",
                )
            else:
                self._show(self._tell.onLesions(None))

        self._run(_("Loading the findings"), self._client.reading, got, self._studyUid)

    def _run(
        self,
        text: str,
        start: Callable,
        onDone: Callable,
        *arguments: Any,
        otherwise: Callable[[Failure], None] | None = None,
        **keywords: Any,
    ) -> None:
        """Start a call; an answer that does not keep the contract is a failure too."""
        slot: list[Any] = []

        def done(answer: Any) -> None:
            self._over(slot)
            try:
                onDone(answer)
            except AnswerError as error:
                self._tell.onFailure(error.failure)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                self._tell.onFailure(failures.broken(None))
                raise RuntimeError(f"the server's answer to {text!r} does not keep the contract") from error

        def failed(failure: Failure) -> None:
            self._over(slot)
            self._onFailed(failure, otherwise)

        self._tell.onActivity(text, None)
        slot.append(start(*arguments, done, failed, **keywords))
        self._running += slot

    def _show(self, work: Generator) -> None:
        self._work(_("Showing it"), work, lambda _result: None)

    def _work(self, text: str, work: Generator, onDone: Callable) -> None:
        """Do long work here, in steps; `onDone` gets its result."""
        slot: list[Any] = []

        def done(result: Any) -> None:
            self._over(slot)
            onDone(result)

        def failed(error: Exception) -> None:
            self._over(slot)
            if isinstance(error, AnswerError):
                self._tell.onFailure(error.failure)
                return
            self._tell.onFailure(Failure("here", str(error)))
            if not isinstance(error, (ValueError, RuntimeError, OSError)):
                raise error

        self._tell.onActivity(text, None)
        slot.append(Steps(work, done, failed))
        self._running += slot

    def _watch(self, text: str, job: dict[str, Any], onDone: Callable) -> None:
        slot: list[Any] = []

        def done(last: dict[str, Any]) -> None:
            self._over(slot)
            onDone(last)

        def failed(failure: Failure) -> None:
            self._over(slot)
            self._onFailed(failure, None)

        def progress(part: float, stage: str) -> None:
            self._tell.onActivity(f"{text}: {stage}" if stage else text, part)

        slot.append(JobWatch(self._client, job, done, failed, progress))
        self._running += slot

    def _over(self, slot: list[Any]) -> None:
        self._running = [work for work in self._running if work not in slot]
        if not self._running:
            self._tell.onActivity("", None)

    def _onFailed(self, failure: Failure, otherwise: Callable[[Failure], None] | None) -> None:
        if failure.kind in ("down", "version", "stranger"):
            # What was known of the server may not hold of what answers there next.
            self._greeted = False
        if failure.kind == "unknown":
            self._forgetStudy()
        (otherwise or self._tell.onFailure)(failure)


def _coming(state: str) -> str:
    if state == "receiving":
        return _("The server is still receiving this CT")
    if state == "complete":
        return _("The server has this CT and will read it soon")
    return _("The server is reading this CT")
