"""The architecture that a checkpoint's settings name, and whether its weights are of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from simsiam_eval.encoders.recognition.file_settings import Settings, mappings_in
from simsiam_eval.encoders.recognition.networks import Network, OtherArchitecture
from simsiam_eval.encoders.timm_library import plain_name

# Settings that name the architecture in training scripts. A name under any other may be of a teacher or a file.
_SETTINGS = {
    "arch", "architecture", "backbone", "backbone_name", "base_encoder", "base_model", "encoder", "encoder_name",
    "feature_extractor", "model", "model_name", "model_type", "name", "network",
}  # fmt: skip
# Anti-aliased ResNets of timm have the keys and shapes of plain ones.
_ANTI_ALIASED = re.compile(r"(?:\w*_)?resnet(?:aa|blur)(\d+)")
# Names of ResNets and their relatives in timm and other libraries. Other words before or after, such as those of a training
# method or data set, do not fit.
_RESNET = re.compile(
    r"(?:wide_|legacy_|cspr?|ig_|tv_)?(?:se|eca|sk|gc|ecase|seg)?_?res(?:net|next|nest|2net)(?:aa|blur|rs|v2)?_?\d+[a-z]{0,2}"
    r"(?:_\d+x\d+[a-z]{0,2})?"
)


def reject_named_networks(settings: Settings, network: Network, where: str) -> None:
    """Raise OtherArchitecture if the settings name a network with these keys and shapes that computes other features.

    Args:
        where: the start of the message, such as the file's path.
    """
    named = list(_names(settings))
    is_named_plain = any(name == network.arch for key, _, name in named if key in _SETTINGS)
    for key, source, name in named:
        other = _ANTI_ALIASED.fullmatch(name)
        if other is None or network.arch != f"resnet{other[1]}" or (is_named_plain and key not in _SETTINGS):
            continue
        raise OtherArchitecture(
            f"{where} says in {source} that its architecture is {name}, which has the keys of {network.arch} and computes "
            "other features.",
            name,
        )


def unfitting_names(settings: Settings, network: Network) -> list[str]:
    """Sentences on an architecture that the settings name and that the weights do not have."""
    named = [(source, name) for key, source, name in _names(settings) if key in _SETTINGS]
    if any(name == network.arch for _, name in named):
        return []
    unfitting = {name: source for source, name in named if _is_architecture(name)}
    return [
        f"Assumed {network.arch}, whose keys and shapes the weights have; the file says {name} in {source}."
        for name, source in unfitting.items()
    ]


def stated_names(settings: Settings) -> list[str]:
    """What the settings that name an architecture say."""
    return [name for key, _, name in _names(settings) if key in _SETTINGS]


def _is_architecture(name: str) -> bool:
    """Whether a name is that of an architecture, and not of a method, a data set or an experiment."""
    return any(pattern.fullmatch(name) for pattern in (_RESNET, _ANTI_ALIASED)) or name in _classifiers()


@cache
def _classifiers() -> frozenset[str]:
    from torchvision import models  # imports torch's compiler: only for names that are not those of ResNets

    return frozenset(models.list_models(module=models))


def _names(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(setting, where it stands, name of an architecture that it may be) of every text in the settings."""
    for source, value in settings:
        for mapping in mappings_in(value):
            for key, text in mapping.items():
                if isinstance(text, str) and len(text) < 100:
                    yield key, source if key == source else f"{source}'s {key}", plain_name(text)
