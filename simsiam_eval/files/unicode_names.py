"""File names that differ only in their Unicode form: macOS writes an accented letter as two characters (NFD)."""

from __future__ import annotations

import os
import unicodedata


def other_form_hint(path: str | os.PathLike[str]) -> str:
    """A clause about a missing path that exists in another Unicode form; "" if it does not."""
    text = os.fsdecode(path)
    if text.isascii():
        return ""
    found, form = "/" if text.startswith("/") else "", ""
    for name in filter(None, text.split("/")):
        forms = {"": name, "NFC": unicodedata.normalize("NFC", name), "NFD": unicodedata.normalize("NFD", name)}
        for other, spelled in forms.items():
            candidate = found + spelled
            if os.path.lexists(candidate):
                found, form = f"{candidate}/", other or form
                break
        else:
            return ""
    return (
        f", but a path that differs only in Unicode form does; write it in the form {form}, or rename it"
        if form
        else ""
    )
