"""`hf:FOLDER`: a model of transformers in a local folder as an encoder. No code in the folder is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.backbones.backbone import (
    Backbone,
    LibraryEncoder,
    on_meta,
    reject_bgr,
    token_features,
)
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile, open_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.float_weights import float_weights
from simsiam_eval.encoders.recognition.declared import stated_preprocessing
from simsiam_eval.encoders.recognition.search import BARE
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.vocabulary import HUGGING_FACE, MAP_POOLINGS, TOKEN_POOLINGS
from simsiam_eval.wording import first_few

_CLASS_TOKENS = ("cls_token", "class_embedding")  # ends of the names of parameters
_POOLER = ("pooler.",)  # many checkpoints lack it, and only feature maps are pooled by it
# First parts of the keys of what is not the image model.
_HEADS = {
    "classifier": "the classifier",
    "head": "the classifier",
    "text_model": "the text model",
    "text_projection": "the text model",
    "visual_projection": "the projection",
    "logit_scale": "the projection",
    "logit_bias": "the projection",
    "decoder": "the decoder",
    "mask_token": "the token of masked patches",
}


class HuggingFaceEncoder(LibraryEncoder):
    """A model of transformers that takes `pixel_values`.

    Args:
        trunk: from `AutoModel`.
        arch: `hf:CLASS`.
        layer: "pool".
        pooling: "cls", "mean" or "cls+mean" of the last hidden state's tokens, or of models with feature maps "avg" (the
            model's own pooler where it has one) or "max". "auto": "cls" where there is a class token, else "mean" or "avg".
        channels: of the images.

    Raises:
        UsageError: the layer or the pooling does not fit the model.
    """

    def __init__(
        self,
        trunk: nn.Module,
        arch: str,
        layer: str | Sequence[str] = "pool",
        pooling: str = "auto",
        channels: int = 3,
    ) -> None:
        super().__init__(trunk, arch, layer, pooling, channels, _image_side(trunk.config))

    def poolings(self, shape: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
        with on_meta(self.trunk), torch.no_grad():
            state = self._outputs(torch.zeros(shape, device="meta")).last_hidden_state
        has_class_token = any(name.endswith(_CLASS_TOKENS) for name, _ in self.trunk.named_parameters())
        self._prefix_tokens = _prefix_tokens(self.trunk) if has_class_token else 0
        fitting = MAP_POOLINGS if state.ndim == 4 else TOKEN_POOLINGS if has_class_token else ("mean",)
        return fitting[0], fitting

    def all_layers(self, images: Tensor, pool_in: torch.dtype | None = None) -> tuple[Tensor, ...]:
        outputs = self._outputs(images)
        state: Tensor = outputs.last_hidden_state
        pooled = getattr(outputs, "pooler_output", None)
        if self.pooling == "avg" and pooled is not None:
            return (pooled.flatten(1),)
        if pool_in is not None:
            state = state.to(pool_in)
        if self.pooling in MAP_POOLINGS:
            return (state.mean(dim=(2, 3)) if self.pooling == "avg" else state.amax(dim=(2, 3)),)
        return (token_features(state, self.pooling, self._prefix_tokens),)

    def _outputs(self, images: Tensor) -> Any:
        try:
            return self.trunk(pixel_values=images, **_in_order(self.trunk.config, images))
        except ValueError as error:  # images of another size
            size = f"{images.shape[2]} x {images.shape[3]}"
            raise UsageError(
                f"{self.arch} cannot take images of {size} pixels; see --crop ({_first_line(error)})."
            ) from error


def load_hugging_face(choice: EncoderChoice, layer: str | Sequence[str], pooling: str) -> Backbone:
    """The encoder of `hf:FOLDER`.

    Raises:
        DataError: the folder has no config.json of a model that transformers has, or no complete weights of it.
        UsageError: transformers is missing, or the layer or pooling does not fit.
    """
    path = Path(choice.checkpoint.removeprefix(HUGGING_FACE)).expanduser()
    config = _config(path.parent if path.is_file() else path)
    file = open_checkpoint(path)
    reject_bgr(file)
    trunk, loaded, skipped = _load_model(config, file)
    arch, channels = HUGGING_FACE + type(trunk).__name__, int(getattr(trunk.config, "num_channels", 3))
    encoder = HuggingFaceEncoder(trunk, arch, layer, pooling, channels).eval()
    stated = stated_preprocessing(file, channels)
    assumptions = list(stated.assumptions)
    if pooling == "auto":
        assumptions.insert(0, f"Features are pooled as {encoder.pooling}, from the last hidden state.")
    if stated.preprocessing is None:
        assumptions.append("The folder states no preprocessing of images, so that ImageNet's is used.")
    return Backbone(
        encoder,
        family="huggingface",
        container=BARE,
        loaded=loaded,
        skipped=skipped,
        preprocessing=stated.record,
        preprocessing_from=stated.source,
        assumptions=tuple(assumptions),
    )


def _config(folder: Path) -> Any:
    """transformers' configuration of the image model in the folder."""
    try:
        import transformers
    except ImportError as error:
        raise UsageError('hf:FOLDER requires transformers: pip install "simsiam-eval[hf]".') from error
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} has no config.json; expected a local folder of transformers. Nothing is downloaded.")
    try:
        # Nothing is looked up or run: the class is one of transformers' own.
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of every kind
        raise DataError(f"{folder / 'config.json'} names no model of transformers ({_first_line(error)}).") from error
    config = getattr(config, "vision_config", None) or config
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # masked autoencoders hide patches also in eval mode
    return config


