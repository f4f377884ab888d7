"""Public evaluation protocols, each by name and as published: ``python -m training.protocols``."""
