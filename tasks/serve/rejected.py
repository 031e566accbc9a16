"""A request that is rejected."""

from __future__ import annotations


class Rejected(Exception):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status, 4xx or 503.
        detail: one sentence for the client.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