def _load_model(config: Any, file: CheckpointFile) -> tuple[Any, dict[str, str], dict[str, str]]:
    """The image model with the weights in the file, the keys that were loaded as in `Backbone`, and why others were not.

    transformers gives its models' weights other names than its files', so it sorts in what our reader read.
    """
    import transformers

    tensors = {str(key): value for key, value in file.content.items() if isinstance(value, Tensor)}
    weights = float_weights(tensors, file.path)
    try:
        with torch.device("meta"):
            kind = type(transformers.AutoModel.from_config(config, trust_remote_code=False))
        if getattr(kind, "main_input_name", None) != "pixel_values":
            raise DataError(
                f"{file.path} has a {kind.__name__}, which takes no images; give the folder of an image model."
            )
        with torch.random.fork_rng(devices=[]), _quiet():
            model, report = kind.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # of every kind
        raise DataError(f"transformers cannot load the model of {file.path} ({_first_line(error)}).") from error
    missing = [key for key in report["missing_keys"] if not key.startswith(_POOLER)]
    if len(missing) < len(report["missing_keys"]):
        model.pooler = None  # its weights are random
    prefix = f"{model.base_model_prefix}."
    nested = any(key.startswith(prefix) for key in weights)
    skipped, unexpected = {}, [str(key) for key in report["mismatched_keys"]]
    for key in report["unexpected_keys"]:
        reason = _HEADS.get(key.removeprefix(prefix).split(".")[0])
        if reason or (nested and not key.startswith(prefix)):
            skipped[key] = reason or "not part of the encoder"
        else:
            unexpected.append(key)
    if missing or unexpected:
        faults = [f"missing keys: {len(missing)} ({first_few(missing)})"] * bool(missing)
        faults += [f"{len(unexpected)} keys do not fit ({first_few(unexpected)})"] * bool(unexpected)
        raise DataError(f"{file.path} does not have the weights of a {kind.__name__}: {', '.join(faults)}.")
    used = {key: value for key, value in weights.items() if key not in skipped}
    return model.float(), _keys_in_network(used, model, prefix), skipped


def _keys_in_network(weights: Mapping[str, Tensor], network: nn.Module, prefix: str) -> dict[str, str]:
    """Key in the file -> key in the network, which transformers does not tell: by its name, else by its value.

    Args:
        prefix: of keys in files, which the network alone lacks.
    """
    state = network.state_dict()
    named = {key: key.removeprefix(prefix) for key in weights if key.removeprefix(prefix) in state}
    left = {key: value for key, value in state.items() if key not in named.values()}
    for key in weights.keys() - named.keys():
        same = (other for other, value in left.items() if torch.equal(weights[key], value))
        named[key] = next(same, "a weight that is made of several")
        left.pop(named[key], None)
    return {key: named[key] for key in weights}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of keys and its progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _image_side(config: Any) -> tuple[int, int] | None:
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        return side, side
    return (int(side[0]), int(side[1])) if isinstance(side, list | tuple) and len(side) == 2 else None


def _in_order(config: Any, images: Tensor) -> dict[str, Tensor]:
    """Arguments by which a masked autoencoder leaves its patches in order: it shuffles them also where it hides none."""
    if not hasattr(config, "mask_ratio"):
        return {}
    count = images.shape[2] // config.patch_size * (images.shape[3] // config.patch_size)
    return {"noise": torch.arange(count, device=images.device, dtype=torch.float32).expand(len(images), count)}


def _prefix_tokens(trunk: nn.Module) -> int:
    """Number of tokens before those of the patches: the class token, and a distillation token or registers."""
    names = [name for name, _ in trunk.named_parameters()]
    registers = int(getattr(trunk.config, "num_register_tokens", 0) or 0)
    return 1 + registers + any(name.endswith("distillation_token") for name in names)
