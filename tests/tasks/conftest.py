"""Features of the photos, whole and in three parts; encoders of images of any number of channels; a browser."""

import shutil

import pytest
import torch
from torchvision import models


@pytest.fixture(scope="session")
def parts(record, checkpoint, photos, tmp_path_factory):
    """A folder with whole.h5 and 0.h5, 12.h5, 28.h5, which begin at those rows; forward passes of 4 images."""
    folder = tmp_path_factory.mktemp("parts")
    common = ["extract", "--checkpoint", checkpoint, "--data", photos, "--extract-batch", 4, "--workers", 0]
    common += ["--layer", "pool", "--layer", "layer2"]
    record(*common, "--out", folder / "whole.h5")
    for rows in ("0:12", "12:28", "28:40"):
        record(*common, "--out", folder / f"{rows.split(':')[0]}.h5", "--rows", rows)
    return folder


@pytest.fixture(scope="session")
def model_of():
    """model_of(channels) -> a ResNet-18 of torchvision for images of so many channels, with random statistics."""

    def model(channels):
        torch.manual_seed(0)
        network = models.resnet18()
        network.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        network.fc = torch.nn.Identity()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return network.eval()

    return model


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
        chromium = driver.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """opened(path, width, height) -> the page, and a list that fills with its errors and requests to elsewhere."""
    contexts = []

    def open_page(path, width=1280, height=900):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page, faults = context.new_page(), []
        page.set_default_timeout(120_000)
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if is_elsewhere(request.url) else None)
        page.goto(path.resolve().as_uri())
        page.wait_for_function("window.reportReady")
        return page, faults

    yield open_page
    for context in contexts:
        context.close()


def is_elsewhere(url):
    return not url.startswith(("file:", "data:", "blob:"))
