"""Phantoms, losses and the training loop. Imported by neither of the other packages."""
