"""`detect`: fine-tune a detector from an encoder and evaluate it. May import simsiam_eval.

data/ and metrics/ do not import backends/, and only detect.py and settings.py use the settings.
"""
