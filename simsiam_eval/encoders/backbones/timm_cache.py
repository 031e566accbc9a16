"""timm's own weights of a network, in the local cache of Hugging Face or torch, or downloaded where that is allowed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from simsiam_eval.encoders.checkpoint_files.folder import HUB_NAMES
from simsiam_eval.errors import DataError


def cached_weights(name: str, config: Any, download: bool) -> Path:
    """The file with timm's weights of a network, in the local cache of Hugging Face or torch.

    Args:
        config: from `timm_config`.
        download: whether to download it if it is not there.

    Raises:
        DataError: timm has no weights, or they are not in the cache and `download` is False, or cannot be downloaded.
    """
    if not (config.hf_hub_id or config.url):
        raise DataError(f"timm has no trained weights for {name}; give timm:{name}@FILE with your own.")
    for path in _cached_files(config):
        if path.exists():
            return path
    if not download:
        raise DataError(
            f"The weights of {name} are not in the local cache; give timm:{name}@FILE, or --download to download them."
        )
    try:
        return _download(config)
    except Exception as error:  # of the network, in many kinds
        raise DataError(f"The weights of {name} could not be downloaded ({error}); give timm:{name}@FILE.") from error


def _cached_files(config: Any) -> list[Path]:
    """Where the weights are if they are in a cache."""
    files = []
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for filename in _hub_files(config):
            cached = try_to_load_from_cache(config.hf_hub_id, filename)
            files += [Path(cached)] if isinstance(cached, str) else []
    if config.url:
        files.append(_torch_cache(config.url))
    return files


def _hub_files(config: Any) -> tuple[str, ...]:
    return (config.hf_hub_filename,) if config.hf_hub_filename else HUB_NAMES


def _torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _download(config: Any) -> Path:
    if config.hf_hub_id:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for filename in _hub_files(config):
            try:
                return Path(hf_hub_download(config.hf_hub_id, filename))
            except EntryNotFoundError:
                continue
        raise DataError(f"{config.hf_hub_id} has no {' or '.join(_hub_files(config))}")
    path = _torch_cache(config.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(config.url, os.fspath(path), progress=False)
    return path
