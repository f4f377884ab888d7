"""Where training data comes from besides phantoms."""
