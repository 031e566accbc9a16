"""Feature files: layout, reading, writing, checking. May import encoders, sources and everything below."""
