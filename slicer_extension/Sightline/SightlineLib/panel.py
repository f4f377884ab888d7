"""The panel of the module: connects the form with the session, the scene and the user's settings.

Says what happens when something is clicked or comes from the server; how is in the other files.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import qt
import slicer
import vtk
from SightlineLib import results as nodes
from SightlineLib import volumes
from SightlineLib.address import parseAddress
from SightlineLib.corrections import correctionDocument
from SightlineLib.failures import Failure
from SightlineLib.results import Results
from SightlineLib.session import Listener, Session, Wanted
from SightlineLib.settings import Settings, suggestions, words
from SightlineLib.shortcuts import addShortcut
from SightlineLib.tables import ACCEPT, REJECT, FindingTable, HitTable
from slicer.i18n import tr as _


class Panel:
    """One open panel.

    Parameters
    ----------
    root: the loaded form.
    ui: its named widgets.
    patienceS: seconds without a byte after which a call to the server is given up.
    """

    def __init__(self, root, ui, patienceS: int) -> None:
        self.ui = ui
        self.settings = Settings()
        self.results = Results()
        self.session = Session(self._listener(), root, patienceS)
        self.hits: list[dict[str, Any]] = []
        self._reading: dict[str, Any] | None = None
        self._parameters = None
        self._guiTag = None
        self._observerTag = None
        self._volumeId: str | None = None
        self._hitTable = HitTable(ui.hitsTable, self._onHitChosen)
        self._findingTable = FindingTable(ui.findingsTable, self._onFindingChosen, self._showCorrection)
        ui.addressLine.text = self.settings.address
        ui.tokenLine.text = self.settings.token
        ui.observerLine.text = self.settings.observerName
        ui.consentFrame.visible = False
        ui.seriesLabel.visible = False
        self._onActivity("", None)
        self._suggest()
        self._showCorrection()
        self._connect()
        self._shortcuts = [
            addShortcut(ui.queryLine, "Down", lambda: self._hitTable.walk(1)),
            addShortcut(ui.queryLine, "Up", lambda: self._hitTable.walk(-1)),
            addShortcut(ui.findingsTable, "A", self.onAccept),
            addShortcut(ui.findingsTable, "R", self.onReject),
            addShortcut(root, "Esc", self.onCancel, insideToo=True),
        ]

    def _connect(self) -> None:
        ui = self.ui
        ui.testButton.clicked.connect(self.onTest)
        ui.askButton.clicked.connect(self.onAsk)
        ui.queryLine.returnPressed.connect(self.onAsk)
        ui.openButton.clicked.connect(self.onOpen)
        ui.cancelButton.clicked.connect(self.onCancel)
        ui.sendCtButton.clicked.connect(self.onSendCt)
        ui.keepCtButton.clicked.connect(self.onKeepCt)
        ui.organsButton.clicked.connect(self.onOrgans)
        ui.acceptButton.clicked.connect(self.onAccept)
        ui.rejectButton.clicked.connect(self.onReject)
        ui.unmarkButton.clicked.connect(self.onUnmark)
        ui.forgetButton.clicked.connect(self.onForgetHistory)
        ui.correctButton.clicked.connect(self.onCorrect)

    def _listener(self) -> Listener:
        return Listener(
            onActivity=self._onActivity,
            onFailure=self._onFailure,
            onServer=self._onServer,
            onTested=self._onTested,
            onUnknownSeries=self._onUnknownSeries,
            onStudy=self._onStudy,
            onHits=self._onHits,
            onHeatMap=lambda nrrd: self.results.showHeatMap(self.volume, nrrd),
            onMask=lambda segNrrd: self.results.showMask(self.volume, segNrrd),
            onReading=self._onReading,
            onLesions=self._onLesions,
            onOrgans=lambda segNrrd: self.results.showOrgans(self.volume, segNrrd),
            onCorrected=self._onCorrected,
        )

    # Life of the panel

    @property
    def volume(self):
        """The chosen CT, None if there is none."""
        return None if self._parameters is None else self._parameters.inputVolume

    def setParameterNode(self, parameters) -> None:
        """Bind the form to the parameters of a scene; None to let go of it."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            self._parameters.RemoveObserver(self._observerTag)
        self._parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self.ui)
            self._observerTag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._onParameters()
        # The user may come from the Segment Editor.
        self._showCorrection()

    def close(self) -> None:
        """Stop everything; nothing may call back into a form that is gone."""
        self.session.cancel()
        self.setParameterNode(None)

    def _onParameters(self, *_event) -> None:
        if self._parameters is not None:
            self._findingTable.show(self._parameters.presentOnly)
        identifier = None if self.volume is None else self.volume.GetID()
        if identifier == self._volumeId:
            return
        self._volumeId = identifier
        self._forgetAnswers()
        self.session.setSeries(None)
        # The server of this session has been called before by the user's own wish.
        if identifier is not None and self.session.connected:
            self.onOpen()

    def _forgetAnswers(self) -> None:
        self.hits = []
        self._reading = None
        self._hitTable.fill([])
        self._findingTable.fill([], presentOnly=False)
        self.ui.consentFrame.visible = False
        self.ui.seriesLabel.visible = False
        self._say("")
        self._showCorrection()

    # What the user does

    def onTest(self, *_clicked) -> None:
        """Test the connection."""
        if self._useServer():
            self.session.test()

    def onAsk(self, *_clicked) -> None:
        """Ask what stands in the query line."""
        text = " ".join(self.ui.queryLine.text.split())
        if not text:
            self._onFailure(Failure("here", _("Type what to look for, such as 'hypodense liver lesion'.")))
            return
        if not (self._useServer() and self._useVolume()):
            return
        self.settings.remember(text)
        self._suggest()
        wanted = Wanted(heatMap=self.ui.heatMapBox.checked, mask=self.ui.maskBox.checked)
        self.session.ask(text, wanted)

    def onOpen(self, *_clicked) -> None:
        """Bring findings and lesions of the CT."""
        if self._useServer() and self._useVolume():
            self.session.open()

    def onOrgans(self, *_clicked) -> None:
        """Bring the masks of the organs."""
        if self._useServer() and self._useVolume():
            self.session.bringOrgans()

    def onCancel(self, *_clicked) -> None:
        """Give up what is under way."""
        if self.ui.cancelButton.enabled:
            self.session.cancel()
            self._say(_("Cancelled."))

    def onSendCt(self, *_clicked) -> None:
        """The user agrees that the pixels go to the server."""
        self.ui.consentFrame.visible = False
        if self.volume is None:
            return
        self.session.upload(self._uploadFile())

    def _uploadFile(self) -> Generator[None, None, Any]:
        try:
            return (yield from volumes.uploadFile(self.volume))
        except ValueError as error:
            sentence = _("This volume cannot be sent: {why}.").format(why=error)
            raise ValueError(sentence) from error

    def onKeepCt(self, *_clicked) -> None:
        """The user does not agree."""
        self.ui.consentFrame.visible = False
        self.session.cancel()
        self._say(_("The CT was not sent."))

    def onAccept(self, *_clicked) -> None:
        """Agree with the current finding."""
        self._findingTable.mark(ACCEPT)

    def onReject(self, *_clicked) -> None:
        """Disagree with the current finding."""
        self._findingTable.mark(REJECT)

    def onUnmark(self, *_clicked) -> None:
        """Take the mark of the current finding away."""
        self._findingTable.mark(None)

    def onForgetHistory(self, *_clicked) -> None:
        """Forget the questions asked before."""
        self.settings.forgetHistory()
        self._suggest()

    def onCorrect(self, *_clicked) -> None:
        """Send the correction."""
        try:
            correction = correctionDocument(
                self.ui.observerLine.text, self._findingTable.marks, self.ui.commentLine.text
            )
            edited = self.results.lesionsEdited
            if not (edited or correction["marks"]):
                # The node keeps no comment on nothing.
                raise ValueError(_("There is nothing to send: mark a finding or edit outlines."))
            segNrrd = self.results.lesionFile(self.volume) if edited else None
        except ValueError as error:
            self._onFailure(Failure("here", str(error)))
            return
        self.settings.observerName = self.ui.observerLine.text
        self.session.correct(correction, segNrrd)

    def _useServer(self) -> bool:
        # The user's consent was for the server that the question named.
        self.ui.consentFrame.visible = False
        address, token = self.ui.addressLine.text, self.ui.tokenLine.text
        if not self.session.setServer(address, token):
            return False
        self.settings.address = address
        self.settings.token = token
        return True

    def _useVolume(self) -> bool:
        volume = self.volume
        if volume is None:
            self._onFailure(Failure("here", _("Choose a CT first.")))
            return False
        if volume.GetImageData() is None or volume.GetAttribute(nodes.ROLE_ATTRIBUTE):
            self._onFailure(Failure("here", _("'CT' has no CT in it. Choose the volume of the patient.")))
            return False
        self.session.setSeries(volumes.seriesInstanceUidOrNew(volume))
        return True

    def _onHitChosen(self, index: int) -> None:
        hit = self.hits[index]
        self.results.standOn(index)
        self.results.jump(self.volume, hit["position_lps_mm"])
        self._say(
            _("Place {rank} of {count}: {organ}, score {score:.2f}.").format(
                rank=hit["rank"], count=len(self.hits), organ=words(hit["organ"]), score=hit["score"]
            )
        )

    def _onFindingChosen(self, finding: dict[str, Any]) -> None:
        position = finding["position_lps_mm"]
        if position is None:
            self._say(
                _("The {organ} is not in this scan, so there is no place to go to.").format(
                    organ=words(finding["organ"])
                )
            )
            return
        self.results.jump(self.volume, position)
        self._say(words(finding["abnormality"]))

    # What comes from the server

    def _onActivity(self, text: str, part: float | None) -> None:
        ui = self.ui
        ui.cancelButton.enabled = bool(text)
        ui.progressBar.visible = bool(text)
        # A range without length is Qt's way to say "for an unknown time".
        ui.progressBar.setRange(0, 0 if part is None else 100)
        if part is not None:
            ui.progressBar.value = int(100 * part)
        ui.activityLabel.text = _("{activity} …").format(activity=text) if text else ""

    def _onFailure(self, failure: Failure) -> None:
        if failure.kind in ("address", "down", "version", "stranger", "token", "certificate"):
            self.ui.serverLabel.text = _("Not connected")
            self.ui.serverBox.collapsed = False
        self._say(failure.sentence)

    def _onServer(self, health: dict[str, Any]) -> None:
        self.ui.serverLabel.text = _("Connected: Sightline {version}, model {model}").format(
            version=health["version"], model=health["model"]["name"]
        )

    def _onTested(self, worklist: dict[str, Any]) -> None:
        self._say(_("The connection works. Studies on the server: {count}.").format(count=worklist["total"]))

    def _onUnknownSeries(self) -> None:
        address = parseAddress(self.ui.addressLine.text)
        text = _("The server does not have this CT. Send its pixels ({size}; no name, no DICOM) to {url}?")
        if not (address.loopback or address.encrypted):
            text += " " + _("Others on the network could read along: the address is not https.")
        self.ui.consentLabel.text = text.format(size=volumes.sizeInWords(self.volume), url=address.url)
        self.ui.consentFrame.visible = True
        self._say(_("The server does not have this CT; see the question above."))

    def _onStudy(self, study: dict[str, Any] | None) -> None:
        self.ui.serverBox.collapsed = True
        other = study is not None and study.get("series_instance_uid") not in (
            None,
            volumes.seriesInstanceUid(self.volume),
        )
        self.ui.seriesLabel.visible = other

    def _onHits(self, text: str, hits: list[dict[str, Any]]) -> None:
        # What was shown for the question before would be taken for this one's.
        self.results.hide(nodes.HEAT_MAP, nodes.MASK)
        self.hits = hits
        self.results.showHits(self.volume, [hit["position_lps_mm"] for hit in hits])
        self._hitTable.fill(hits)
        if not hits:
            self._say(_("The server found no place for this."))

    def _onReading(self, reading: dict[str, Any]) -> None:
        self._reading = reading
        self._findingTable.fill(reading["findings"], self._parameters.presentOnly)
        self._suggest()
        self._showCorrection()

    def _onLesions(self, segNrrd: bytes | None) -> Generator[None, None, None]:
        yield from self.results.showLesions(self.volume, segNrrd)
        self._showCorrection()

    def _onCorrected(self, answer: dict[str, Any]) -> None:
        self.results.lesionsSent()
        self._showCorrection()
        self._say(
            _("Your correction is stored; its report is {uid}.").format(uid=answer["report_sop_instance_uid"])
        )

    # What is shown

    def _say(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _suggest(self) -> None:
        completer = qt.QCompleter(suggestions(self.settings.history, self._reading))
        completer.setCaseSensitivity(qt.Qt.CaseInsensitive)
        completer.setFilterMode(qt.Qt.MatchContains)
        self.ui.queryLine.setCompleter(completer)
        self._completer = completer

    def _showCorrection(self) -> None:
        marks = self._findingTable.marks if self._reading is not None else []
        outlines = _("edited") if self.results.lesionsEdited else _("as the server drew them")
        self.ui.correctionLabel.text = _("Findings marked: {count}; lesion outlines: {outlines}.").format(
            count=len(marks), outlines=outlines
        )
        self.ui.correctButton.enabled = self._reading is not None


def loadForm(path: str):
    """The form at `path` in the scene, and its named widgets."""
    root = slicer.util.loadUI(path)
    root.setMRMLScene(slicer.mrmlScene)
    return root, slicer.util.childWidgetVariables(root)
