"""The run folder: everything that a run needs to go on as if it had never been stopped."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pretrain.model import SimSiam
from pretrain.settings import PretrainSettings
from simsiam_eval.commands.settings import may_change, option_name
from simsiam_eval.encoders.checkpoint import OWN_KEY, RANDOM_KEY, read_checkpoint, write_checkpoint
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import LockedFolder, reject_other_settings
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ImageSource

LAST, BEST_KNN = "checkpoint_last.pth.tar", "checkpoint_best_knn.pth.tar"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch, step: the next step, counted in its epoch.
        sums: (3,) float64: loss and output std summed over this epoch's steps, and their number.
        seconds: what this epoch's steps have taken so far.
        history: one entry for each finished epoch.
        doctor: state of the collapse doctor.
        best_knn: the best online kNN accuracy so far.
        unreadable: row -> why, of the images that could not be read so far.
    """

    epoch: int = 0
    step: int = 0
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    doctor: dict[str, Any] = field(default_factory=dict)
    best_knn: float = -1.0
    unreadable: dict[int, str] = field(default_factory=dict)


class RunFolder:
    """One run's checkpoints. `checkpoint_last` is where it goes on; `checkpoint_0099` is epoch 99's, kept.

    Raises:
        DataError: the folder cannot be written, another process is using it, it holds a run of other settings or images,
            or, by --resume, a run where there should be none, or none where there should be one.
    """

    def __init__(
        self, settings: PretrainSettings, source: ImageSource, preprocessing: Preprocessing, processes: Processes
    ) -> None:
        self.out, self.settings = settings.out, settings
        self.last, self.best_knn = self.out / LAST, self.out / BEST_KNN
        self._own = {
            "format_version": 1,
            "stem": settings.stem,
            "preprocessing": preprocessing.to_dict(),
            "settings": settings.to_dict(),
            "images": source.listing_fingerprint(),
            "processes": processes.world,
        }
        self._saved = time.monotonic()
        self._main = processes.main
        self._folder = LockedFolder(self.out, "pretraining") if processes.main else None
        processes.barrier()  # the folder exists

    def close(self) -> None:
        """Let another process use the folder."""
        if self._folder is not None:
            self._folder.close()

    def read(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, None for a new run."""
        path, mode = self.last, self.settings.resume
        if not path.exists():
            if mode == "must":
                raise DataError(f"--resume must: there is no run in {self.out} to go on with.")
            if any(self.out.glob("checkpoint_*")):
                raise DataError(f"{self.out} holds a run without {LAST}: choose another --out, or delete it.")
            if self._main:
                self._check_space()
            return None
        if mode == "never":
            raise DataError(
                f"{self.out} holds an earlier run: choose another --out, or go on with it by --resume auto."
            )
        try:
            checkpoint = dict(read_checkpoint(path))
        except DataError as error:
            before = max(self.out.glob("checkpoint_[0-9]*.pth.tar"), default=None)
            if before is None:
                raise
            raise DataError(f"{error}; to go on from the one before it, copy {before} to {path}.") from error
        own = checkpoint.get(OWN_KEY)
        if not isinstance(own, dict) or "position" not in own:
            raise DataError(f"{path} is not a checkpoint that this program can go on from: choose another --out.")
        self._refuse_changes(own)
        return checkpoint

    def _refuse_changes(self, own: dict[str, Any]) -> None:
        saved = {"decode": "full"} | own["settings"]  # runs from before there was --decode
        reject_other_settings(self.out, saved, self.settings.to_dict(), may_change(PretrainSettings), option_name)
        if not self.settings.sync_bn and own.get("processes", self._own["processes"]) != self._own["processes"]:
            raise DataError(
                f"{self.out} holds a run of {own['processes']} processes, each with its own BN statistics (--no-sync-bn): "
                "give as many, or choose another --out."
            )
        if own["images"] != self._own["images"]:
            raise DataError(f"{self.out} holds a run on other images than {self.settings.data}: choose another --out.")

    def _check_space(self) -> None:
        """Before the first step, so that a disk that is too small is not found after the first epoch."""
        with torch.device("meta"):
            numbers = sum(value.numel() for value in SimSiam.of(self.settings).state_dict().values())
        need, free = 2 * 2 * 4 * numbers, shutil.disk_usage(self.out).free  # weights and momentum, old and new file
        if free < need:
            raise DataError(
                f"{self.out} has {free >> 20} MiB free, and two checkpoints need {need >> 20}: make room first."
            )

    def save_due(self, position: Position) -> bool:
        """Whether --every says that it is time, at the end of a step or of an epoch."""
        count, unit = self.settings.save_interval()
        if unit == "minutes":
            due = time.monotonic() - self._saved >= 60 * count
            if due:  # the next is so much later, whether this one succeeds, and also in processes that write none
                self._saved = time.monotonic()
            return due
        return position.step == 0 and position.epoch % count == 0

    def save(self, model: SimSiam, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Write `checkpoint_last`; at the end of an epoch also under the epoch's name."""
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        self._saved = time.monotonic()
        own = self._own | {"position": vars(position), "history": position.history, RANDOM_KEY: random_state()}
        write_checkpoint(
            self.last,
            epoch=position.epoch,
            arch=self.settings.arch,
            state_dict=state,
            optimizer=optimizer.state_dict(),
            own=own,
        )
        name = self._epoch_name(position)
        if name:
            self._name(name)
            self._prune()

    def _epoch_name(self, position: Position) -> str | None:
        """The reference's name of the checkpoint at the end of an epoch, none in the middle of one."""
        if self.settings.epochs == 0:
            return "checkpoint_untrained.pth.tar"
        return f"checkpoint_{position.epoch - 1:04d}.pth.tar" if position.epoch and not position.step else None

    def finished(self, position: Position) -> Path:
        """The checkpoint at the end of the run."""
        return self.out / (self._epoch_name(position) or LAST)

    def mend_names(self, position: Position) -> None:
        """Give `checkpoint_last` the names that a kill just after it was written has kept from it."""
        name = self._epoch_name(position)
        if name and not (self.out / name).exists():
            self._name(name)
        found = [entry.get("knn_top1", -1.0) for entry in position.history]
        if position.best_knn in found and not position.step and found.index(position.best_knn) == len(found) - 1:
            self._name(BEST_KNN)  # the first that was so good

    def keep_best_knn(self) -> None:
        """Give the checkpoint that was just saved the name of the best by kNN."""
        self._name(BEST_KNN)

    def _name(self, name: str) -> None:
        """A second name for the bytes of `checkpoint_last`, which stay when that one is replaced."""
        new = self.out / f".{name}.new"
        new.unlink(missing_ok=True)
        try:
            os.link(self.last, new)
        except OSError:  # a file system without hard links
            with atomic_write(new) as file, self.last.open("rb") as content:
                shutil.copyfileobj(content, file)
        os.replace(new, self.out / name)

    def _prune(self) -> None:
        ours = [(path, re.fullmatch(r"checkpoint_(\d+)\.pth\.tar", path.name)) for path in self.out.iterdir()]
        kept = sorted((int(match[1]), path) for path, match in ours if match)
        for _, path in kept[: -self.settings.keep] if self.settings.keep else []:
            path.unlink()

    def last_good(self) -> str:
        """What to say of the state that a run that failed can go on from."""
        return f"the last good state is {self.last}" if self.last.exists() else "no checkpoint had been written yet"


def restore(
    checkpoint: dict[str, Any], model: SimSiam, optimizer: torch.optim.Optimizer, device: torch.device
) -> Position:
    """Load weights, optimizer and random state, and say where the run is."""
    own = checkpoint[OWN_KEY]
    model.load_state_dict({key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()})
    fused = [group["fused"] for group in optimizer.param_groups]  # of this machine, not of the checkpoint's
    optimizer.load_state_dict(checkpoint["optimizer"])
    for group, here in zip(optimizer.param_groups, fused, strict=True):
        group["fused"] = here
    # The fused step walks both as they lie in memory, and the parameters may have another format than they had.
    for parameter, state in optimizer.state.items():
        if (momentum := state.get("momentum_buffer")) is not None:
            state["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    set_random_state(own[RANDOM_KEY])
    known = {one.name for one in fields(Position)}
    position = Position(**{name: value for name, value in own["position"].items() if name in known})
    position.sums = position.sums.to(device)
    return position


def seed_all(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of every global generator, in values that `weights_only` reads. The views need none of it: they are drawn
    from seed, epoch and step."""
    version, numbers, gauss = random.getstate()
    name, keys, place, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """What random_state() saved; a GPU's state only where there are as many GPUs."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
