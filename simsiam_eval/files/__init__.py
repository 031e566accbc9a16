"""Atomic writes, locks, run folders, logs, the cache folder. May import errors, wording and vocabulary."""
