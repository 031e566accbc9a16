"""Image files to pixels, and pixels to what an encoder reads. May import files and everything below."""
