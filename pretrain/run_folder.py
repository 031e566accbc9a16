"""The run folder: names of checkpoints, and the checks before a run is resumed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.callback import Position
from pretrain.initialization import Start
from pretrain.model import SimSiam
from simsiam_eval.commands.fields import option_name
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY, write_checkpoint
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import LockedFolder, reject_other_settings

LAST, BEST_KNN = "checkpoint_last.pth.tar", "checkpoint_best_knn.pth.tar"


@dataclass(frozen=True)
class RunDescription:
    """What makes a run this run; every checkpoint holds it.

    Attributes:
        arch, stem: the encoder's; a network of timm has no stem.
        preprocessing: of images for the encoder, as `Preprocessing.to_dict` gives it.
        settings: all settings, as JSON has them.
        images: fingerprint of the training images.
        processes: number of processes.
        start: the encoder that the run started from; None for random weights.
    """

    arch: str
    stem: str | None
    preprocessing: dict[str, Any]
    settings: dict[str, Any]
    images: str
    processes: int
    start: Start | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "format_version": 1,
            "stem": self.stem,
            "preprocessing": self.preprocessing,
            "settings": self.settings,
            "images": self.images,
            "processes": self.processes,
            # Left out where they are empty, as in the checkpoints of older versions.
            **({"init": self.start.source} if self.start else {}),
            **({"variant": self.start.variant} if self.start and self.start.variant else {}),
        }


class RunFolder:
    """One run's checkpoints. `checkpoint_last` is the one to resume from; `checkpoint_0099` is that of epoch 99.

    Args:
        out: the folder; created if missing, and locked by the main process until `close`.
        run: the run that is to be in it.
        keep: number of checkpoints by epoch that are kept, newest first; 0 for all.
        main: whether this is the main process.

    Raises:
        DataError: the folder cannot be written, or another process is using it.
    """

    def __init__(self, out: Path, run: RunDescription, keep: int = 0, main: bool = True) -> None:
        self.out, self.run, self._keep = out, run, keep
        self.last, self.best_knn = out / LAST, out / BEST_KNN
        self._folder = LockedFolder(out, "pretraining") if main else None

    def close(self) -> None:
        """Let another process use the folder."""
        if self._folder is not None:
            self._folder.close()

    def read(self, resume: str, may_change: Collection[str] = ()) -> dict[str, Any] | None:
        """The checkpoint to resume from; None for a new run.

        Args:
            resume: auto, never or must.
            may_change: Names of settings that may differ from those of the run.

        Raises:
            DataError: the run has other settings or images, is damaged, or `resume` does not allow it.
        """
        if not self.last.exists():
            if resume == "must":
                raise DataError(f"--resume must, but {self.out} contains no run to resume.")
            if any(self.out.glob("checkpoint_*")):
                raise DataError(
                    f"{self.out} contains checkpoints but no {LAST}: choose another --out, or delete the checkpoints."
                )
            return None
        if resume == "never":
            raise DataError(
                f"{self.out} already contains a run: choose another --out, or resume the run with --resume auto."
            )
        try:
            checkpoint = dict(read_checkpoint(self.last))
        except DataError as error:
            older = max(self.out.glob("checkpoint_[0-9]*.pth.tar"), default=None)
            if older is None:
                raise
            raise DataError(f"{error} To resume from the previous checkpoint, copy {older} to {self.last}.") from error
        saved = checkpoint.get(METADATA_KEY)
        if not isinstance(saved, dict) or "position" not in saved:
            raise DataError(f"{self.last} is not a checkpoint of simsiam-eval pretrain: choose another --out.")
        self._reject_other_run(saved, may_change)
        return checkpoint

    def _reject_other_run(self, saved: dict[str, Any], may_change: Collection[str]) -> None:
        given = self.run.settings
        settings = {"decode": "full", "intensity": "auto"} | saved["settings"]  # the defaults for runs older than these
        reject_other_settings(self.out, settings, given, may_change, option_name)
        processes = saved.get("processes", self.run.processes)
        if not given["sync_bn"] and processes != self.run.processes:
            raise DataError(
                f"{self.out} contains a run of {processes} processes with --no-sync-bn: use the same number of processes, "
                "or choose another --out."
            )
        if saved["images"] != self.run.images:
            raise DataError(f"{self.out} contains a run on other images than {given['data']}: choose another --out.")

    def check_space(self, model: SimSiam) -> None:
        """Check before the first step that the disk has room for two checkpoints, the old one and the new one.

        Raises:
            DataError: it has not.
        """
        numbers = sum(value.numel() for value in model.state_dict().values())
        need, free = 2 * 2 * 4 * numbers, shutil.disk_usage(self.out).free  # float32 weights and momentum, twice
        if free < need:
            raise DataError(
                f"{self.out} has {free >> 20} MiB free, but two checkpoints need {need >> 20} MiB: free some space first."
            )

    def save(self, model: SimSiam, optimizer: torch.optim.Optimizer, position: Position, state: dict[str, Any]) -> None:
        """Write `checkpoint_last`; at the end of an epoch also under the epoch's name.

        Args:
            state: what else is needed to resume.

        Raises:
            DataError: it cannot be written.
        """
        write_checkpoint(
            self.last,
            epoch=position.epoch,
            arch=self.run.arch,
            state_dict={f"module.{key}": value for key, value in model.state_dict().items()},
            optimizer=optimizer.state_dict(),
            metadata=self.run.to_dict() | state,
        )
        name = _epoch_name(position)
        if name:
            self._name_last(name)
            self._prune()

    def path_at(self, position: Position) -> Path:
        """The checkpoint that was saved at this position."""
        return self.out / (_epoch_name(position) or LAST)

    def restore_names(self, position: Position) -> None:
        """Give `checkpoint_last` the other names that a kill right after writing it has prevented."""
        name = _epoch_name(position)
        if name and not (self.out / name).exists():
            self._name_last(name)
        accuracies = [summary.get("knn_top1", -1.0) for summary in position.history]
        best = position.best_knn
        if best in accuracies and not position.step and accuracies.index(best) == len(accuracies) - 1:
            self.keep_best_knn()  # the first epoch with this accuracy

    def keep_best_knn(self) -> None:
        """Name `checkpoint_last` the best by online kNN."""
        self._name_last(BEST_KNN)

    def _name_last(self, name: str) -> None:
        """Give `checkpoint_last` a second name, which stays when the next checkpoint replaces it."""
        new = self.out / f".{name}.new"
        new.unlink(missing_ok=True)
        try:
            os.link(self.last, new)
        except OSError:  # a file system without hard links
            with atomic_write(new) as file, self.last.open("rb") as content:
                shutil.copyfileobj(content, file)
        os.replace(new, self.out / name)

    def _prune(self) -> None:
        matches = [(path, re.fullmatch(r"checkpoint_(\d+)\.pth\.tar", path.name)) for path in self.out.iterdir()]
        by_epoch = sorted((int(match[1]), path) for path, match in matches if match)
        for _, path in by_epoch[: -self._keep] if self._keep else []:
            path.unlink()

    def last_good(self) -> str:
        """For messages: the checkpoint that a failed run can resume from."""
        return f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"


def _epoch_name(position: Position) -> str | None:
    """The reference's name of the checkpoint at the end of an epoch; None within an epoch."""
    if position.step:
        return None
    return f"checkpoint_{position.epoch - 1:04d}.pth.tar" if position.epoch else "checkpoint_untrained.pth.tar"
