"""Image sources: rows of (id, image, label) from folders, tables, archives. May import images, runtime, files and below."""
