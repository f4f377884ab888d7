"""Synthetic CT studies with known truth: anatomy, lesions, scanner, report and DICOM export."""
