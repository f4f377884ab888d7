"""The self test for the real application: what of the extension can be tried there without a server.

Slicer runs it by ``slicer.testing.runUnitTest`` or the module's "Reload and Test". The same parts,
and much more, are tested outside Slicer under ``tests/slicer``.
"""

from __future__ import annotations

import numpy as np
import slicer
from SightlineLib import volumes
from SightlineLib.geometry import lpsFromRas
from SightlineLib.results import Results, worldRas
from SightlineLib.steps import runNow


def runAll(test) -> None:
    """Run every check; `test` is the `unittest.TestCase` that Slicer made."""
    for check in (_checkForm, _checkJump, _checkUpload, _checkServerDown):
        slicer.mrmlScene.Clear()
        test.delayDisplay(check.__doc__)
        check(test)


def _volume():
    voxels = np.zeros((20, 30, 40), dtype=np.int16)
    voxels[10, 15, 20] = 1000
    toRas = np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 3.0, -30], [0, 0, 0, 1]])
    return slicer.util.addVolumeFromArray(voxels, ijkToRAS=toRas, name="Self test")


def _checkForm(test) -> None:
    """The form has every widget that the panel works with."""
    from SightlineLib.panel import loadForm

    folder = slicer.util.modulePath("Sightline").rsplit("Sightline.py", 1)[0]
    root, ui = loadForm(f"{folder}Resources/UI/Sightline.ui")
    for name in ("queryLine", "askButton", "hitsTable", "findingsTable", "correctButton", "volumeSelector"):
        test.assertTrue(hasattr(ui, name), name)
    ui.queryLine.text = "liver"
    test.assertEqual(ui.queryLine.text, "liver")
    ui.volumeSelector.setMRMLScene(slicer.mrmlScene)
    volume = _volume()
    ui.volumeSelector.setCurrentNode(volume)
    test.assertEqual(ui.volumeSelector.currentNode(), volume)
    root.deleteLater()


def _checkJump(test) -> None:
    """The slice views go to a place, right and front where they belong."""
    volume = _volume()
    place = lpsFromRas((0.0, 0.0, 0.0))
    Results().jump(volume, place)
    test.assertEqual(worldRas(volume, (10.0, 20.0, 30.0)), (-10.0, -20.0, 30.0))
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    test.assertAlmostEqual(red.GetSliceOffset(), 0.0, places=3)


def _checkUpload(test) -> None:
    """The pixels that would be sent are those of the volume, LPS."""
    sent = runNow(volumes.uploadFile(_volume())).readAll().data()
    header, _blank, data = sent.partition(b"\n\n")
    test.assertIn(b"space origin: (-40.0,-30.0,-30.0)", header)
    values = np.frombuffer(data, dtype="<i2").reshape(20, 30, 40)
    test.assertEqual(values[10, 15, 20], 1000)


def _checkServerDown(test) -> None:
    """A server that is not there is told within the event loop, in a sentence."""
    import qt
    from SightlineLib.address import parseAddress
    from SightlineLib.client import Client, makeNetwork

    told = []
    loop = qt.QEventLoop()

    def tell(what) -> None:
        told.append(what)
        loop.quit()

    network = makeNetwork(loop, loopback=True)
    client = Client(parseAddress("127.0.0.1:9"), network)
    client.health(tell, tell)
    qt.QTimer.singleShot(10000, loop.quit)
    if not told:
        # PythonQt has it by its old name.
        (getattr(loop, "exec", None) or loop.exec_)()
    test.assertEqual([failure.kind for failure in told], ["down"])
