"""simsiam-eval for Python: load an encoder, extract its features, evaluate them; every command as a function.

    import simsiam_eval as se

    encoder = se.load_encoder("checkpoint_0099.pth.tar")
    train, test = se.extract(encoder, "photos/train"), se.open_features("test.h5")
    se.KNNClassifier(n_neighbors=20).fit(*train).score(*test)
    se.knn(train="train.h5", test="test.h5", k=20).metrics["top1"]

Names are imported on first use, so that `import simsiam_eval` is fast, and a command soon handles Ctrl-C itself.
"""

import os

TYPE_CHECKING = False  # of `typing`, whose import takes longer than everything here

# PyTorch's OpenMP threads spin while they wait for each other, which slows down every other process on the machine:
# pretraining next to another busy process on two cores ran four times slower. torch reads it on import, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from collections.abc import Callable

    # `as` marks what is exported: a type checker cannot read the computed __all__.
    from simsiam_eval.api import (
        PretrainedEncoder as PretrainedEncoder,
        extract as extract,
        load_encoder as load_encoder,
        open_features as open_features,
    )
    from simsiam_eval.commands.record import Result as Result
    from simsiam_eval.errors import DataError as DataError, UsageError as UsageError, UserError as UserError
    from simsiam_eval.features.table import Features as Features
    from simsiam_eval.linear.estimator import LinearProbe as LinearProbe
    from simsiam_eval.linear.lars import LARS as LARS
    from simsiam_eval.metrics.similarity import cka as cka
    from simsiam_eval.metrics.spread import collapse_std as collapse_std, rankme as rankme
    from simsiam_eval.neighbors.estimator import KNNClassifier as KNNClassifier
    from simsiam_eval.neighbors.ranking import retrieval_metrics as retrieval_metrics

    __version__: str
    # The commands, as `command_function` makes them; a test compares them with the table.
    demo: Callable[..., Result]
    pretrain: Callable[..., Result]
    inspect: Callable[..., Result]
    convert: Callable[..., Result]
    import_features: Callable[..., Result]
    verify: Callable[..., Result]
    merge: Callable[..., Result]
    export: Callable[..., Result]
    linear_eval: Callable[..., Result]
    predict: Callable[..., Result]
    knn: Callable[..., Result]
    retrieval_eval: Callable[..., Result]
    retrieval_build: Callable[..., Result]
    retrieval_search: Callable[..., Result]
    duplicates: Callable[..., Result]
    serve: Callable[..., Result]
    suspects: Callable[..., Result]
    compare: Callable[..., Result]
    rank: Callable[..., Result]
    detect: Callable[..., Result]
    runs: Callable[..., Result]
    report: Callable[..., Result]
    atlas: Callable[..., Result]

_MODULE_OF = {
    "load_encoder": "api",
    "extract": "api",
    "open_features": "api",
    "PretrainedEncoder": "api",
    "Features": "features.table",
    "KNNClassifier": "neighbors.estimator",
    "LinearProbe": "linear.estimator",
    "LARS": "linear.lars",
    "retrieval_metrics": "neighbors.ranking",
    "rankme": "metrics.spread",
    "cka": "metrics.similarity",
    "collapse_std": "metrics.spread",
    "Result": "commands.record",
    "UserError": "errors",
    "DataError": "errors",
    "UsageError": "errors",
}

if not TYPE_CHECKING:  # or every name would exist for a type checker

    def __getattr__(name: str) -> object:
        import importlib

        from simsiam_eval.commands.table import COMMANDS

        names = {command.python_name: command_name for command_name, command in COMMANDS.items()}
        if name == "__all__":
            # `extract` is defined in api.py: it also accepts a loaded encoder and returns the features.
            value = ["__version__", *(known for known in _MODULE_OF if known not in names), *names]
        elif name == "__version__":
            from simsiam_eval.runtime.machine import versions

            value = versions()["simsiam-eval"]
        elif name in _MODULE_OF:
            value = getattr(importlib.import_module(f"simsiam_eval.{_MODULE_OF[name]}"), name)
        elif name in names:
            from simsiam_eval.commands.function import command_function

            value = command_function(names[name])
        else:
            raise AttributeError(f"module 'simsiam_eval' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__getattr__("__all__"))
