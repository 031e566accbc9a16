"""Encoders from other libraries: timm and transformers."""
