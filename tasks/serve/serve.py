"""`serve`: search a gallery on a local web page and through an HTTP API."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import UsageError
from simsiam_eval.wording import counted
from tasks.serve.settings import ServeSettings

if TYPE_CHECKING:
    import torch

    from tasks.serve.guard import Counts
    from tasks.serve.service import Service

_MAX_THREADS = 16


def serve(settings: ServeSettings) -> Result:
    """Run `serve` until Ctrl-C or SIGTERM.

    Raises:
        UsageError, DataError: a package is missing, the port is taken, or the gallery or the checkpoint cannot be used.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"`serve` requires FastAPI, uvicorn and python-multipart ({error.name} is missing): "
            'pip install "simsiam-eval[serve]".'
        ) from error
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.runtime.progress import say
    from tasks.serve.app import create_app
    from tasks.serve.guard import Guard
    from tasks.serve.server import address_of, bound_socket, run_server

    started = time.perf_counter()
    device = resolve_device(settings.device)
    opened = bound_socket(settings.host, settings.port)
    with opened:
        service = _service(settings, device)
        names = frozenset(name.lower().rstrip(".") for name in (settings.host, *settings.allow_host))
        guard = Guard(create_app(service), names, service.limits.bytes, settings.upload_timeout)
        url = address_of(opened)

        def ready() -> None:
            if not _is_loopback(opened.getsockname()[0]):
                say(f"Warning: everyone who can reach {url} can search the gallery and see its thumbnails.")
            without = (
                "" if service.embedder else "; without --checkpoint, only images of the gallery can be searched for"
            )
            say(f"Serving {counted(len(service.gallery), 'image')} at {url} (Ctrl-C to stop){without}")

        ready_seconds = time.perf_counter() - started
        try:
            run_server(guard, opened, ready)
        finally:
            service.close()
    return _result(settings, started, ready_seconds, service, guard.counts, device.type, url)


def _service(settings: ServeSettings, device: torch.device) -> Service:
    """The gallery, the encoder and the limits of the settings; cores are shared between threads that answer requests."""
    import torch

    from tasks.serve.embedder import Embedder
    from tasks.serve.gallery import open_gallery
    from tasks.serve.service import Limits, Service
    from tasks.serve.thumbnails import Thumbnails

    gallery = open_gallery(settings, device)
    cores = torch.get_num_threads()
    threads = min(cores, _MAX_THREADS)
    choice, embedder = settings.given_encoder(), None
    if choice is not None:
        embedder = Embedder(gallery.images, choice, device, threads, cores // threads)
    limits = Limits(int(settings.max_upload * 1e6), settings.max_pixels * 1e6)
    return Service(gallery, embedder, Thumbnails(gallery, settings.images), limits, threads, cores // threads)


def _result(
    settings: ServeSettings,
    started: float,
    ready_seconds: float,
    service: Service,
    counts: Counts,
    device: str,
    url: str,
) -> Result:
    """How many requests the server answered."""
    gallery = service.gallery
    answered = {
        "requests": counts.requests,
        "searches": service.searches,
        "uploads": service.uploads,
        "rejected": counts.rejected,
        "failed": counts.failed,
    }
    return Result(
        task="serve",
        settings=settings.to_dict(),
        metrics={
            "images": len(gallery),
            "metric": gallery.index.metric,
            "exact": gallery.index.exact,
            **answered,
            "ready_seconds": ready_seconds,
        },
        provenance=provenance(
            started,
            device,
            gallery=gallery.images.file,
            encoder=gallery.images.attributes["encoder"],
            assumptions=gallery.images.attributes.get("assumptions"),
        ),
        faults=unreadable_faults([gallery.images.read_images], settings.max_unreadable),
        table=Table(
            f"Served {settings.gallery} at {url}", tuple(answered), [[str(number) for number in answered.values()]]
        ),
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
