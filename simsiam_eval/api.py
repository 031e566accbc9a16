"""The Python interface: load an encoder, extract features, open feature files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.encoders.checkpoint import load_encoder as load_encoder_and_report
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.encoders.notes import note_assumptions
from simsiam_eval.encoders.report import CheckpointReport, weights_sha256
from simsiam_eval.encoders.settings import CHOICE_NAMES
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.arguments import PREPROCESSING, check_like, check_options, check_path
from simsiam_eval.extraction.extraction import BlockFeatures, Extraction, extract_to_memory
from simsiam_eval.extraction.options import ExtractionOptions, choice_like, options_like, preprocessing_of
from simsiam_eval.extraction.plan import encoder_attributes, source_attributes
from simsiam_eval.extraction.settings import FeatureSettings
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import reject_mixture
from simsiam_eval.features.reader import open_features as open_feature_file
from simsiam_eval.features.table import Features
from simsiam_eval.images.transform import ImageTransform
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.given import GivenImages, as_images
from simsiam_eval.sources.opening import open_source

Pathlike = str | os.PathLike[str]


class PretrainedEncoder(Encoder):
    """An encoder from a checkpoint, in eval mode: images (B,C,H,W) float32 -> features (B,D).

    Attributes:
        encoder: the one that computes the features.
        trunk, arch, stem, layers, pooling, width: as of every `Encoder`.
        preprocess: one image (Pillow, path or uint8 array) -> (C,S,S) float32, as `extract` prepares images.
        choice: the checkpoint, and the options that say what it does not.
        options: the preprocessing it was loaded with.
        report: what was read from the checkpoint, and what was not.
    """

    def __init__(
        self, encoder: Encoder, report: CheckpointReport, choice: EncoderChoice, options: ExtractionOptions
    ) -> None:
        super().__init__()
        self.encoder, self.report, self.choice, self.options = encoder, report, choice, options
        self.preprocess = ImageTransform(options.preprocessing(report))
        self.arch, self.stem, self.layers, self.pooling = encoder.arch, encoder.stem, encoder.layers, encoder.pooling
        self.variant = encoder.variant

    @property
    def trunk(self) -> nn.Module:  # type: ignore[override]
        return self.encoder.trunk

    @property
    def widths(self) -> tuple[int, ...]:
        return self.encoder.widths

    def all_layers(self, images: Tensor, pool_in: torch.dtype | None = None) -> tuple[Tensor, ...]:
        return self.encoder.all_layers(images, pool_in)

    @classmethod
    def from_choice(cls, choice: EncoderChoice, options: ExtractionOptions) -> PretrainedEncoder:
        """The encoder of a checkpoint, with the layers, pooling and preprocessing of the options."""
        encoder, report = load_encoder_and_report(choice, options.layers, options.pooling)
        return cls(encoder, report.with_normalization(options.mean, options.std), choice, options).eval()

    def embed(self, images: Any, device: str = "auto") -> NDArray[np.float32]:
        """Features of a few images, the same that `extract` gives.

        Args:
            images: one image or an iterable of N: Pillow images, paths, or arrays (H,W,3) or (H,W); where channels were
                selected, any arrays that have them.
            device: auto, cpu, cuda or cuda:N.

        Returns:
            (N,D) float32; (1,D) for one image.

        Raises:
            TypeError: something is not an image.
            DataError: an image cannot be read; the sentence names it.
        """
        source = GivenImages(as_images(images, "images"))
        if not len(source):
            return np.empty((0, self.width), dtype=np.float32)
        options = ExtractionOptions(layers=self.layers, pooling=self.pooling)
        extraction = Extraction(self.encoder, source, self.preprocess.preprocessing, options, resolve_device(device))

        def reject_unreadable(block: BlockFeatures) -> None:
            for row, reason in sorted(block.reasons.items()):
                raise DataError(f"{source.id(row)}: {reason}.")

        return np.asarray(extract_to_memory(extraction, after_block=reject_unreadable).features)


def load_encoder(
    checkpoint: Pathlike,
    layer: str | Sequence[str] = "pool",
    pooling: str = "auto",
    transform: str = "auto",
    *,
    branch: str | None = None,
    arch: str | None = None,
    stem_stride: int | None = None,
    stem_padding: int | None = None,
    stem_pool: bool | None = None,
    stride_in_1x1: bool | None = None,
    output_stride: int | None = None,
    channel_order: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: int | str | Sequence[int] | None = None,
    intensity: str = "auto",
    channel_axis: str | None = None,
    download: bool = False,
) -> PretrainedEncoder:
    """Load the encoder of a checkpoint of any supported family; no code in the file is run.

    Args:
        checkpoint: path of the file or folder, or `timm:NAME`, `timm:NAME@FILE` or `hf:FOLDER`.
        layer: stem, layer1, layer2, layer3, layer4 or pool; several of them come from one pass.
        pooling: avg or max over the spatial positions of the layer; cls, mean or cls+mean of a vision transformer; auto:
            avg, or what the transformer itself uses.
        transform: auto (as the encoder was trained), imagenet, cifar or squash; decides `preprocess`.
        branch: network to use from a checkpoint with several, by a name that `inspect` lists.
        arch: architecture, for a checkpoint whose shapes fit several.
        stem_stride, stem_padding, stem_pool: of the first convolution, and whether max-pooling follows it.
        stride_in_1x1: whether the stride of bottleneck blocks is in the first 1x1 convolution.
        output_stride: 32, or 16 or 8 for stages that dilate their convolutions.
        channel_order: rgb or bgr, in which the encoder was trained to take color channels; images are RGB all the same.
        mean, std: of the normalization, as fractions of 1: one value per channel or one for all.
        channels: number, or indices, of the channels of images that are read as they are stored; default: RGB or gray.
        channel_axis: of such images, as the option of `extract`.
        intensity: values that are black and white in images of more than 8 bits, as the option of `extract`; `embed` and
            `preprocess` see no source, so for other types than 16-bit unsigned integers they need dtype or LOW:HIGH.
        download: whether weights that are not on this machine may be downloaded.

    None stands for what the checkpoint says, or else the default for its stem.

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
    check_path(checkpoint, "checkpoint", "the path of a file")
    values: dict[str, Any] = {"layer": layer, "pool": pooling, "transform": transform, "mean": mean, "std": std}
    values |= {
        "channels": channels,
        "intensity": intensity,
        "channel_axis": channel_axis,
        "channel_order": channel_order,
    }
    values |= {"branch": branch, "arch": arch, "stride_in_1x1": stride_in_1x1, "output_stride": output_stride}
    values |= {"stem_stride": stem_stride, "stem_padding": stem_padding, "stem_pool": stem_pool, "download": download}
    settings = FeatureSettings(**values)
    return PretrainedEncoder.from_choice(settings.encoder_choice(os.fspath(checkpoint)), settings.extraction())


