"""Settings of `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simsiam_eval.commands.settings import setting
from tasks.retrieval.settings import GallerySettings


@dataclass(frozen=True, kw_only=True)
class ServeSettings(GallerySettings):
    """Serve a web page and an HTTP API that search a gallery by image or by id, until Ctrl-C.

    Only this machine can open it, unless --host says otherwise; it has no login and no encryption.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "machine": "host port allow_host max_upload max_pixels upload_timeout",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--gallery photos.index --checkpoint checkpoint.pth.tar",)

    host: str = setting(
        "127.0.0.1",
        help="Address to listen on; 0.0.0.0 lets every machine that can reach this one search and see the thumbnails.",
    )
    port: int = setting(8000, at_least=0, at_most=65535, help="Port to listen on; 0 for any free one.")
    allow_host: tuple[str, ...] = setting(
        (),
        help="Name under which browsers may open the server, besides localhost, IP addresses and --host; repeatable.",
    )
    max_upload: float = setting(20.0, above=0, at_most=1024, help="Largest image file that is accepted, in MB.")
    max_pixels: float = setting(
        50.0, above=0, at_most=178, help="Largest image that is decoded, in millions of pixels."
    )
    upload_timeout: float = setting(30.0, above=0, help="Seconds within which an upload must have arrived.")
