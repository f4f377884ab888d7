"""CT volume and text in, findings out: network, vocabulary, reader and checkpoint.

Knows no DICOM network, no queue and no training loop.
"""
