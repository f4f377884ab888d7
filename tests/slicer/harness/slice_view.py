"""One slice view, off screen: Slicer's slice logic and its displayable managers on a VTK window.

Not a qMRMLSliceWidget: no mouse, no controller bar. What is drawn is drawn by Slicer's own C++.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

DISPLAYABLE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)


class SliceView:
    """A slice view of one orientation (``"Axial"``, ``"Sagittal"``, ``"Coronal"``), `size` pixels square."""

    def __init__(self, application_logic, scene, name: str, orientation: str, size: int) -> None:
        self.renderer = vtk.vtkRenderer()
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.AddRenderer(self.renderer)
        self.window.SetSize(size, size)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()

        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        for manager in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.SetRenderer(self.renderer)
        self.managers.Initialize(factory, self.renderer)

        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.logic.ResizeSliceNode(size, size)

        # The blended layers are 8 bit colours already: window and level must leave them alone.
        self.mapper = vtk.vtkImageMapper()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(self.mapper)
        self.actor.GetProperty().SetDisplayLocationToBackground()

    def picture(self) -> np.ndarray:
        """What the view shows now: (rows, columns, 3) uint8, first row on top."""
        connection = self.logic.GetImageDataConnection()
        self.renderer.RemoveViewProp(self.actor)
        if connection is not None:
            self.mapper.SetInputConnection(connection)
            self.renderer.AddViewProp(self.actor)
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
        return pixels[::-1, :, :3].copy()

    def centre_ras(self) -> np.ndarray:
        """The point in the middle of the view, RAS mm."""
        matrix = self.node.GetXYToRAS()
        width, height, _ = self.node.GetDimensions()
        return np.array(matrix.MultiplyPoint((width / 2, height / 2, 0, 1))[:3])
