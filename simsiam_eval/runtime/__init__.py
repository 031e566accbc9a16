"""The machine a command runs on: devices, processes, signals, progress. May import errors, wording, vocabulary and files."""
