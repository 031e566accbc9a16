"""Decoding and preprocessing of images. May import files and everything below."""
