"""Images of colored shapes in a folder, and features of them that separate the classes."""

import json

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.features.writer import write_features
from simsiam_eval.sources.opening import open_source

# Markup and control characters in every name that people can choose.
CLASSES = ("<b>cat</b>", "dog & 'co'", '<img src=x onerror="bad()">')
FILES = ("</script><script>bad()</script>", "plain", "esc\x1b[31mape", "a,b", 'quo"te', "<i>x</i>")


def without_slash(name):
    return name.replace("/", "\u2215")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Folders train and test, with classes and files of nasty names; 18 and 12 images of each class."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, copies in (("train", 3), ("test", 2)):
        for number, name in enumerate(CLASSES):
            (folder / split / without_slash(name)).mkdir(parents=True)
            for copy in range(copies):
                for file in FILES:
                    pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                    pixels[..., number] += 150
                    path = folder / split / without_slash(name) / f"{without_slash(file)}{copy}.png"
                    Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="session")
def features_of(shapes):
    """features_of(folder, name, noise) writes NAME-train.h5 and NAME-test.h5 there and returns both paths."""

    def write(folder, name, noise, train_labels=None):
        paths = {}
        for split in ("train", "test"):
            source = open_source(f"folder:{shapes / split}")
            rng = np.random.default_rng(len(name))
            centers = np.eye(len(CLASSES), 16)
            features = centers[source.labels] + noise * rng.normal(size=(len(source), 16))
            paths[split] = folder / f"{name}-{split}.h5"
            write_features(
                paths[split],
                features.astype(np.float32),
                source.labels,
                source.ids_of(range(len(source))),
                encoder={"arch": name},
                source={
                    "spec": source.spec,
                    "fingerprint": source.fingerprint(),
                    "class_names": list(source.class_names),
                },
            )
        return paths

    return write


@pytest.fixture(scope="session")
def data_of():
    """The data that a page holds for its script."""

    def read(path):
        text = path.read_text(encoding="utf-8")
        start = text.index('<script type="application/json" id="data">')
        text = text[text.index(">", start) + 1 :]
        return json.loads(text[: text.index("</script>")])

    return read


@pytest.fixture(scope="session")
def page(record, shapes, features_of, tmp_path_factory):
    """A page of two encoders with a head and records; its folder and the record."""
    folder = tmp_path_factory.mktemp("page")
    first, second = features_of(folder, "first", 0.4), features_of(folder, "second", 0.9)
    common = ["--train", first["train"], "--test", first["test"]]
    record("linear-eval", *common, "--preset", "small", "--epochs", 5, "--save-head", folder / "head.safetensors")
    for name, command in {
        "linear": ["linear-eval", *common, "--preset", "small", "--epochs", 5],
        "few": ["linear-eval", *common, "--preset", "small", "--epochs", 5, "--shots", "1,5", "--trials", 2],
        "retrieval": ["retrieval", "eval", "--gallery", first["train"], "--queries", first["test"]],
        "rank": ["rank", first["test"]],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(record(*command)))
    made = record(
        "report", first["train"], first["test"], second["train"], second["test"], folder / "head.safetensors",
        *sorted(folder.glob("*.json")), "--map", "pca", "--out", folder / "page.html",
    )  # fmt: skip
    return folder, made
