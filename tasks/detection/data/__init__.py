"""Detection datasets, their checks and training batches. May import simsiam_eval."""
