"""What of the panel is saved with the scene.

Not the server's address and token: those are the user's, not the scene's, which is passed on.
"""

from __future__ import annotations

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class SightlineParameterNode:
    """Members bound to the form by ``SlicerParameterName``.

    Attributes
    ----------
    inputVolume: the CT that is asked.
    query: the text in the query line.
    showHeatMap, showMask: whether a question also brings the heat map, and the outline.
    presentOnly: whether the table of findings leaves out what is absent.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    query: str = ""
    showHeatMap: bool = True
    showMask: bool = True
    presentOnly: bool = False
