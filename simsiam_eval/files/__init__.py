"""Files that survive a kill: atomic writes, locks, the cache folder. May import errors, wording and vocabulary."""
