"""`linear-eval` and `predict`. May import simsiam_eval."""
