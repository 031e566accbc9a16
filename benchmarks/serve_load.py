"""Many clients of `serve` at a time: errors and latencies.

    python benchmarks/serve_load.py                                        # 50 clients for a minute
    python benchmarks/serve_load.py --seconds 5 --images 500 --no-table    # a try

The gallery is made of random features; the encoder is a ResNet-18 of random weights at 64 pixels. Half of the requests
search from a row of the gallery, half upload an image that the server has not seen. Clients and server share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from report import run, write_table
from torchvision import models

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.writer import write_features

ROOT = Path(__file__).parent.parent
STORED, SIDE, CLASSES, K = 32, 64, 100, 24  # pixels; classes; results of a search
SEARCH, UPLOAD = "search by id", "search by upload"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--images", type=int, default=10_000, help="rows of the gallery")
    parser.add_argument("--no-table", action="store_true", help="print the numbers only")
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        gallery, checkpoint = make_gallery(Path(folder), given.images)
        seconds: dict[str, list[float]] = {SEARCH: [], UPLOAD: []}
        errors: list[str] = []
        server, url = started(gallery, checkpoint)
        try:
            begun = time.perf_counter()
            asyncio.run(all_clients(url, given.clients, given.seconds, given.images, seconds, errors))
            took = time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGINT)
            record = json.loads(server.stdout.read())  # type: ignore[union-attr]
            server.wait()
    rows = [row_of(kind, times, took) for kind, times in seconds.items()]
    rows.append(row_of("both", [time for times in seconds.values() for time in times], took))
    metrics = record["metrics"]
    notes = [
        f"{given.clients} clients for {took:.0f} s against {given.images:,} images of 512 features (exact search, "
        f"{K} results), each sending its next request when it has the answer. Errors: {len(errors)}"
        + (f" ({errors[0]})." if errors else ".")
        + f" The server counted {metrics['requests']:,} requests, {metrics['rejected']} rejected and {metrics['failed']} "
        f"failed; its exit status after Ctrl-C was {server.returncode}.",
        f"Server and clients shared the cores with other work: the load average was {load_before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after.",
    ]
    columns = ("requests", "answers", "per second", "p50 ms", "p95 ms", "longest ms")
    if given.no_table:
        print(*rows, *notes, sep="\n")
    else:
        write_table("serve_load", "Clients of `serve`", columns, rows, notes)
    if errors:
        raise DataError(f"{len(errors)} errors, such as {errors[0]}")


def make_gallery(folder: Path, images: int) -> tuple[Path, Path]:
    """A feature file of random features, as if of this encoder, and the checkpoint of the encoder."""
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), folder / "resnet18.pth")
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 256, (8, STORED, STORED, 3), dtype=np.uint8))
    command = ["extract", "--checkpoint", folder / "resnet18.pth", "--data", f"arrays:{folder / 'images.npy'}"]
    command += ["--resize", SIDE, "--crop", SIDE, "--out", folder / "few.h5"]
    subprocess.run([sys.executable, ROOT / "cli.py", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    attributes = read_attributes(folder / "few.h5")
    features = np.abs(rng.standard_normal((images, 512), dtype=np.float32))  # after a ReLU none is negative
    write_features(
        folder / "gallery.h5",
        features,
        np.arange(images) % CLASSES,
        [f"image {row}" for row in range(images)],
        encoder=attributes["encoder"],
        source={"spec": None, "fingerprint": None, "class_names": None},
        preprocessing=attributes["preprocessing"],
    )
    return folder / "gallery.h5", folder / "resnet18.pth"


def started(gallery: Path, checkpoint: Path) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, when it is ready, and its address."""
    command = ["serve", "--gallery", gallery, "--checkpoint", checkpoint, "--port", 0, "--json"]
    server = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", *map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"at (http://\S+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, found[1]
    raise DataError("The server did not start.")


async def all_clients(
    url: str, clients: int, seconds: float, images: int, times: dict[str, list[float]], errors: list[str]
) -> None:
    """Let all clients send requests for so many seconds."""
    ends = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one_client(client, number, ends, images, times, errors))


async def one_client(
    client: httpx.AsyncClient, number: int, ends: float, images: int, times: dict[str, list[float]], errors: list[str]
) -> None:
    """Searches and uploads in turn, one after the other."""
    rng = np.random.default_rng(number)
    uploaded = png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    sent = 0
    while time.perf_counter() < ends:
        kind = (SEARCH, UPLOAD)[(number + sent) % 2]
        begun = time.perf_counter()
        try:
            if kind == SEARCH:
                answer = await client.get("/search", params={"row": int(rng.integers(images)), "k": K})
            else:  # bytes after a PNG's end change its hash, so that the server computes its features again
                data = uploaded + b"%d %d" % (number, sent)
                answer = await client.post(f"/search?k={K}", files={"image": ("a.png", data)})
            check(answer)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            errors.append(f"{kind}: {type(error).__name__} {error}")
        else:
            times[kind].append(time.perf_counter() - begun)
        sent += 1


def check(answer: httpx.Response) -> None:
    """Raise ValueError for anything but an answer with all its results."""
    found: Any = answer.json()
    if answer.status_code != 200 or len(found["hits"]) != K:
        raise ValueError(f"status {answer.status_code}: {answer.text[:200]}")


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def row_of(kind: str, times: list[float], took: float) -> list[str]:
    """Row of the table."""
    if not times:
        return [kind, "0", *["-"] * 4]
    milliseconds = [f"{1000 * value:.0f}" for value in (*np.quantile(times, (0.5, 0.95)), max(times))]
    return [kind, f"{len(times):,}", f"{len(times) / took:.1f}", *milliseconds]


if __name__ == "__main__":
    run(main)
