"""Build the parts of a run from its settings. Only this file and run.py receive a settings object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pretrain.checkpoint import seed_all
from pretrain.initialization import Start, read_start, saved_start
from pretrain.loader import Loader
from pretrain.model import SimSiam, parameter_groups
from pretrain.run_folder import RunDescription, RunFolder
from pretrain.settings import PretrainSettings
from pretrain.train import Recipe
from pretrain.views.parameters import ViewRecipe
from simsiam_eval.encoders.architectures import TRUNK
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.errors import UsageError
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.linear.schedule import scaled_lr
from simsiam_eval.runtime.batch_norm import synchronize_bn
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.intensity import source_intensity

_CONTIGUOUS_UP_TO = 16  # pixels: channels-last is slower on a CPU there (benchmarks/results/memory_format.md)


def open_folder(
    settings: PretrainSettings, source: ImageSource, preprocessing: Preprocessing, processes: Processes
) -> RunFolder:
    """The run folder, once the main process has created and locked it."""
    description = RunDescription(
        arch=settings.arch,
        stem=settings.trunk_stem(),
        preprocessing=preprocessing.to_dict(),
        settings=settings.to_dict(),
        images=source.listing_fingerprint(),
        processes=processes.world,
    )
    folder = RunFolder(settings.out, description, settings.keep, processes.main)
    processes.barrier()
    return folder


def open_loader(
    settings: PretrainSettings, source: ImageSource, preprocessing: Preprocessing, processes: Processes
) -> Loader:
    """The loader of the run's batches."""
    return Loader(
        source,
        view_recipe(settings),
        preprocessing,
        processes,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        seed=settings.seed,
        accumulate=settings.accumulate,
        workers=settings.workers,
        resident=settings.resident,
        decode=settings.decode,
        strict=settings.strict,
        compiled=settings.compile != "off" and settings.epochs > 0,
    )


def view_recipe(settings: PretrainSettings) -> ViewRecipe:
    """Ranges and probabilities of the views' random parameters."""
    return ViewRecipe(
        crop_area=settings.crop_area,
        jitter=settings.jitter,
        jitter_hue=settings.jitter_hue,
        grayscale=settings.grayscale,
        blur=settings.blur,
        flip=settings.flip,
        rotate=settings.rotate,
        shift=settings.shift,
        zoom=settings.zoom,
        shear=settings.shear,
    )


def training_recipe(settings: PretrainSettings, steps: int, device: torch.device) -> Recipe:
    """How to train, with `steps` per epoch."""
    return Recipe(
        epochs=settings.epochs,
        steps=steps,
        lr=_base_lr(settings),
        warmup_epochs=settings.warmup_epochs,
        loss=settings.loss,
        stop_gradient=settings.stop_gradient,
        symmetric=settings.symmetric,
        accumulate=settings.accumulate,
        precision=settings.precision,
        channels_last=_is_channels_last(settings, device),
        cuda_graphs=settings.compile == "cuda-graphs",
    )


def start_of(settings: PretrainSettings, saved: dict[str, Any] | None) -> Start | None:
    """The encoder that the run starts from, or a resumed run started from; None for random weights.

    Args:
        saved: the checkpoint to resume from, if any.

    Raises:
        DataError, UsageError: as in `read_start`.
    """
    if saved is not None:
        return saved_start(saved[METADATA_KEY])
    choice = settings.given_encoder()
    return None if choice is None else read_start(choice, settings.arch, settings.trunk_stem())


def build_model(settings: PretrainSettings, processes: Processes, start: Start | None = None) -> SimSiam:
    """The model on its device, initialized from the seed and, if given, from another encoder.

    Its forward pass is compiled if the settings say so.
    """
    seed_all(settings.seed)
    model: Any = SimSiam(
        settings.arch,
        settings.stem,
        settings.dim,
        settings.pred_dim,
        settings.projector_layers,
        settings.projector_hidden,
        settings.projector_bn,
        settings.predictor_bn,
        settings.predictor,
        TRUNK if start is None else start.trunk_variant,
        settings.image_size,
    )
    if start is not None:
        start.initialize(model)
    if processes.world > 1 and settings.sync_bn:
        _reject_fused_bn(model, settings.arch)
        model = synchronize_bn(model, processes.device)
    last = _is_channels_last(settings, processes.device)
    model = model.to(processes.device, memory_format=torch.channels_last if last else torch.contiguous_format)
    if settings.compile != "off":
        model.compile(mode="reduce-overhead" if settings.compile == "cuda-graphs" else "default")
    simsiam: SimSiam = model
    return simsiam


def _reject_fused_bn(model: torch.nn.Module, arch: str) -> None:
    """Reject BN layers of timm that contain the activation, which the synchronized ones would lose."""
    plain = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    if any(isinstance(module, _BatchNorm) and type(module) not in plain for module in model.modules()):
        raise UsageError(f"BN of {arch} cannot be synchronized, since it contains the activation; use --no-sync-bn.")


def build_optimizer(settings: PretrainSettings, model: SimSiam, device: torch.device) -> torch.optim.SGD:
    """SGD with the learning rate of the whole batch, lr x batch / 256."""
    return torch.optim.SGD(
        parameter_groups(model, settings.predictor, warmup=settings.warmup_epochs > 0),
        _base_lr(settings),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        # None: False would exclude the foreach implementation too
        fused=(device.type == "cuda" if settings.fused is None else settings.fused) or None,
    )


def distributed(model: SimSiam, processes: Processes) -> torch.nn.Module:
    """The model as the loop calls it: with several processes, it exchanges gradients between them."""
    if processes.world == 1:
        return model
    device_ids = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True)


def encoder_preprocessing(settings: PretrainSettings, source: ImageSource) -> Preprocessing:
    """How images are prepared for the encoder later: resized to 256 / 224 of the view's size; small images whole.

    Which values are black and white in images of more than 8 bits is decided on the training images.
    """
    size = settings.image_size
    short = round(size * 256 / 224) if settings.stem == "imagenet" else size
    intensity = source_intensity(source, settings.intensity)
    return Preprocessing(resize=short, crop=size, decode=settings.decode, intensity=intensity)


def with_saved_intensity(preprocessing: Preprocessing, saved: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing with the black and white of the run that a checkpoint resumes, if it records them."""
    intensity = Intensity.from_json(saved[METADATA_KEY]["preprocessing"].get("intensity"))
    return replace(preprocessing, intensity=intensity) if intensity.ranges else preprocessing


def _base_lr(settings: PretrainSettings) -> float:
    return scaled_lr(settings.lr, settings.batch_size)


def _is_channels_last(settings: PretrainSettings, device: torch.device) -> bool:
    if settings.channels_last is None:
        return device.type == "cuda" or settings.image_size > _CONTIGUOUS_UP_TO
    return settings.channels_last
