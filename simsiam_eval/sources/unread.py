"""Files of a source that are not read as images: which they are, and the sentence that counts them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping

from simsiam_eval.images.formats import HEIF, ending_of, image_endings
from simsiam_eval.wording import counted

# Endings of files that are no images, so that they are not opened to find out.
# fmt: off
_OTHER = frozenset(
    {
        # texts
        ".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg",
        ".conf", ".md", ".rst", ".html", ".htm", ".css", ".js", ".ts", ".py", ".ipynb", ".sh", ".bat", ".log",
        ".tex", ".cls", ".caption", ".url",
        # documents and archives
        ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".zip", ".tar", ".gz", ".tgz", ".bz2",
        ".xz", ".zst", ".7z", ".rar",
        # arrays, models, databases
        ".npy", ".npz", ".mat", ".h5", ".hdf5", ".hdf", ".parquet", ".arrow", ".feather", ".pkl", ".pickle", ".pt",
        ".pth", ".ckpt", ".safetensors", ".onnx", ".db", ".sqlite", ".lmdb", ".mdb", ".tfrecord",
        # sounds and videos
        ".mp3", ".wav", ".flac", ".ogg", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v",
        # drawings
        ".svg", ".eps", ".ps", ".ai", ".wmf", ".emf",
        # raw photographs, of which Pillow reads a thumbnail
        ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw",
        # others
        ".sha1", ".sha256", ".md5", ".lock", ".tmp", ".part", ".bak",
    }
)
# fmt: on
_IGNORED = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # that a desktop writes
_IGNORED_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_SHOWN = 5  # endings in a sentence
_TRIED = 100  # files of an unknown ending; if none is an image, the others are not opened


class ImageNames:
    """Decides which files are images, by their names and, where the ending is unknown, by their content.

    Args:
        further: endings of images besides those that Pillow reads.

    Attributes:
        unread: how many files of each ending are not images.
    """

    def __init__(self, further: tuple[str, ...] = ()) -> None:
        self._endings = {*image_endings(), *further}
        self.unread: Counter[str] = Counter()
        self._found: set[str] = set()  # unknown endings of which a file was an image

    def is_image(self, name: str, has_image_content: Callable[[], bool]) -> bool:
        """Whether a file is an image; one that is not is counted, unless it is hidden or a desktop's.

        Args:
            name: of the file, without its path.
            has_image_content: looks at the content; called where the name does not tell.
        """
        if name[name.rfind(".") :].lower() in self._endings and not name.startswith("."):
            return True
        if is_ignored(name):
            return False
        ending = ending_of(name)
        known = ending in _OTHER or ending in HEIF
        if not known and (ending in self._found or self.unread[ending] < _TRIED) and has_image_content():
            self._found.add(ending)
            return True
        self.unread[ending] += 1
        return False


def is_ignored(name: str) -> bool:
    """Whether a file is hidden, or one that a desktop writes."""
    return name.startswith(".") or name.lower() in _IGNORED


def is_ignored_folder(name: str) -> bool:
    """Whether a folder is hidden, or one that a system writes."""
    return name.startswith(".") or name.lower() in _IGNORED_FOLDERS


def unread_notes(unread: Mapping[str, int]) -> list[str]:
    """A sentence on how many files are not images, the most frequent endings first; none if all are.

    >>> unread_notes({".xml": 3, ".txt": 9, "": 1})
    ['13 files were not read as images: 9 .txt, 3 .xml, 1 without an ending']
    """
    counts = sorted(
        ((ending, count) for ending, count in unread.items() if count), key=lambda pair: (-pair[1], pair[0])
    )
    if not counts:
        return []
    total = sum(count for _, count in counts)
    shown = [f"{count:,} {ending or 'without an ending'}" for ending, count in counts[:_SHOWN]]
    if rest := sum(count for _, count in counts[_SHOWN:]):
        shown.append(f"{rest:,} others")
    heif = next(
        (f"; {ending} requires pillow-heif (pip install pillow-heif)" for ending, _ in counts if ending in HEIF), ""
    )
    verb = "was not read as an image" if total == 1 else "were not read as images"
    return [f"{counted(total, 'file')} {verb}: {', '.join(shown)}{heif}"]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a circular or forbidden link, which is then an unreadable image if it is named like one."""
    try:
        return entry.is_dir()
    except OSError:
        return False