def extract(
    encoder: Pathlike | PretrainedEncoder,
    data: Pathlike | ImageSource | Iterable[Any],
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
        data: an image source as on the command line ("photos/train", "cifar10:DIR#test", "digits"), an opened one, or
            an iterable of images (see `PretrainedEncoder.embed`).
        out: feature file (.h5) to write; the result is then opened from it. Requires an image source as a string or path,
            with its split (`photos#train`), and no `like`.
        split: train or test, where the source has splits and names none.
        like: features whose preprocessing, layer, class numbers and class names the new ones share, such as the training
            set's.
        device: auto, cpu, cuda or cuda:N.
        **options: settings of the command `extract`, such as extract_batch=64 or workers=8. A loaded encoder has its layer
            and pooling already.

    Returns:
        `Features`: X (N,D) float32, y (N,) int64 (-1: no label), ids and class_names; unpacks as `X, y`. Images that
        cannot be read are left out and named on standard error.

    Raises:
        DataError: the checkpoint or the images cannot be used.
        UsageError: an unknown keyword or value, or a keyword that would have no effect.
        TypeError: an argument is of another type.

    >>> import simsiam_eval as se, tempfile, torch, torchvision
    >>> folder = tempfile.TemporaryDirectory()
    >>> torch.save(torchvision.models.resnet18().state_dict(), f"{folder.name}/resnet18.pth")
    >>> X, y = se.extract(f"{folder.name}/resnet18.pth", "digits#test", crop=32)
    >>> X.shape, y.shape, y.dtype
    ((600, 512), (600,), dtype('int64'))
    """
    loaded = encoder if isinstance(encoder, PretrainedEncoder) else None
    if loaded is None:
        check_path(encoder, "encoder", "the path of a checkpoint or an encoder from load_encoder")
    check_like(like)
    check_options(options, loaded, like, to_file=out is not None)
    given = set(options)
    if loaded is not None:
        options = loaded.options.as_settings() | options | {"layer": loaded.layers, "pool": loaded.pooling}
    if out is not None:
        if not isinstance(data, str | os.PathLike) or like is not None or split is not None:
            raise UsageError("With out, data must be an image source as a string or path, without split or like.")
        checkpoint = encoder if loaded is None else _unchanged_checkpoint(loaded)
        if loaded is not None:
            options |= {name: getattr(loaded.choice, name) for name in CHOICE_NAMES}
        COMMANDS["extract"](checkpoint=checkpoint, data=os.fspath(data), out=out, device=device, **options)
        return open_features(out)
    settings = FeatureSettings(**{"fingerprint": "listing", "device": device} | options)
    chosen = settings.extraction()
    if like is not None:
        chosen = options_like(like.attributes, chosen)
    if not isinstance(encoder, PretrainedEncoder):
        choice = settings.encoder_choice(os.fspath(encoder))
        if like is not None:
            choice = choice_like(like.attributes, choice, like.name)
        encoder = PretrainedEncoder.from_choice(choice, chosen)
    chosen = replace(chosen, layers=encoder.layers, pooling=encoder.pooling)
    if isinstance(data, str | os.PathLike):
        source = open_source(os.fspath(data), split, chosen.no_label)
    else:
        if split is not None:
            raise UsageError("split requires data as a string or path.")
        source = data if isinstance(data, ImageSource) else GivenImages(as_images(data, "data"))
    if like is not None:
        preprocessing = preprocessing_of(like.attributes, like.name)
    elif given & set(PREPROCESSING):
        preprocessing = chosen.preprocessing_on(source, encoder.report)
    else:
        preprocessing = chosen.completed(encoder.preprocess.preprocessing, source)
    extraction = Extraction(encoder.encoder, source, preprocessing, chosen, resolve_device(device))
    # The weights may have changed since they were loaded.
    report = replace(encoder.report, weights_sha256=_weights_sha256(encoder))
    if like is None:
        assumptions: Sequence[str] | None = note_assumptions(report, chosen.mean, chosen.std)
    else:
        assumptions = like.attributes.get("assumptions")
    attributes = encoder_attributes(extraction, report, assumptions) | {"source": source_attributes(extraction)}
    features = extract_to_memory(extraction, attributes)
    return features if like is None else _matched(features, like)


def open_features(path: Pathlike, layer: str | None = None, *, like: Features | None = None) -> Features:
    """Open a feature file: its features stay on the disk and are read where they are used.

    Args:
        path: the feature file (.h5).
        layer: one of the layers in the file; default: its first.
        like: features of the training set, whose class numbers and class names these take over, matched by name.

    Returns:
        `Features`: X (N,D) float32 on the disk, y (N,) int64 (-1: no label), ids and class_names; unpacks as `X, y`. Rows
        of unreadable images are left out.

    Raises:
        DataError: the file is missing, damaged, or not a complete feature file; with `like`, features of another encoder
            or preprocessing, or a class that the training set lacks.
    """
    check_path(path, "path", "the path of a feature file")
    check_like(like)
    features = open_feature_file(Path(path), () if layer is None else (layer,))
    return features if like is None else _matched(features, like)


def _unchanged_checkpoint(encoder: PretrainedEncoder) -> str:
    """The checkpoint of an encoder that still has its weights."""
    if _weights_sha256(encoder) != encoder.report.weights_sha256:
        raise UsageError(
            f"the weights of the encoder are no longer those of {encoder.report.path}: a feature file names a checkpoint, "
            "so save one first"
        )
    return encoder.report.path


def _weights_sha256(encoder: PretrainedEncoder) -> str:
    return weights_sha256(encoder.trunk.state_dict(), encoder.report.computation)


def _matched(features: Features, like: Features) -> Features:
    reject_mixture(like, features)
    return in_numbering_of(like, features)
