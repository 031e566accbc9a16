"""Pretraining: makes an encoder. May import simsiam_eval, never tasks."""
