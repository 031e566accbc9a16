"""Charts and contact sheets. May import extraction and everything below."""
