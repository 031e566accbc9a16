"""What a server does, without HTTP: embed uploads, search, and list images, each in a pool of threads."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.serve.embedder import Embedder, prepared_image
from tasks.serve.gallery import MAX_RANK, Found, ServedGallery
from tasks.serve.rejected import Rejected
from tasks.serve.thumbnails import Thumbnails

T = TypeVar("T")
_KEPT_UPLOADS = 1024  # whose features are kept, so that more results need no second upload


@dataclass(frozen=True)
class Limits:
    """Of an upload: bytes of the file, and pixels that are decoded."""

    bytes: int
    pixels: float


@dataclass
class Service:
    """The parts of a server.

    Attributes:
        gallery: what is searched.
        embedder: computes features of uploads; None: only the gallery's own images can be searched.
        thumbnails: of the gallery's images.
        limits: of uploads.
        threads: that decode, search and make thumbnails.
        torch_threads: of torch and FAISS, for each of them.
        searches, uploads: their numbers so far.
    """

    gallery: ServedGallery
    embedder: Embedder | None
    thumbnails: Thumbnails
    limits: Limits
    threads: int = 1
    torch_threads: int = 1
    searches: int = 0
    uploads: int = 0
    _recent: OrderedDict[str, NDArray[np.float32]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        initializer, arguments = torch.set_num_threads, (self.torch_threads,)
        self._pool = ThreadPoolExecutor(self.threads, "request", initializer, arguments)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What `work` returns, computed in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def embed(self, file: BinaryIO, size: int | None) -> tuple[str, NDArray[np.float32]]:
        """SHA-256 of an uploaded image file, and its features (D,).

        Args:
            file: the upload, which is read only when a thread can decode it.
            size: its bytes.

        Raises:
            Rejected: it is too large or cannot be read, or the server has no encoder.
        """
        embedder = self.embedder
        if embedder is None:
            raise Rejected(
                409, "This server was started without --checkpoint; only images of the gallery can be searched for."
            )
        if size is None or size > self.limits.bytes:
            raise Rejected(413, f"The image file is larger than {self.limits.bytes / 1e6:g} MB.")
        self.uploads += 1

        def prepare() -> tuple[str, torch.Tensor | None]:
            data = file.read()
            digest = hashlib.sha256(data).hexdigest()
            if digest in self._recent:
                return digest, None
            return digest, prepared_image(data, embedder.preprocessing, self.limits.pixels)

        digest, pixels = await self.in_thread(prepare)
        known = self._recent.get(digest)
        if known is None and pixels is not None:
            known = await asyncio.wrap_future(embedder.submit(pixels))
            if not np.isfinite(known).all():
                raise Rejected(422, "The encoder's features of this image are not finite.")
            self._recent[digest] = known
            while len(self._recent) > _KEPT_UPLOADS:
                self._recent.popitem(last=False)
        return digest, self.uploaded(digest) if known is None else known

    def uploaded(self, digest: str) -> NDArray[np.float32]:
        """The features of an earlier upload. Raises Rejected if they are not kept any more."""
        if digest not in self._recent:
            raise Rejected(404, "This upload is not known any more; upload the image again.")
        self._recent.move_to_end(digest)
        return self._recent[digest]

    async def search(
        self, query: NDArray[np.float32] | int, offset: int, k: int, class_name: str | None
    ) -> tuple[Found, int]:
        """The `k` most similar images after the first `offset`, and how many images there are to find.

        Args:
            query: features (D,), or a row of the gallery, which does not find itself.

        Raises:
            Rejected: a row, class or rank that does not exist.
        """
        if offset + k > MAX_RANK:
            raise Rejected(422, f"offset + k must be at most {MAX_RANK}, got {offset + k}.")
        self.searches += 1

        def run() -> tuple[Found, int]:
            row = self.gallery.require_row(query) if isinstance(query, int) else None
            vector = query if row is None else self.gallery.vector(row)
            assert not isinstance(vector, int)
            found = self.gallery.search(vector, offset + k, class_name, row)
            left_out = row is not None and class_name in (None, self.gallery.class_name(row))
            return Found(found.rows[offset:], found.similarities[offset:]), self.gallery.count(class_name) - left_out

        return await self.in_thread(run)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
        if self.embedder is not None:
            self.embedder.close()
