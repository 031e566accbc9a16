"""Metrics: accuracies, intervals, confusion, spread, similarity. May import extraction and everything below."""
