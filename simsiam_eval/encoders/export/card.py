"""The model card of a folder for the Hugging Face Hub: README.md, written from what the checkpoint records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simsiam_eval.encoders.export.writer import Conversion

_CARD = """\
---
library_name: {{ library }}
pipeline_tag: image-feature-extraction
tags:
- image-feature-extraction
- self-supervised
- simsiam-eval
---
# {{ title }}

An image encoder without a classifier: {{ arch }}, {{ width }} features per image, taken from a checkpoint of the family
{{ family }}{% if epoch is not none %} after {{ epoch }} epochs{% endif %}.

## Use

```python
{% for line in code %}{{ line }}
{% endfor %}```

## Preprocessing

{{ preprocessing }}
{% if training %}
## Training

| setting | value |
| --- | --- |
{% for name, value in training %}| {{ name }} | {{ value }} |
{% endfor %}{% endif %}
## Weights

SHA-256 of the weights, as `simsiam-eval inspect` prints it: `{{ sha256 }}`.
{% if compared %}
Compared with the encoder on {{ compared.compared_images }} images by {{ compared.compared_with }}: largest difference of a
feature {{ compared.largest_difference }}, smallest cosine similarity {{ compared.min_cosine }}.
{% endif %}
Written by {{ written_by }}.
"""
# Settings of a pretraining run that readers of a card want to know; what names files of a machine is left out.
_TRAINING = (
    "preset", "epochs", "batch_size", "lr", "momentum", "weight_decay", "warmup_epochs", "proj_dim", "pred_dim",
    "image_size", "crop_area", "jitter", "jitter_hue", "grayscale", "blur", "flip", "seed", "precision",
)  # fmt: skip


def model_card(
    conversion: Conversion, library: str, title: str, code: Sequence[str], metadata: Mapping[str, str]
) -> str:
    """The text of README.md.

    Args:
        conversion: what is written.
        library: as the Hub names it.
        title: heading.
        code: lines that load the model.
        metadata: of the file, with the comparison if there is one.
    """
    from jinja2 import Environment

    report = conversion.report
    template = Environment(trim_blocks=False, keep_trailing_newline=True).from_string(_CARD)
    return template.render(
        library=library,
        title=title,
        arch=report.arch,
        width=conversion.encoder.width,
        family=report.family,
        epoch=report.epoch,
        code=code,
        preprocessing=_preprocessing_sentence(conversion),
        training=_training(report.metadata or {}),
        sha256=report.weights_sha256,
        compared=metadata if "compared_with" in metadata else None,
        written_by=metadata["written_by"],
    )


def _preprocessing_sentence(conversion: Conversion) -> str:
    chosen = conversion.preprocessing
    sizes = (
        f"Resize the whole image to {chosen.crop} x {chosen.crop} pixels"
        if chosen.squash
        else f"Resize the short side to {chosen.resize} pixels ({chosen.interpolation}, antialiased), crop the center, "
        f"{chosen.crop} x {chosen.crop} pixels"
    )
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (chosen.mean, chosen.std))
    return f"{sizes}, scale to [0, 1], subtract the mean ({mean}) and divide by the standard deviation ({std})."


def _training(metadata: Mapping[str, Any]) -> list[tuple[str, Any]]:
    settings = metadata.get("settings")
    if not isinstance(settings, Mapping):
        return []
    return [(name, settings[name]) for name in _TRAINING if settings.get(name) is not None]
