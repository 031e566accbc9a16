"""The two augmented views of every image. May import simsiam_eval."""
