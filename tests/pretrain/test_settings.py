import pytest

from pretrain.settings import PretrainSettings
from simsiam_eval.errors import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(compile="cuda-graphs", accumulate=2), "--compile cuda-graphs cannot be used with --accumulate"),
        (dict(on_collapse="stop", health_every=0), "--on-collapse stop requires the collapse check"),
        (dict(knn_every=3), "--knn-every requires --val"),
        (dict(knn_temperature=0.2), "--knn-temperature requires --val"),
        (dict(predictor="none", pred_dim=3), "--pred-dim cannot be used with --predictor none"),
        (dict(predictor="none", predictor_bn="none"), "--predictor-bn cannot be used with --predictor none"),
        (dict(stem="imagenet", image_size=16), "too small for the ImageNet stem"),
        (dict(batch_size=9, accumulate=2), "cannot be divided into --accumulate 2 equal parts"),
        (dict(epochs=3, warmup_epochs=4), "--warmup-epochs 4 must not exceed --epochs 3"),
        (dict(checkpoint_every="5 hours"), "--checkpoint-every must be like"),
    ],
)
def test_options_that_contradict_or_change_nothing_are_rejected_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        PretrainSettings(data="x", out="y", **values)


def test_options_that_may_be_combined():
    PretrainSettings(data="x", out="y", val="z", knn_every=3, on_collapse="stop", predictor="none", accumulate=2)
