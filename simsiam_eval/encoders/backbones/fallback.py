"""ResNets that torchvision does not have, in checkpoints given by their path: transformers or timm computes them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from simsiam_eval.encoders.backbones.timm_architectures import timm_architectures_for
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.recognition.networks import OtherArchitecture
from simsiam_eval.encoders.timm_library import import_timm
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import HUGGING_FACE, TIMM


def library_choice(choice: EncoderChoice, failure: OtherArchitecture) -> EncoderChoice:
    """The same encoder, as one of the library that has its architecture.

    Raises:
        OtherArchitecture: the library is missing, or none has such a network.
        UsageError: timm has several networks with these keys and shapes, and nothing names one.
    """
    if failure.is_of_transformers:
        if importlib.util.find_spec("transformers") is None:
            raise OtherArchitecture(
                f'{failure} transformers computes it as {HUGGING_FACE}{choice.checkpoint}: pip install "simsiam-eval[hf]".'
            ) from failure
        return replace(choice, checkpoint=f"{HUGGING_FACE}{choice.checkpoint}")
    names = _names(choice, failure)
    if not names:
        raise failure
    if len(names) > 1:
        raise UsageError(
            f"{choice.checkpoint} has the keys and shapes of several networks of timm that compute different features; "
            f"choose one with --arch: {', '.join(names)}."
        ) from failure
    return replace(
        choice, checkpoint=f"{TIMM}{names[0]}@{choice.checkpoint}", arch=None, branch=failure.branch or choice.branch
    )


def _names(choice: EncoderChoice, failure: OtherArchitecture) -> list[str]:
    """The networks of timm that the checkpoint may have; none without timm."""
    try:
        timm = import_timm()
    except UsageError as missing:
        raise OtherArchitecture(f"{failure} {missing}", failure.arch) from failure
    named = choice.arch or failure.arch
    if named is not None:
        return [named] if timm.is_model(named) else []
    # timm expects its own names of weights, which are torchvision's.
    trunks = [trunk for trunk in failure.trunks if trunk.naming == "torchvision"]
    names = next((names for trunk in trunks if (names := timm_architectures_for(trunk.shapes))), [])
    stated = [name for name in names if name in failure.stated]
    return stated if len(set(stated)) == 1 else names
