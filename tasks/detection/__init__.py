"""`detect`: fine-tune a detector from an encoder and evaluate it; data/ and metrics/ know nothing of backends/, and only
detect.py and settings.py know the settings. Imports simsiam_eval."""
