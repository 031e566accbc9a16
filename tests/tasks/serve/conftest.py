"""A gallery of colored shapes with markup in its names, its encoder, and a client of an application that serves it."""

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from simsiam_eval.runtime.device import resolve_device
from tasks.serve.app import create_app
from tasks.serve.embedder import Embedder
from tasks.serve.gallery import open_gallery
from tasks.serve.guard import Guard
from tasks.serve.service import Limits, Service
from tasks.serve.settings import ServeSettings
from tasks.serve.thumbnails import Thumbnails

CLASSES = ("<b>cat<b>", "dog & 'co'", "<img src=x onerror=bad()>")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """60 images in three class folders."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for copy in range(20):
            pixels = rng.integers(0, 60, (20 + copy, 24, 3), dtype=np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(folder / name / f"<i>{number}-{copy}.png")
    return folder


@pytest.fixture(scope="session")
def encoder_file(model_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "resnet18.pth"
    torch.save(model_of(3).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def gallery_file(record, shapes, encoder_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "shapes.h5"
    record("extract", "--checkpoint", encoder_file, "--data", shapes, "--resize", 36, "--crop", 32, "--out", path)
    return path


@pytest.fixture(scope="session")
def service_of(encoder_file):
    """service_of(gallery, with_encoder, **settings) -> the parts of a server."""
    made = []

    def make(gallery, with_encoder=True, limits=None, **more):
        settings = ServeSettings(gallery=str(gallery), checkpoint=str(encoder_file) if with_encoder else None, **more)
        device = resolve_device("cpu")
        opened = open_gallery(settings, device)
        embedder = Embedder(opened.images, settings.given_encoder(), device, 2, 1) if with_encoder else None
        made.append(Service(opened, embedder, Thumbnails(opened, None), limits or Limits(200_000, 1e6), threads=2))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope="session")
def client_of():
    """client_of(service, names, upload_timeout) -> a client of its application."""

    def make(service, names=(), upload_timeout=30):
        guard = Guard(create_app(service), frozenset(names), service.limits.bytes, upload_timeout)
        return TestClient(guard, base_url="http://127.0.0.1:8000")

    return make


@pytest.fixture(scope="session")
def client(service_of, client_of, gallery_file):
    return client_of(service_of(gallery_file))
