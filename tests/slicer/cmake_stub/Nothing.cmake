# Packing needs Slicer.
