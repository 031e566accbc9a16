"""detectron2's own engine, with our data before it and our checkpoints, stops and errors around it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, defaults, hooks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.runtime.progress import Advance, say
from tasks.detection.backends.base import DetectorSpec, StepClock, Work
from tasks.detection.backends.detectron2.config import HEADER
from tasks.detection.backends.detectron2.images import Mapper, Readable, UnreadableImages, as_dict
from tasks.detection.backends.detectron2.model import run_config
from tasks.detection.backends.faults import all_finite, memory_is_short, not_finite
from tasks.detection.data.dataset import DetectionDataset

_REPORT_EVERY = 20  # steps between two lines to the person at the terminal


def fit(
    arch: str, spec: DetectorSpec, weights: Mapping[str, Tensor], data: DetectionDataset, work: Work
) -> tuple[nn.Module, float | None]:
    """Train to the end of the schedule, from the last checkpoint in the folder; returns the model and StepClock's rate."""
    processes = work.processes
    if processes.world > 1:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    _log_to(work.folder)
    cfg = run_config(arch, spec, data, work)
    if processes.main:
        with atomic_write(work.folder / "config.yaml") as file:
            file.write(f"{HEADER}\n# SOLVER.AMP is in bfloat16.\n{cfg.dump()}".encode())
    first = _first_step(work.folder)
    seed_all_rng(abs(hash((work.seed, processes.rank, first))) % 2**31)
    with work.progress("detect", work.schedule.iterations, first) as advance:
        trainer = _Trainer(cfg, data, work, first, advance)
        if trainer.checkpointer.has_checkpoint():
            _read(trainer, work)
        else:
            _load(trainer.checkpointer.model, weights)
        if trainer.start_iter < trainer.max_iter:
            with _one_sentence(trainer, work):
                trainer.train()
    return trainer.checkpointer.model, trainer.clock.rate


class _Trainer(DefaultTrainer):  # type: ignore[misc]
    """DefaultTrainer on a dataset of ours, without its evaluation, and with checkpoints that are whole."""

    def __init__(self, cfg: Any, data: DetectionDataset, work: Work, first: int, advance: Advance) -> None:
        self.work, self.advance, self.first, self.clock = work, advance, first, StepClock()
        self._dicts = [as_dict(image, place) for place, image in enumerate(data.images)]
        self.build_train_loader = self._train_loader  # DefaultTrainer's is a class method, which knows no data
        with _ddp_on(work.processes.device):
            super().__init__(cfg)
        if cfg.SOLVER.AMP.ENABLED:
            self._trainer.precision = torch.bfloat16

    def _train_loader(self, cfg: Any) -> Any:
        return Readable(
            build_detection_train_loader(
                self._dicts,
                mapper=Mapper(cfg, is_train=True),
                # The sampler cannot be put where it was: a run that goes on draws its images anew.
                sampler=TrainingSampler(len(self._dicts), seed=self.work.seed + self.first),
                total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
                aspect_ratio_grouping=True,
                num_workers=cfg.DATALOADER.NUM_WORKERS,
            ),
            self.work.processes,
        )

    def build_hooks(self) -> list[HookBase]:
        self.checkpointer = _WholeCheckpointer(self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        kept = [hook for hook in super().build_hooks() if not isinstance(hook, hooks.EvalHook)]
        return [*kept, _ReportAndStop(self.work, self.first)]

    def run_step(self) -> None:
        super().run_step()
        self.clock.tick()  # before the hooks, of which PreciseBN is one

    def save(self, steps_done: int) -> None:
        """A checkpoint that `resume_or_load` goes on from after `steps_done` steps."""
        self.iter = steps_done - 1
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)


def _ddp_on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """DefaultTrainer's DistributedDataParallel wants a GPU's number; on a CPU there is none."""
    if device.type == "cuda":
        return contextlib.nullcontext()
    return mock.patch.object(defaults, "create_ddp_model", partial(defaults.create_ddp_model, device_ids=None))


