"""The HTTP API and the page, as a FastAPI application."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, File, Query as Parameter, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from simsiam_eval.errors import UserError
from simsiam_eval.plots.pages import page_template
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import printable
from tasks.serve.answers import Embedding, Error, GalleryInfo, Hit, Image, ImageList, Query, SearchResults
from tasks.serve.gallery import DEFAULT_K, MAX_K, MAX_RANK
from tasks.serve.rejected import Rejected
from tasks.serve.service import Service

_TYPES = {"search.css": "text/css", "search.js": "text/javascript"}
_SHOWN = 100  # characters of a value in a message

K = Annotated[int, Parameter(ge=1, le=MAX_K, description="Number of images.")]
Offset = Annotated[int, Parameter(ge=0, le=MAX_RANK, description="Number of images to skip.")]
ClassName = Annotated[str | None, Parameter(alias="class", description="Only images of this class.")]
Upload = Annotated[UploadFile, File(description="An image file.")]


def create_app(service: Service) -> FastAPI:
    """The application. /openapi.json describes it; there is no page for that, which would load scripts from elsewhere."""
    app = FastAPI(
        title="simsiam-eval serve",
        summary="Search a gallery of images by image or by id.",
        version="1",
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": Error} for status in (400, 403, 404, 408, 409, 413, 422, 503)},
    )
    gallery = service.gallery
    info = _info(service)
    _add_page(app, info)
    _add_error_answers(app)

    @app.get("/gallery", summary="Describe the gallery")
    async def describe() -> GalleryInfo:
        return info

    @app.get("/gallery/images", summary="List images")
    async def list_images(
        contains: Annotated[str, Parameter(description="Text in the id, in any case.")] = "",
        class_name: ClassName = None,
        k: K = DEFAULT_K,
        offset: Offset = 0,
    ) -> ImageList:
        rows, more = await service.in_thread(lambda: gallery.listed(contains, class_name, offset, k))
        return ImageList(offset=offset, more=more, images=[Image(**_image(service, row)) for row in rows])

    @app.get("/search", summary="Search from an image of the gallery, or from an earlier upload")
    async def search(
        id: Annotated[str | None, Parameter(description="Id of an image of the gallery.")] = None,
        row: Annotated[int | None, Parameter(description="Its row, instead of its id.")] = None,
        upload: Annotated[str | None, Parameter(description="SHA-256 of an uploaded file.")] = None,
        k: K = DEFAULT_K,
        offset: Offset = 0,
        class_name: ClassName = None,
    ) -> SearchResults:
        if sum(value is not None for value in (id, row, upload)) != 1:
            raise Rejected(422, "Give one of id, row and upload; to search for an image file, send it by POST.")
        if upload is not None:
            return await results(service.uploaded(upload), Query(upload=upload), k, offset, class_name)
        found_row = gallery.row_of(id) if id is not None else gallery.require_row(row or 0)
        query = Query(row=found_row, id=str(gallery.images.ids[found_row]), upload=None)
        return await results(found_row, query, k, offset, class_name)

    @app.post("/search", summary="Search from an image file")
    async def search_upload(
        image: Upload, k: K = DEFAULT_K, offset: Offset = 0, class_name: ClassName = None
    ) -> SearchResults:
        gallery.count(class_name)  # rejects an unknown class before the work
        upload, features = await service.embed(image.file, image.size)
        return await results(features, Query(upload=upload), k, offset, class_name)

    @app.post("/embed", summary="Compute the features of an image file")
    async def embed(image: Upload) -> Embedding:
        upload, features = await service.embed(image.file, image.size)
        return Embedding(upload=upload, width=len(features), features=features.tolist())

    @app.get("/thumbnails/{row}", summary="Thumbnail of an image", response_class=Response,
             responses={200: {"content": {"image/webp": {}}}})  # fmt: skip
    async def thumbnail(row: int) -> Response:
        data = await service.in_thread(lambda: service.thumbnails.file(row))
        return Response(data, media_type="image/webp", headers={"cache-control": "private, max-age=600"})

    async def results(query: Any, named: Query, k: int, offset: int, class_name: str | None) -> SearchResults:
        found, total = await service.search(query, offset, k, class_name)
        hits = [
            Hit(**_image(service, row), similarity=similarity)
            for row, similarity in zip(found.rows.tolist(), found.similarities.tolist(), strict=True)
        ]
        more = len(hits) == k and offset + k < min(total, MAX_RANK)
        return SearchResults(
            query=named, metric=info.metric, exact=info.exact, offset=offset, total=total, more=more, hits=hits
        )

    return app


def _add_page(app: FastAPI, info: GalleryInfo) -> None:
    """The web page, and the files that it loads."""
    page = page_template("tasks.serve", "search.html").render(gallery=info)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in _TYPES:
            raise HTTPException(404)
        return Response((files("tasks.serve") / "page" / name).read_bytes(), media_type=_TYPES[name])


def _add_error_answers(app: FastAPI) -> None:
    """Answer every error with its status and one sentence."""

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> JSONResponse:
        return _error(error.status, error.detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _error(422, _sentence(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return _error(404, "There is nothing at this address; /openapi.json lists what there is.")
        return _error(error.status_code, f"{str(error.detail).rstrip('.')}.")

    @app.exception_handler(UserError)
    async def failed(_: Request, error: UserError) -> JSONResponse:
        say(f"Error: {error}")
        return _error(500, str(error))


def _image(service: Service, row: int) -> dict[str, Any]:
    return {"row": row, "id": str(service.gallery.images.ids[row]), "class_name": service.gallery.class_name(row)}


def _info(service: Service) -> GalleryInfo:
    gallery, encoder = service.gallery, service.gallery.images.attributes["encoder"]
    facts = [encoder.get("arch"), encoder.get("layer"), (encoder.get("weights_sha256") or "")[:8]]
    return GalleryInfo(
        images=len(gallery),
        classes=gallery.classes,
        width=gallery.images.width,
        metric=gallery.index.metric,
        exact=gallery.index.exact,
        uploads=service.embedder is not None,
        max_upload_bytes=service.limits.bytes,
        max_pixels=service.limits.pixels,
        encoder=printable(", ".join(str(fact) for fact in facts if fact)),
    )


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)


def _sentence(error: Any) -> str:
    """One of pydantic's errors as a sentence."""
    name = str(error["loc"][-1])
    if error["type"] == "missing" or name == "image":  # nothing was sent by this name, or text instead of a file
        form = "; send the file as multipart form data, as in: curl -F image=@photo.jpg" if name == "image" else ""
        return f"{name} is required{form}."
    reason = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    reason = reason.partition(", unable to parse")[0]
    got = f", got {str(error.get('input'))[:_SHOWN]!r}"
    return f"{name}{'' if reason.startswith('should') else ':'} {reason}{got}."
