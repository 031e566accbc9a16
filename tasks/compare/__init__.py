"""`compare`: encoders on the same images. May import simsiam_eval."""
