"""Devices, processes, signals and progress. May import errors, wording, vocabulary and files."""
