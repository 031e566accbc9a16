"""`linear-eval`: a linear classifier on frozen features, by SimSiam's LARS protocol (paper, App. A)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from simsiam_eval.errors import DataError
from simsiam_eval.result import Result, Table, percent, provenance
from simsiam_eval.settings import EvaluationSettings, setting


@dataclass(frozen=True, kw_only=True)
class LinearEvalSettings(EvaluationSettings):
    """Train a linear classifier on the frozen features of the training set and report it on the test set."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "simsiam-code": {"lr": 0.1, "batch_size": 4096, "epochs": 90},
        "simsiam-paper": {"lr": 0.02, "batch_size": 4096, "epochs": 90},
        # Not published: for sets of a few thousand images, where 90 epochs of one full batch are 90 steps.
        "small": {"lr": 10.0, "batch_size": 256, "epochs": 100},
    }

    preset: str = setting("simsiam-code", choices=tuple(PRESETS), help="Protocol: whose lr, batch and epochs.")
    lars: bool = setting(True, help="LARS (the trust ratio of LARC, clip off) around SGD, as the reference's --lars.")
    lr: float = setting(
        by_preset=True, above=0, help="Learning rate per 256 images: the optimiser's is lr x batch / 256."
    )
    batch_size: int = setting(by_preset=True, at_least=1, help="Images per step.")
    epochs: int = setting(by_preset=True, at_least=1, help="Passes over the training features.")
    momentum: float = setting(0.9, at_least=0, help="Momentum of SGD, below 1.")
    weight_decay: float = setting(0.0, at_least=0, help="Weight decay (the protocol has none).")

    def check(self) -> None:
        super().check()
        if self.momentum >= 1:
            from simsiam_eval.errors import UsageError

            raise UsageError(f"--momentum must be below 1, got {self.momentum}.")


def linear_eval(settings: LinearEvalSettings) -> Result:
    """Run `linear-eval` from features of one centre crop per image.

    The accuracy is that of the last epoch; `top1_best_epoch`, the best on the test set, is what the reference's
    script prints and stands beside it only for comparison.

    Raises:
        UsageError, DataError: the features cannot be used, or there is one class only.
    """
    import numpy as np
    import torch

    from simsiam_eval.device import resolve_device
    from simsiam_eval.feature_cache import described_features, train_and_test_features
    from simsiam_eval.linear import HeadRecipe, correct_predictions, train_linear_head
    from simsiam_eval.progress import progress
    from simsiam_eval.statistics import accuracy_metrics

    started = time.perf_counter()
    train, test = train_and_test_features(settings)
    classes, train_labels = np.unique(train.labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{settings.train} has one class only: there is nothing to classify.")
    device = resolve_device(settings.device)
    x_train, y_train = torch.from_numpy(train.features).to(device), torch.from_numpy(train_labels).to(device)
    x_test = torch.from_numpy(test.features).to(device)
    y_test = torch.from_numpy(np.searchsorted(classes, test.labels)).to(device)
    recipe = HeadRecipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        lars=settings.lars,
        seed=settings.seed,
    )
    curve: list[float] = []
    losses: list[float] = []
    with progress("linear-eval", settings.epochs) as advance:

        def after_epoch(epoch: int, head: torch.nn.Linear, loss: float) -> None:
            if not np.isfinite(loss):
                raise DataError(f"The linear head diverged in epoch {epoch} (loss {loss}): try a smaller --lr.")
            losses.append(loss)
            curve.append(float(correct_predictions(head, x_test, y_test, 1).float().mean()))
            advance(1, f"loss {loss:.4f} test top-1 {100 * curve[-1]:.2f}")

        head = train_linear_head(x_train, y_train, len(classes), recipe, after_epoch)
    metrics: dict[str, Any] = {}
    for top in (1, 5):
        if top < len(classes):  # with five classes or fewer every guess is among the first five
            right = int(correct_predictions(head, x_test, y_test, top).sum())
            metrics |= accuracy_metrics(f"top{top}", right, len(x_test))
    metrics |= {
        "top1_best_epoch": max(curve),
        "best_epoch": int(np.argmax(curve)),
        "train_top1": float(correct_predictions(head, x_train, y_train, 1).float().mean()),
        "train_loss": losses[-1],
        "images": len(x_test),
        "classes": len(classes),
    }
    return Result(
        task="linear-eval",
        protocol=settings.preset,
        settings=settings.to_dict(),
        metrics={**metrics, "test_top1_by_epoch": curve, "train_loss_by_epoch": losses},
        provenance=provenance(started, str(device), train=described_features(train), test=described_features(test)),
        table=_table(settings, metrics, len(x_train)),
    )


def _table(settings: LinearEvalSettings, metrics: dict[str, Any], train_images: int) -> Table:
    top5 = percent(metrics["top5"], metrics["top5_interval"]) if "top5" in metrics else "-"
    best = f"{percent(metrics['top1_best_epoch'])} ({metrics['best_epoch']})"
    return Table(
        f"Linear evaluation, {settings.preset}{'' if settings.lars else ' without LARS'}, {train_images} training and "
        f"{metrics['images']} test images",
        ("top-1 % [95 %]", "top-5 % [95 %]", "train top-1 %", "best epoch on test %"),
        [[percent(metrics["top1"], metrics["top1_interval"]), top5, percent(metrics["train_top1"]), best]],
        ["Reported is the last epoch; the best epoch is chosen on the test set, for comparison with the reference."],
    )
