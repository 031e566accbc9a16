import pytest

from pretrain.settings import PretrainSettings
from simsiam_eval.errors import UsageError


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (dict(compile="cuda-graphs", accumulate=2), "--compile cuda-graphs is not for --accumulate"),
        (dict(on_collapse="stop", health_every=0), "--on-collapse stop needs looks"),
        (dict(knn_every=3), "--knn-every is of the online kNN: give --val"),
        (dict(knn_temperature=0.2), "--knn-temperature is of the online kNN"),
        (dict(predictor="none", pred_dim=3), "--pred-dim is of the predictor"),
        (dict(predictor="none", predictor_bn="none"), "--predictor-bn is of the predictor"),
        (dict(stem="imagenet", image_size=16), "too small for the ImageNet stem"),
        (dict(batch_size=9, accumulate=2), "cannot be cut into --accumulate 2 equal parts"),
        (dict(epochs=3, warmup_epochs=4), "more than the 3 --epochs"),
        (dict(every="5 hours"), "--every must be like"),
    ],
)
def test_what_cannot_be_or_would_change_nothing_is_refused_by_name(values, says):
    with pytest.raises(UsageError, match=says):
        PretrainSettings(data="x", out="y", **values)


def test_what_may_stand_together():
    PretrainSettings(data="x", out="y", val="z", knn_every=3, on_collapse="stop", predictor="none", accumulate=2)
