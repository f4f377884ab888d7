"""The query service: what the node knows, over HTTP. Not the network's DICOM side, and no model code."""
