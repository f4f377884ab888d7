"""What the commands say of themselves: the texts of `sightline --help`. Only texts."""

from __future__ import annotations

ABOUT = """\
A DICOM node that reads CT: organs, tumours and findings come back as DICOM-SEG and SR,
and a study can be asked in words. Research software, not a medical device."""
EXAMPLES = """\
examples:
  sightline demo                               see all of it work, on a made-up patient
  sightline read CT_FOLDER --out results       read one CT from disk
  sightline query results/encoding.safetensors "hypodense lesion in the liver"
  sightline check --config node.toml           is everything ready?
  sightline serve --config node.toml           run the node
  sightline status --config node.toml          which studies came, how far they are, what was not delivered
  sightline retry --config node.toml           send now what waits or was given up
  sightline promote runs/x/checkpoint --config node.toml   read later studies with another model
  sightline tag 1.2.840.1 --config node.toml   what stands for a UID in the log

exit status: 0 done, 1 a check or the demo failed, 2 bad input (one line says what and the cure)"""
PATH = "folder, zip or file of DICOM CT, or a NIfTI file (.nii, .nii.gz) in Hounsfield units"
READ = """\
Read one CT. Of several series the best is read (axial and original first, then soft kernel,
more of the body, contrast, thinner slices); the others are named with the reason."""
READ_EXAMPLES = """\
examples:
  sightline read /media/cdrom --out results
  sightline read study.zip --out results --nifti
  sightline read ct.nii.gz --out results --device cpu

files in DIR:
  lesions.seg.dcm organs.seg.dcm findings.sr.dcm   for the PACS (DICOM input only)
  reading.json         the reading as numbers          encoding.safetensors   for sightline query
  key_*.png            pictures                        *.nii.gz               masks, with --nifti"""
QUERY = "Find the place in a CT that a text describes."
QUERY_EXAMPLES = """\
examples:
  sightline query results/encoding.safetensors "stone in the gallbladder"     at once
  sightline query CT_FOLDER "pleural effusion on the left" --json             reads the CT first"""
SERVE = """\
Run the node: receive studies by C-STORE, read them, store the results back, answer questions
over HTTP. With no FILE it listens on 127.0.0.1, port 11112 as SIGHTLINE for DICOM and port 11113
for questions, keeps results in its archive, and shows metrics and health on 127.0.0.1, port 11114."""
SERVE_EXAMPLES = """\
a configuration that sends results to a PACS:
  ae_title = "SIGHTLINE"
  address = "0.0.0.0"
  port = 11112
  calling_ae_titles = ["PACS"]
  archive = "/var/lib/sightline"

  [[destination]]
  name = "pacs"
  address = "10.0.0.5"
  port = 104
  ae_title = "PACS\""""
CHECK = """\
Check configuration, archive, disk, checkpoint, ports, token and destinations (C-ECHO, over TLS where
that is configured, or an empty STOW-RS request), one line each."""
STATUS = """\
The studies that came last: state, results, corrections that radiologists sent, and how many
results and corrections are delivered, wait, or were given up (dead). Then the destinations, with
the reason where one is unreachable, and the results that a destination did not take."""
TAG = """\
What stands for a value in the node's log and audit trail: a study's UID, an AE title, a Patient ID.
Needs the archive's key, log.key, and so the right to read the archive."""
RETRY = """\
Have results sent now that wait for their next attempt or were given up: all of them, or those of
the studies that are named. The running node does it; days and pauses count anew."""
RETRY_EXAMPLES = """\
examples:
  sightline retry --config node.toml                        everything, after a PACS was repaired
  sightline retry --config node.toml --destination pacs 1.2.840.113619.2.55.3"""
DEMO = """\
Start a node and a small PACS on loopback, make a phantom study, send it, wait for SEG and SR,
check them, ask one question, and show what was planted and what was found."""
PROMOTE = """\
Have the node read all later studies with another checkpoint, without a restart. Its folder must hold a
verdict (python -m training.finetune writes it) that compares it with the checkpoint now in use, on the same
held-out patients, and does not speak against it. The checkpoint is copied into the archive. A study that is
being read is finished by the old model; one that was read can still be asked, by the model that read it."""
PROMOTE_EXAMPLES = """\
examples:
  sightline promote runs/ours/checkpoint --config node.toml
  sightline promote --list --config node.toml       what the node has, what it uses, what was refused
  sightline promote --back --config node.toml       use the one before again"""
