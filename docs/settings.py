"""Writes docs/settings.md from the settings dataclasses: python docs/settings.py"""

import dataclasses
from pathlib import Path

from pretrain.recipe import PretrainSettings
from simsiam_eval.command import default_text
from simsiam_eval.settings import Settings, option_name
from tasks.compare import CompareSettings
from tasks.convert import ConvertSettings
from tasks.demo import DemoSettings
from tasks.detection.settings import DetectSettings
from tasks.duplicates import DuplicatesSettings
from tasks.export import ExportSettings
from tasks.extract import ExtractSettings
from tasks.inspect import InspectSettings
from tasks.knn import KnnSettings
from tasks.linear_settings import LinearEvalSettings
from tasks.merge import MergeSettings
from tasks.predict import PredictSettings
from tasks.rank import RankSettings
from tasks.retrieval.build import RetrievalBuildSettings
from tasks.retrieval.evaluate import RetrievalEvalSettings
from tasks.retrieval.search import RetrievalSearchSettings
from tasks.verify import VerifySettings

COMMANDS: dict[str, type[Settings]] = {
    "demo": DemoSettings,
    "pretrain": PretrainSettings,
    "inspect": InspectSettings,
    "convert": ConvertSettings,
    "extract": ExtractSettings,
    "verify": VerifySettings,
    "merge": MergeSettings,
    "export": ExportSettings,
    "linear-eval": LinearEvalSettings,
    "predict": PredictSettings,
    "knn": KnnSettings,
    "retrieval eval": RetrievalEvalSettings,
    "retrieval build": RetrievalBuildSettings,
    "retrieval search": RetrievalSearchSettings,
    "duplicates": DuplicatesSettings,
    "compare": CompareSettings,
    "rank": RankSettings,
    "detect": DetectSettings,
}


def page() -> str:
    """The Markdown of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Written by `python docs/settings.py`; the same names, with `_` for `-`, are TOML keys.",
        "",
        "Lists of numbers or given words are written with commas or option by option: `-k 20,200` is `-k 20 -k 200`.",
        "In TOML they are lists: `k = [20, 200]`.",
    ]
    for name, settings_class in COMMANDS.items():
        lines += [
            "",
            f"## {name}",
            "",
            settings_class.__doc__ or "",
            "",
            "| option | default | what it is |",
            "| --- | --- | --- |",
        ]
        for field in dataclasses.fields(settings_class):
            spelling = field.metadata["short"] or option_name(field.name)
            default = default_text(field, settings_class).replace("None", "-")
            lines.append(f"| `{spelling}` | {default} | {field.metadata['help']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
