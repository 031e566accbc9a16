"""The JSON answers of the API, as its OpenAPI description shows them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Error(BaseModel):
    """Why a request was rejected."""

    detail: str = Field(description="One sentence.")


class Image(BaseModel):
    """An image of the gallery."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    row: int = Field(description="Row number in the gallery; the thumbnail is /thumbnails/ROW.")
    id: str
    class_name: str | None = Field(alias="class", description="Class name; null without a label.")


class Hit(Image):
    """An image that a search found."""

    similarity: float = Field(description="By the metric; l2 is minus half the squared distance.")


class Query(BaseModel):
    """What was searched for: a row of the gallery, or an upload."""

    row: int | None = None
    id: str | None = None
    upload: str | None = Field(
        default=None, description="SHA-256 of the file; GET /search?upload=... needs no second upload."
    )


class SearchResults(BaseModel):
    """The most similar images, the nearest first."""

    query: Query
    metric: str
    exact: bool = Field(description="Whether the search was exact; an approximate index may miss images.")
    offset: int
    total: int = Field(description="Number of images that were searched: those of the class, or all.")
    more: bool = Field(description="Whether there are results after these.")
    hits: list[Hit]


class Embedding(BaseModel):
    """The features of an upload, equal to those that `extract` writes for the same file."""

    upload: str = Field(description="SHA-256 of the file.")
    width: int
    features: list[float]


class ImageList(BaseModel):
    """Images of the gallery in their order."""

    offset: int
    more: bool
    images: list[Image]


class GalleryInfo(BaseModel):
    """What is searched, and the limits of uploads."""

    images: int
    classes: dict[str, int] = Field(description="Class name -> number of images.")
    width: int
    metric: str
    exact: bool
    uploads: bool = Field(description="Whether images can be uploaded: the server has an encoder.")
    max_upload_bytes: int
    max_pixels: float
    encoder: str = Field(description="Architecture, layer and the first digits of the hash of the weights.")
