"""Report mining: organ sentences, abnormality labels, references to images, and a grown dictionary.

``python -m training.mining`` is its command line. Rules over tables (``tables/``) do it alone; a local
instruction model may assign the organs instead. Imports no torch unless such a model is chosen.
"""
