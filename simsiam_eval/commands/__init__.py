"""Settings, options, records and exit statuses of commands. May import errors, wording, vocabulary, files and runtime."""
