"""`retrieval eval`, `build` and `search`. May import simsiam_eval."""
