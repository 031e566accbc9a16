"""`detect`: fine-tune a detector from an encoder. The data, the evaluator, the presets and the record are the same for both
backends, so that their numbers can be compared."""
