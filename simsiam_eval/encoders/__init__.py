"""Encoders and the checkpoints they come from. May import images, runtime and everything below."""
