"""The DICOM node: receives CT, has it read, and returns SEG and SR to the PACS.

Holds no model code; everything it knows about the model is `core_model.reading`.
"""

__version__ = "0.1.0"
