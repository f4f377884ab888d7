"""The parts of the Sightline module for 3D Slicer; `Sightline.py` is only their shell."""
