"""Retraining in place: from a node's archive and its radiologists' corrections to a checkpoint and a verdict.

``python -m training.finetune --archive ARCHIVE --out DIR`` is its command line. Every file of the archive
passes `deidentify` on the way in, and nothing after it knows a patient by more than a keyed digest
(`pseudonyms`).
"""
