"""Files that the real toolkits write here, loaded and compared with the toolkits' own features.

    pip install -e ".[test,test-toolkits]" && pytest -m toolkits

Without `-m toolkits` only some cases run whose packages `[test]` installs.
"""

import pytest

from tests.encoders.cases import build
from tests.encoders.outcomes import FAULT, outcome_of
from tests.encoders.toolkits.table import BUILDERS

QUICK = (
    "cifar_stem_padding2_chosen",
    "gzip",
    "module_of_script",
    "object_average_meter",
    "object_dict_subclass",
    "precision_float16",
    "shortcut_for_downsample",
    "timm_resnet18_channels1",
    "torchscript_trace",
    "torchvision_model_ema",
    "two_trunks_branch",
)


def check(name, folder):
    builder = BUILDERS[name]
    if builder.missing:
        pytest.skip(f"{name} needs {' and '.join(builder.missing)}")
    outcome = outcome_of(build(builder, folder), folder)
    assert outcome.result != FAULT, outcome.faults


@pytest.mark.parametrize("name", QUICK)
def test_quick_case(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.toolkits
@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in QUICK])
def test_toolkit(name, tmp_path):
    check(name, tmp_path)