class _ReportAndStop(HookBase):  # type: ignore[misc]
    """What the person sees, and the stop at a signal."""

    def __init__(self, work: Work, first: int) -> None:
        self._work, self._shown = work, first

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        status = self._work.processes.largest(self._work.stop.status)
        if done % _REPORT_EVERY == 0 or done == self.trainer.max_iter:
            loss = self.trainer.storage.latest().get("total_loss", (float("nan"),))[0]
            self.trainer.advance(done - self._shown, f"loss {loss:.4f}")
            self._shown = done
        if status and done < self.trainer.max_iter:
            self.trainer.save(done)
            self._work.processes.barrier()  # no process leaves before the checkpoint is whole
            where = f"after step {done} of {self.trainer.max_iter}"
            raise Stopped(f"Stopped {where}; the same command goes on from {self._work.folder}.", status)


class _WholeCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Checkpoints and the mark of the last one are whole or not there; only the last two are kept."""

    def save(self, name: str, **kwargs: Any) -> None:
        if not (self.save_dir and self.save_to_disk):
            return
        content = {
            "model": self.model.state_dict(),
            **{key: one.state_dict() for key, one in self.checkpointables.items()},
        }
        if not all_finite(content["model"]):
            raise FloatingPointError  # as of the loss of the next step, and before it is in the good one's place
        path = Path(self.save_dir) / f"{name}.pth"

        def write() -> None:
            with atomic_write(path) as file:
                torch.save(content | kwargs, file)
            self.tag_last_checkpoint(path.name)

        if name == "model_final":
            write()
        elif not continue_if_unwritable(write, say):
            return
        for old in sorted(Path(self.save_dir).glob("model_[0-9]*.pth"))[:-2]:
            if old != path:
                old.unlink()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(Path(self.save_dir) / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())


def _first_step(folder: Path) -> int:
    """Steps that the last checkpoint has behind it, by its name."""
    mark = folder / "last_checkpoint"
    found = re.search(r"model_(\d+)", mark.read_text()) if mark.exists() else None
    return int(found.group(1)) + 1 if found else 0


def _read(trainer: _Trainer, work: Work) -> None:
    try:
        trainer.resume_or_load(resume=True)
    except (RuntimeError, KeyError, ValueError, AssertionError, OSError) as error:
        raise DataError(
            f"{work.folder} holds a checkpoint that cannot be gone on from: choose another --out."
        ) from error
    if work.processes.main:
        done = trainer.start_iter >= trainer.max_iter
        say(f"{work.folder}: {'this run is finished' if done else f'going on after step {trainer.start_iter}'}.")


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    result = model.load_state_dict(dict(weights), strict=False)
    if result.unexpected_keys:
        raise DataError(f"The converted weights do not fit the detector ({result.unexpected_keys[0]}).")


@contextlib.contextmanager
def _one_sentence(trainer: _Trainer, work: Work) -> Iterator[None]:
    """What can go wrong in training, in one sentence; an unreadable image after a checkpoint."""

    def last_good() -> str:
        return str(work.folder) if (work.folder / "last_checkpoint").exists() else "the beginning"

    try:
        with memory_is_short(work.processes.device, lambda: trainer.iter + 1, last_good):
            try:
                yield
            except UnreadableImages as error:
                done = trainer.iter
                if done < trainer.max_iter:
                    trainer.save(done)
                    work.processes.barrier()  # as at a stop
                where = f"after step {done} of {work.schedule.iterations}"
                raise DataError(f"Stopped {where}: {error}; put that right, and the same command goes on.") from error
    except FloatingPointError as error:
        raise not_finite(trainer.iter + 1, last_good()) from error


def _log_to(folder: Path) -> None:
    """What detectron2 and fvcore say goes to a file: standard output is the record's."""
    for name in ("detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        handler = logging.FileHandler(folder / "detectron2.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # of a function that detectron2 asks
