"""The Python interface: load an encoder, extract features, open feature files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.encoders.checkpoint import CheckpointReport, weights_sha256
from simsiam_eval.encoders.checkpoint import load_encoder as load_encoder_and_report
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.extraction import Extraction, extract_to_memory
from simsiam_eval.extraction.options import ExtractionOptions, options_like, preprocessing_of
from simsiam_eval.extraction.plan import root_attributes
from simsiam_eval.extraction.settings import FeatureSettings
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import reject_mixture
from simsiam_eval.features.reader import open_features as open_feature_file
from simsiam_eval.features.table import Features
from simsiam_eval.images.transform import ImageTransform
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.given import GivenImages
from simsiam_eval.sources.opening import open_source

Pathlike = str | os.PathLike[str]


class PretrainedEncoder(Encoder):
    """An encoder from a checkpoint, in eval mode: images (B,3,H,W) float32 -> features (B,D).

    Attributes:
        arch, stem, layers, pooling, width: as of every `Encoder`.
        preprocess: one image (Pillow, path or uint8 array) -> (3,S,S) float32, as `extract` prepares images.
        report: what was read from the checkpoint, and what was not.
    """

    preprocess: ImageTransform
    report: CheckpointReport

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Pathlike, layer: str | Sequence[str] = "pool", pooling: str = "avg", transform: str = "auto"
    ) -> PretrainedEncoder:
        """As `load_encoder`."""
        options = FeatureSettings(layer=layer, pool=pooling, transform=transform).extraction()  # type: ignore[arg-type]
        encoder, report = load_encoder_and_report(checkpoint, options.layers, options.pooling)
        pretrained = cls(encoder.trunk, encoder.arch, encoder.stem, encoder.layers, encoder.pooling)
        pretrained.report = report
        pretrained.preprocess = ImageTransform(options.preprocessing(report))
        return pretrained.eval()

    def embed(self, images: Any, device: str = "auto") -> NDArray[np.float32]:
        """Features of a few images, the same that `extract` gives.

        Args:
            images: one image or a sequence of N: Pillow images, paths, or uint8 arrays (H,W,3) or (H,W).
            device: auto, cpu, cuda or cuda:N.

        Returns:
            (N,D) float32; (1,D) for one image.

        Raises:
            TypeError: something is not an image.
            DataError: an image cannot be read; the sentence names it.
        """
        several = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)
        source = GivenImages(images if several else [images])
        if not len(source):
            return np.empty((0, self.width), dtype=np.float32)
        options = ExtractionOptions(layers=self.layers, pooling=self.pooling, strict=True)
        extraction = Extraction(self, source, self.preprocess.preprocessing, options, resolve_device(device))
        return np.asarray(extract_to_memory(extraction).features)


def load_encoder(
    checkpoint: Pathlike, layer: str | Sequence[str] = "pool", pooling: str = "avg", transform: str = "auto"
) -> PretrainedEncoder:
    """Load the encoder of a checkpoint of any supported family; no code in the file is run.

    Args:
        checkpoint: path of the file.
        layer: stem, layer1, layer2, layer3, layer4 or pool; several of them come from one pass.
        pooling: avg or max over the spatial positions of the layer.
        transform: auto (as the encoder was trained), imagenet, cifar or squash; decides `preprocess`.

    Returns:
        an `nn.Module` on the CPU, in eval mode and float32, with `preprocess`, `embed`, `arch` and `report`.

    Raises:
        DataError: the file is missing or holds no complete encoder of a known family.
        UsageError: an unknown layer, pooling or transform.

    >>> import simsiam_eval as se, tempfile, torch, torchvision
    >>> folder = tempfile.TemporaryDirectory()
    >>> torch.save(torchvision.models.resnet18().state_dict(), f"{folder.name}/resnet18.pth")
    >>> encoder = se.load_encoder(f"{folder.name}/resnet18.pth")
    >>> encoder.arch, encoder.width, encoder.report.family
    ('resnet18', 512, 'torchvision')
    >>> from PIL import Image
    >>> encoder.embed([Image.new("RGB", (64, 48), "red"), Image.new("RGB", (48, 64), "blue")]).shape
    (2, 512)
    """
    return PretrainedEncoder.from_checkpoint(checkpoint, layer, pooling, transform)


def extract(
    encoder: Pathlike | PretrainedEncoder,
    data: Pathlike | ImageSource | Sequence[Any],
    out: Pathlike | None = None,
    *,
    split: str | None = None,
    like: Features | None = None,
    device: str = "auto",
    **options: Any,
) -> Features:
    """Features of images: in memory, or with `out` in a feature file that a killed extraction resumes.

    Args:
        encoder: from `load_encoder`, or the path of a checkpoint.
        data: an image source as on the command line ("photos/train", "cifar10:DIR#test", "digits"), an opened one, or a
            sequence of images (see `PretrainedEncoder.embed`).
        out: feature file (.h5) to write; the result is then opened from it. Requires an image source as a string or path,
            with its split (`photos#train`), and no `like`.
        split: train or test, where the source has splits and names none.
        like: features whose preprocessing, layer and class numbers the new ones share, such as the training set's.
        device: auto, cpu, cuda or cuda:N.
        **options: settings of the command `extract`, such as extract_batch=64 or workers=8.

    Returns:
        `Features`: X (N,D) float32, y (N,) int64 (-1: no label), ids and class_names; unpacks as `X, y`. Images that
        cannot be read are left out and named on standard error.

    Raises:
        DataError: the checkpoint or the images cannot be used.
        UsageError: an unknown option or value.

    >>> import simsiam_eval as se, tempfile, torch, torchvision
    >>> folder = tempfile.TemporaryDirectory()
    >>> torch.save(torchvision.models.resnet18().state_dict(), f"{folder.name}/resnet18.pth")
    >>> X, y = se.extract(f"{folder.name}/resnet18.pth", "digits#test", crop=32)
    >>> X.shape, y.shape, y.dtype
    ((600, 512), (600,), dtype('int64'))
    """
    if out is not None:
        if not isinstance(data, str | os.PathLike) or like is not None or split is not None:
            raise UsageError("with out, data must be an image source as a string or path, without split or like")
        if isinstance(encoder, PretrainedEncoder):
            options = {"layer": encoder.layers, "pool": encoder.pooling} | options
            encoder = _unchanged_checkpoint(encoder)
        COMMANDS["extract"](checkpoint=encoder, data=os.fspath(data), out=out, device=device, **options)
        return open_features(out)
    chosen = FeatureSettings(**{"fingerprint": "listing", "device": device} | options).extraction()
    if like is not None:
        chosen = options_like(like.attributes, chosen)
    if not isinstance(encoder, PretrainedEncoder):
        encoder = load_encoder(encoder, chosen.layers, chosen.pooling, chosen.transform)
    chosen = replace(chosen, layers=encoder.layers, pooling=encoder.pooling)
    if like is not None:
        preprocessing = preprocessing_of(like.attributes, like.name)
    elif options.keys() & {"transform", "resize", "crop", "decode"}:
        preprocessing = chosen.preprocessing(encoder.report)
    else:
        preprocessing = encoder.preprocess.preprocessing
    if isinstance(data, str | os.PathLike):
        source = open_source(os.fspath(data), split)
    else:
        source = data if isinstance(data, ImageSource) else GivenImages(data)
    extraction = Extraction(encoder, source, preprocessing, chosen, resolve_device(device))
    # The weights may have changed since they were loaded.
    report = replace(encoder.report, weights_sha256=weights_sha256(encoder.trunk.state_dict()))
    features = extract_to_memory(extraction, root_attributes(extraction, report))
    return features if like is None else _matched(features, like)


def open_features(path: Pathlike, layer: str | None = None, *, like: Features | None = None) -> Features:
    """Open a feature file: its features stay on the disk and are read where they are used.

    Args:
        path: the feature file (.h5).
        layer: one of the layers in the file; default: its first.
        like: features of the training set, whose class numbers these take over by class name.

    Returns:
        `Features`: X (N,D) float32 on the disk, y (N,) int64 (-1: no label), ids and class_names; unpacks as `X, y`. Rows
        of unreadable images are left out.

    Raises:
        DataError: the file is missing, damaged, or not a complete feature file; with `like`, features of another encoder
            or preprocessing, or a class that the training set lacks.
    """
    features = open_feature_file(Path(path), () if layer is None else (layer,))
    return features if like is None else _matched(features, like)


def _unchanged_checkpoint(encoder: PretrainedEncoder) -> str:
    """The checkpoint of an encoder that still has its weights."""
    if weights_sha256(encoder.trunk.state_dict()) != encoder.report.weights_sha256:
        raise UsageError(
            f"the weights of the encoder are no longer those of {encoder.report.path}: a feature file names a checkpoint, "
            "so save one first"
        )
    return encoder.report.path


def _matched(features: Features, like: Features) -> Features:
    reject_mixture(like, features)
    return in_numbering_of(like, features)
