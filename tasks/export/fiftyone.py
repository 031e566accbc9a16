"""A folder that FiftyOne imports (its format FiftyOneDataset): samples.json, metadata.json and, where needed, images.

FiftyOne is not needed to write it. `samples.json` is written sample by sample, and FiftyOne reads it so too.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simsiam_eval.features.provenance import is_imported
from simsiam_eval.files.atomic import atomic_folder
from simsiam_eval.plots.source_images import SourceImages
from simsiam_eval.runtime.progress import progress
from simsiam_eval.sources.base import PathSource
from tasks.atlas.analysis import Analysis
from tasks.atlas.table import block_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

# FiftyOne migrates what an earlier version wrote; 1.0 has all that these files use.
_VERSION = "1.0.0"
_BLOCK = 1024  # samples at a time
_FIELDS = "fiftyone.core.fields"
_TEXT, _NUMBER, _INTEGER, _VECTOR = (f"{_FIELDS}.{name}Field" for name in ("String", "Float", "Int", "Vector"))
# Field of a sample -> its type; the values are columns of the atlas with the same name, but for _RENAMED.
_COLUMNS = {
    "map_x": _NUMBER, "map_y": _NUMBER, "margin": _NUMBER, "suggested": _TEXT, "outlier_distance": _NUMBER,
    "class_outlier_ratio": _NUMBER, "nearest_similarity": _NUMBER, "duplicate_group": _INTEGER, "conflict": _TEXT,
    "nearest_training": _TEXT, "training_similarity": _NUMBER, "row": _INTEGER,
}  # fmt: skip
_RENAMED = {"x": "map_x", "y": "map_y"}  # `import` takes a field y for labels


@dataclass
class Written:
    """Numbers of samples: all, with the path of an image file of the source, with an image written here, without any."""

    samples: int = 0
    linked: int = 0
    written: int = 0
    missing: int = 0


def write_fiftyone(folder: Path, analysis: Analysis, spec: str | None) -> Written:
    """Write the folder, which must not exist.

    Args:
        spec: image source; None: that of the features.

    Raises:
        DataError: it cannot be written.
    """
    features, written = analysis.features, Written()
    images = SourceImages(spec) if spec else SourceImages.from_features(features)
    with atomic_folder(folder) as target:
        media = _Media(images, target, folder, written)
        with (
            open(target / "samples.json", "w", encoding="utf-8") as file,
            progress(f"export {folder.name}", len(features)) as advance,
        ):
            file.write('{"samples": [')
            for number, sample in enumerate(_samples(analysis, media)):
                file.write((",\n" if number else "\n") + json.dumps(sample, allow_nan=False))
                written.samples += 1
                advance(1)
            file.write("\n]}\n")
        (target / "metadata.json").write_text(json.dumps(_dataset(folder.name, analysis)), encoding="utf-8")
    return written


class _Media:
    """The image file of each sample: that of the source, or one that is written."""

    def __init__(self, images: SourceImages, target: Path, folder: Path, written: Written) -> None:
        self._images, self._target, self._folder, self._written = images, target, folder, written

    def path(self, image_id: str, number: int) -> str:
        """An absolute path, or one below the folder; of an image that cannot be read, where it would have been."""
        source, row = self._images.source, self._images.row(image_id)
        if isinstance(source, PathSource) and row >= 0:
            path = os.path.abspath(source.paths[row])
            if os.path.exists(path) and path.isprintable():
                self._written.linked += 1
                return path
        name = f"data/{number:08d}.png"
        image = self._images.image(image_id)
        if image is None:
            self._written.missing += 1
            return name
        (self._target / "data").mkdir(exist_ok=True)
        image.save(self._target / name)
        self._written.written += 1
        return name


def _samples(analysis: Analysis, media: _Media) -> Iterator[dict[str, Any]]:
    """The documents of the samples, as FiftyOne stores them."""
    features = analysis.features
    seed = repr((features.attributes["encoder"], features.attributes["source"], features.width))
    for start in range(0, len(features), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(features)))
        columns = {
            _RENAMED.get(name, name): values.tolist() if isinstance(values, np.ndarray) else values
            for name, values in block_columns(analysis, rows).items()
        }
        vectors = features.features[rows.start : rows.stop]
        for at, row in enumerate(rows):
            value = {name: _given(values[at]) for name, values in columns.items()}
            digest = hashlib.sha256(f"{seed} {row}".encode()).hexdigest()
            image_id = str(features.ids[row])
            yield {
                "_id": {"$oid": digest[:24]},
                "_media_type": "image",
                "_rand": int(digest[24:37], 16) / 16**13,
                "filepath": media.path(image_id, row),
                "tags": [value["suspect"]] if value["suspect"] else [],
                "source_id": value["id"],
                "ground_truth": _classification(digest[32:56], value["label"], None),
                "prediction": _classification(digest[40:64], value["predicted"], value["confidence"]),
                "embedding": {"$binary": {"base64": _vector(vectors[at]), "subType": "00"}},
                **{name: value[name] for name in _COLUMNS if name in value},
            }


def _given(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _classification(identity: str, label: str | None, confidence: float | None) -> dict[str, Any] | None:
    if label is None:
        return None
    document = {"_id": {"$oid": identity}, "_cls": "Classification", "tags": [], "label": label}
    return document | ({} if confidence is None else {"confidence": confidence})


def _vector(values: NDArray[np.float32]) -> str:
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return base64.b64encode(zlib.compress(data.getvalue(), 1)).decode()


def _dataset(name: str, analysis: Analysis) -> dict[str, Any]:
    """The document of the dataset."""
    features = analysis.features
    fields = [
        _field("id", f"{_FIELDS}.ObjectIdField", stored="_id"),
        _field("filepath", _TEXT),
        _field("tags", f"{_FIELDS}.ListField", subfield=_TEXT),
        _field("metadata", f"{_FIELDS}.EmbeddedDocumentField", document="fiftyone.core.metadata.ImageMetadata"),
        _field("_media_type", _TEXT),
        _field("_rand", _NUMBER),
        _field("_dataset_id", f"{_FIELDS}.ObjectIdField"),
        _field("created_at", f"{_FIELDS}.DateTimeField"),
        _field("last_modified_at", f"{_FIELDS}.DateTimeField"),
        _field("source_id", _TEXT),
        *(_label_field(kind) for kind in ("ground_truth", "prediction")),
        _field("embedding", _VECTOR),
        *(
            _field(column, kind)
            for column, kind in _COLUMNS.items()
            if analysis.leaks is not None or column not in ("nearest_training", "training_similarity")
        ),
    ]
    encoder = features.attributes["encoder"]
    classes = sorted({shown for shown in map(analysis.name, np.unique(features.labels).tolist()) if shown})
    return {
        "name": name,
        "version": _VERSION,
        "media_type": "image",
        "sample_fields": fields,
        "default_classes": classes,
        "info": {
            "written_by": "simsiam-eval export --to fiftyone",
            "encoder": "imported" if is_imported(features.attributes) else encoder.get("arch"),
            "encoder_sha256": encoder.get("weights_sha256"),
            "map": analysis.map.sentence(),
        },
    }


def _field(
    name: str,
    kind: str,
    *,
    stored: str | None = None,
    subfield: str | None = None,
    document: str | None = None,
    fields: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": kind,
        "subfield": subfield,
        "embedded_doc_type": document,
        "db_field": stored or name,
        "fields": fields or [],
        "description": None,
        "info": None,
        "read_only": False,
    }


def _label_field(name: str) -> dict[str, Any]:
    fields = [
        _field("id", f"{_FIELDS}.ObjectIdField", stored="_id"),
        _field("tags", f"{_FIELDS}.ListField", subfield=_TEXT),
        _field("label", _TEXT),
        _field("confidence", _NUMBER),
        _field("logits", _VECTOR),
    ]
    return _field(
        name, f"{_FIELDS}.EmbeddedDocumentField", document="fiftyone.core.labels.Classification", fields=fields
    )
