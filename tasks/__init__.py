"""Tasks: measure an encoder or use it, one module or package per command. May import simsiam_eval, never pretrain."""
