"""The table of commands: name, section of `--help`, summary, settings class and function of each command.

The command line, the config file, docs/settings.md and the functions of `import simsiam_eval` all use it. Classes and
functions are named by strings and imported when needed, so that `--help` imports no command.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from simsiam_eval.commands.record import Result
    from simsiam_eval.commands.settings import Settings

_HOME = Path(__file__).resolve().parents[2]  # the folder that holds simsiam_eval, pretrain, tasks and cli.py


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Name on the command line; if it has two words, the first is the name of its group.
        section: Heading in the program's `--help`.
        summary: One line for the program's `--help`.
        settings: Settings class, as "module:name".
        function: Function that runs it, settings -> Result, as "module:name".
        uses: Other commands that `function` takes as keyword arguments, each a callable with keywords.
        python: Name of the Python function, where the command's name is a keyword of Python.
    """

    name: str
    section: str
    summary: str
    settings: str
    function: str
    uses: tuple[str, ...] = ()
    python: str | None = None

    @property
    def python_name(self) -> str:
        """Name of the Python function, such as `retrieval_eval`."""
        return self.python or self.name.replace("-", "_").replace(" ", "_")

    def settings_class(self) -> type[Settings]:
        """Import the settings class; does not import torch."""
        settings_class: type[Settings] = load(self.settings)
        return settings_class

    def run(self, settings: Settings) -> Result:
        """Run the command with its settings, if its outputs can be written; with --num-gpus in that many processes."""
        from simsiam_eval.commands.settings import ProcessSettings
        from simsiam_eval.runtime.launch import under_torchrun

        if isinstance(settings, ProcessSettings):
            under_torchrun(settings.num_gpus, settings.device)
        settings.try_outputs()
        run: Callable[..., Result] = load(self.function)
        return run(settings, **{COMMANDS[name].python_name: partial(COMMANDS[name]) for name in self.uses})

    def __call__(self, *values: Any, **named: Any) -> Result:
        """Run the command with the fields of its settings as keywords; those that are positional on the command line may
        be given by position."""
        return self.run(self.settings_class().from_arguments(self.python_name, values, named))


