"""Pretraining of encoders with SimSiam. May import simsiam_eval, never tasks."""
