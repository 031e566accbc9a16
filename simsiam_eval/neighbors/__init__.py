"""Nearest neighbors: search, votes, ranks, near-duplicates. May import extraction and everything below."""
