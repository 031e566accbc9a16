"""Find the one checkpoint in a folder, and what the files beside it say about the architecture."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_eval.encoders.checkpoint_files.distributed_file import METADATA
from simsiam_eval.encoders.checkpoint_files.yaml_file import read_yaml
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import CHECKPOINT_ENDINGS
from simsiam_eval.wording import first_few

INDEX_SUFFIX = ".index.json"
HUB_NAMES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
_HUB_FILES = tuple(name + suffix for name in HUB_NAMES for suffix in ("", INDEX_SUFFIX))
_BESIDE_THE_MODEL = re.compile(r"optimizer|scheduler|scaler|random_state|rng_state|training_args|_optim_states")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
_DEEPSPEED = "mp_rank_00_model_states.pt"
# The files that say which architecture the weights beside them have, and the keys by which such a file is known.
IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # of transformers
_SIDECARS = ("config.json", "args.json", *IMAGE_PROCESSORS)
_YAML_SIDECARS = ("config.yaml", "config.yml")  # of detectron2 and maskrcnn-benchmark
_YAML_KEYS = {"MODEL", "model"}
_SIDECAR_KEYS = {
    *("architecture", "architectures", "model_type", "pretrained_cfg", "backbone", "arch", "model", "method"),
    "encoder_name",  # segmentation-models
    *("image_processor_type", "feature_extractor_type", "image_processor", "image_mean"),
}
_LARGEST_JSON = 2**26


@dataclass(frozen=True)
class Shards:
    """The files of one set of weights.

    Attributes:
        files: paths.
        keys: of the tensors in all of them.
    """

    files: tuple[Path, ...]
    keys: frozenset[str]


def checkpoint_in(folder: Path, name: str) -> Path:
    """The path of the only checkpoint in a folder: a file, an index of shards, or a folder of a distributed checkpoint.

    Raises:
        DataError: there is none, or more than one.
    """
    if (folder / METADATA).is_file():
        return folder
    for hub_name in _HUB_FILES:
        if (folder / hub_name).is_file():
            return folder / hub_name
    latest = folder / "latest"  # DeepSpeed's name of the newest sub-folder
    if latest.is_file():
        newest = folder / Path(latest.read_text(errors="replace").strip()[:255]).name
        if newest != folder and newest.is_dir():
            return checkpoint_in(newest, f"{name}/{newest.name}")
    _reject_deepspeed_parts(folder, name)
    found = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.lower().endswith(CHECKPOINT_ENDINGS) and not _BESIDE_THE_MODEL.search(path.name) and path.is_file()
    )
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise DataError(f"{name} is a folder with {len(found)} checkpoints ({first_few(found)}); give one of them.")
    raise DataError(f"{name} is a folder without a checkpoint; give a file, such as checkpoint_0099.pth.tar.")


def _reject_deepspeed_parts(folder: Path, name: str) -> None:
    parts = [path.name for path in folder.glob("*_model_states.pt")]
    if len(parts) > 1:
        raise DataError(
            f"{name} has a model that DeepSpeed split into {len(parts)} files ({first_few(sorted(parts), 2)}); "
            "join them with DeepSpeed's `python zero_to_fp32.py FOLDER pytorch_model.bin` and give that file."
        )


def reject_part(path: Path, name: str) -> None:
    """DataError if the file's name says that it is only a part of a checkpoint."""
    if path.name.endswith("_optim_states.pt"):
        raise DataError(
            f"{name} is DeepSpeed's state of the optimizer without the model's weights; "
            f"give the file that ends in _model_states.pt, such as {_DEEPSPEED}."
        )
    if path.suffix == ".distcp":
        raise DataError(f"{name} is a part of a distributed checkpoint; give its folder.")
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard["count"]) > 1:
        index = f"{shard['stem']}{shard['ending']}{INDEX_SUFFIX}"
        place = (
            f"give {index} beside it" if (path.parent / index).is_file() else f"give the folder that has {index} too"
        )
        raise DataError(
            f"{name} is one of {int(shard['count'])} shards, with a part of the weights; {place} and all shards."
        )


def read_index(path: Path, name: str) -> Shards | None:
    """The shards that an index lists; None if the file is not an index.

    Raises:
        DataError: a shard is missing.
    """
    content = _json(path)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        return None
    files = sorted(set(places.values()))
    missing = [file for file in files if Path(file).name != file or not (path.parent / file).is_file()]
    if missing:
        raise DataError(
            f"{name} lists {len(files)} shards, but {first_few(missing)} is missing beside it; add all shards."
        )
    return Shards(tuple(path.parent / file for file in files), frozenset(places))


def read_configs(place: Path) -> dict[str, Mapping[str, Any]]:
    """File name -> content of each file beside the weights that is about a model.

    These are config.json, args.json, those of transformers' image processors, config.yaml, config.yml and, for NAME.pth,
    NAME.yaml.

    Args:
        place: the weights, a file or a folder.

    Raises:
        DataError: one of them is damaged, so that what it says about the architecture would be missed.
    """
    folder = place if place.is_dir() else place.parent
    found: dict[str, Mapping[str, Any]] = {}
    for name in _SIDECARS:
        path = folder / name
        content = _json(path)
        if content is None and path.is_file() and path.stat().st_size <= _LARGEST_JSON:
            raise DataError(
                f"{path} beside the weights cannot be read as JSON; correct it, or move the weights elsewhere."
            )
        if isinstance(content, dict) and content.keys() & _SIDECAR_KEYS:
            found[name] = content
    for name in dict.fromkeys((*_YAML_SIDECARS, f"{place.stem}.yaml")):
        try:
            content = read_yaml(folder / name)
        except ValueError as error:
            raise DataError(
                f"{folder / name} beside the weights cannot be read as YAML; correct it, or move the weights elsewhere."
            ) from error
        if isinstance(content, dict) and any(isinstance(content.get(key), dict) for key in _YAML_KEYS):
            found[name] = content
    return found


def _json(path: Path) -> Any:
    """The content of a JSON file; None if it cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_JSON:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