_TABLE = (
    Command(
        "demo",
        "First steps",
        "Run the full pipeline on handwritten digits in a few minutes, without a GPU.",
        "tasks.demo:DemoSettings",
        "tasks.demo:demo",
        uses=("pretrain", "report"),
    ),
    Command(
        "pretrain",
        "Encoders",
        "Pretrain an encoder with SimSiam.",
        "pretrain.settings:PretrainSettings",
        "pretrain.run:pretrain",
    ),
    Command(
        "inspect",
        "Encoders",
        "Show what a checkpoint contains.",
        "tasks.inspect:InspectSettings",
        "tasks.inspect:inspect",
    ),
    Command(
        "convert",
        "Encoders",
        "Convert a checkpoint's encoder to another library's format.",
        "tasks.convert:ConvertSettings",
        "tasks.convert:convert",
    ),
    Command(
        "extract",
        "Features",
        "Extract features of images into a feature file.",
        "tasks.extract:ExtractSettings",
        "tasks.extract:extract",
    ),
    Command(
        "import",
        "Features",
        "Import features computed by another program into a feature file.",
        "tasks.import_features:ImportSettings",
        "tasks.import_features:import_features",
        python="import_features",
    ),
    Command(
        "verify",
        "Features",
        "Check a feature file, also against its encoder and images.",
        "tasks.verify:VerifySettings",
        "tasks.verify:verify",
    ),
    Command(
        "merge",
        "Features",
        "Join the parts of an extraction into one feature file.",
        "tasks.merge:MergeSettings",
        "tasks.merge:merge",
    ),
    Command(
        "export",
        "Features",
        "Export a feature file to Parquet, NumPy or FiftyOne.",
        "tasks.export.export:ExportSettings",
        "tasks.export.export:export",
    ),
    Command(
        "linear-eval",
        "Classification",
        "Train and evaluate a linear classifier on frozen features.",
        "tasks.linear.settings:LinearEvalSettings",
        "tasks.linear.linear_eval:linear_eval",
    ),
    Command(
        "predict",
        "Classification",
        "Classify images with a head saved by linear-eval.",
        "tasks.linear.predict:PredictSettings",
        "tasks.linear.predict:predict",
    ),
    Command(
        "knn",
        "Classification",
        "Evaluate kNN accuracy, for several k and temperatures at once.",
        "tasks.knn:KnnSettings",
        "tasks.knn:knn",
    ),
    Command(
        "retrieval eval",
        "Search",
        "Evaluate retrieval: recall@k, precision@k, mAP and more.",
        "tasks.retrieval.evaluate:RetrievalEvalSettings",
        "tasks.retrieval.evaluate:retrieval_eval",
    ),
    Command(
        "retrieval build",
        "Search",
        "Build an index of a gallery.",
        "tasks.retrieval.build:RetrievalBuildSettings",
        "tasks.retrieval.build:retrieval_build",
    ),
    Command(
        "retrieval search",
        "Search",
        "Find the most similar images in a gallery.",
        "tasks.retrieval.search:RetrievalSearchSettings",
        "tasks.retrieval.search:retrieval_search",
    ),
    Command(
        "serve",
        "Search",
        "Search a gallery on a local web page and through an HTTP API.",
        "tasks.serve.settings:ServeSettings",
        "tasks.serve.serve:serve",
    ),
    Command(
        "duplicates",
        "Search",
        "Find near-duplicates within a set, or between training and test images.",
        "tasks.duplicates:DuplicatesSettings",
        "tasks.duplicates:duplicates",
    ),
    Command(
        "suspects",
        "Search",
        "Rank likely wrong labels, outliers and near-duplicates of a labeled set.",
        "tasks.suspects.settings:SuspectsSettings",
        "tasks.suspects.suspects:suspects",
    ),
    Command(
        "compare",
        "Comparison",
        "Compare encoders on the same images (paired).",
        "tasks.compare.compare:CompareSettings",
        "tasks.compare.compare:compare",
    ),
    Command(
        "rank",
        "Comparison",
        "Measure feature quality without labels.",
        "tasks.rank:RankSettings",
        "tasks.rank:rank",
    ),
    Command(
        "detect",
        "Detection",
        "Fine-tune and evaluate an object detector initialized from the encoder.",
        "tasks.detection.settings:DetectSettings",
        "tasks.detection.detect:detect",
    ),
    Command(
        "atlas",
        "Overview",
        "Write a table of a large set for an interactive map: coordinates, neighbors, votes, suspects.",
        "tasks.atlas.settings:AtlasSettings",
        "tasks.atlas.atlas:atlas",
    ),
    Command(
        "runs",
        "Overview",
        "List the records of all runs below folders in one table.",
        "tasks.runs:RunsSettings",
        "tasks.runs:runs",
    ),
    Command(
        "report",
        "Overview",
        "Write one HTML page about an encoder: scores, map, confusions, suspects.",
        "tasks.report.settings:ReportSettings",
        "tasks.report.report:report",
        uses=("extract", "linear-eval", "retrieval eval", "rank"),
    ),
)
# By name, in the order of the full pipeline, as in `--help` and the docs.
COMMANDS = {command.name: command for command in _TABLE}
# Summaries of command groups, by name.
GROUPS = {"retrieval": "Retrieve similar images: evaluate, build an index, search."}


def load(target: str) -> Any:
    """The object "module:name" of this project, even if the working folder has a module with the same name.

    Raises:
        UsageError: the running program has already imported another module of that name.
    """
    module_name, _, attribute = target.partition(":")
    _import_from_home(module_name.partition(".")[0])
    return getattr(importlib.import_module(module_name), attribute)


def _import_from_home(name: str) -> None:
    """Import the module `name` next to simsiam_eval: a user's own `tasks.py` may come first on sys.path."""
    spec = importlib.machinery.PathFinder.find_spec(name, [str(_HOME)])
    assert spec is not None and spec.origin is not None and spec.loader is not None, name
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
        if origin is None or not Path(origin).resolve().samefile(spec.origin):
            raise UsageError(
                f"simsiam-eval needs its own module {name!r}, but another module with that name is already imported "
                f"({origin}): rename that module."
            )
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
