"""The command line: options in, one call, result out. torch is imported only when a command runs."""

from __future__ import annotations

import importlib.metadata

import click

from pretrain.settings import PretrainSettings
from simsiam_eval.commands.options import command, group
from simsiam_eval.commands.record import Result
from tasks.compare.compare import CompareSettings, compare
from tasks.convert import ConvertSettings, convert
from tasks.demo import DemoSettings, demo
from tasks.detection.detect import detect
from tasks.detection.settings import DetectSettings
from tasks.duplicates import DuplicatesSettings, duplicates
from tasks.export import ExportSettings, export
from tasks.extract import ExtractSettings, extract
from tasks.inspect import InspectSettings, inspect
from tasks.knn import KnnSettings, knn
from tasks.linear.linear_eval import linear_eval
from tasks.linear.predict import PredictSettings, predict
from tasks.linear.settings import LinearEvalSettings
from tasks.merge import MergeSettings, merge
from tasks.rank import RankSettings, rank
from tasks.retrieval.build import RetrievalBuildSettings, retrieval_build
from tasks.retrieval.evaluate import RetrievalEvalSettings, retrieval_eval
from tasks.retrieval.search import RetrievalSearchSettings, retrieval_search
from tasks.verify import VerifySettings, verify


def _pretrain(settings: PretrainSettings) -> Result:
    from pretrain.train import pretrain

    return pretrain(settings)


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"simsiam-eval {importlib.metadata.version('simsiam-eval')}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def main() -> None:
    """Pretrain a SimSiam encoder, find out whether it is any good, put it to work."""


main.add_command(
    command("demo", DemoSettings, lambda settings: demo(settings, lambda **run: _pretrain(PretrainSettings(**run))))
)
main.add_command(command("pretrain", PretrainSettings, _pretrain))
main.add_command(command("inspect", InspectSettings, inspect))
main.add_command(command("convert", ConvertSettings, convert))
main.add_command(command("extract", ExtractSettings, extract))
main.add_command(command("verify", VerifySettings, verify))
main.add_command(command("merge", MergeSettings, merge))
main.add_command(command("export", ExportSettings, export))
main.add_command(command("linear-eval", LinearEvalSettings, linear_eval))
main.add_command(command("predict", PredictSettings, predict))
main.add_command(command("knn", KnnSettings, knn))
main.add_command(
    group(
        "retrieval",
        "Find images by their features: measure it, build an index, search.",
        command("retrieval eval", RetrievalEvalSettings, retrieval_eval),
        command("retrieval build", RetrievalBuildSettings, retrieval_build),
        command("retrieval search", RetrievalSearchSettings, retrieval_search),
    )
)
main.add_command(command("duplicates", DuplicatesSettings, duplicates))
main.add_command(command("compare", CompareSettings, compare))
main.add_command(command("rank", RankSettings, rank))
main.add_command(command("detect", DetectSettings, detect))

if __name__ == "__main__":
    main(prog_name="cli.py")
