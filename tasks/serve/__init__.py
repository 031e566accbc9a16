"""`serve`: a local web page and HTTP API to search a gallery."""
