import pytest

from simsiam_eval.encoders.backbones.loading import load_backbone
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import UsageError


@pytest.mark.parametrize("option", [{"branch": "teacher"}, {"stem_padding": 2}, {"channel_order": "bgr"}])
def test_options_of_a_folder_of_transformers_are_rejected(option):
    [name] = option
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} cannot be used with hf:folder, "):
        load_backbone(EncoderChoice("hf:folder", **option))
