"""Features in memory and in feature files: layout, reading, writing, checks, splits. May import encoders and below."""
