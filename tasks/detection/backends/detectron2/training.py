"""Fine-tune a detectron2 detector with detectron2's engine, with the checkpoints, stops and errors of all backends."""

from __future__ import annotations

import contextlib
import logging
import re
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.runtime.machine import local_processes
from simsiam_eval.runtime.progress import Advance, say
from tasks.detection.backends.base import RunContext
from tasks.detection.backends.detectron2.config import HEADER
from tasks.detection.backends.detectron2.images import CheckedLoader, Mapper, TrainingImages, UnusableImageError
from tasks.detection.backends.detectron2.model import run_config
from tasks.detection.backends.step_timer import StepTimer
from tasks.detection.backends.training_errors import all_finite, not_finite_error, out_of_memory_as_data_error
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.detector_spec import DetectorSpec

_REPORT_EVERY = 20  # steps between two reports of the loss


def fit(
    arch: str,
    stride_in_1x1: bool,
    spec: DetectorSpec,
    weights: Mapping[str, Tensor],
    data: DetectionDataset,
    run: RunContext,
) -> tuple[nn.Module, float | None]:
    """Train to the end of the schedule, from the last checkpoint in the folder if there is one.

    Returns:
        The model, and iterations per second as StepTimer measures them.
    """
    processes = run.processes
    if processes.world > 1:
        comm.create_local_process_group(local_processes())
    _log_to(run.folder)
    cfg = run_config(arch, spec, data, run, stride_in_1x1)
    if processes.main:
        with atomic_write(run.folder / "config.yaml") as file:
            file.write(f"{HEADER}\n# SOLVER.AMP uses bfloat16.\n{cfg.dump()}".encode())
    first_step = _completed_steps(run.folder)
    seed_all_rng(abs(hash((run.seed, processes.rank, first_step))) % 2**31)
    with run.progress("detect", run.schedule.iterations, first_step) as advance:
        trainer = _Trainer(cfg, data, run, first_step, advance)
        if trainer.checkpointer.has_checkpoint():
            _resume(trainer, run)
        else:
            _load(trainer.checkpointer.model, weights)
        if trainer.start_iter < trainer.max_iter:
            with _errors_as_data_errors(trainer, run):
                trainer.train()
    return trainer.checkpointer.model, trainer.timer.rate


class _Trainer(DefaultTrainer):  # type: ignore[misc]
    """DefaultTrainer on a DetectionDataset, without its evaluation, and with atomic checkpoints."""

    def __init__(self, cfg: Any, data: DetectionDataset, run: RunContext, first_step: int, advance: Advance) -> None:
        # DefaultTrainer's own __init__ cannot be used: its DistributedDataParallel requires a GPU, and its AMP is float16.
        TrainerBase.__init__(self)
        self.run, self.data, self.first_step, self.advance = run, data, first_step, advance
        self.timer = StepTimer()
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        device = run.processes.device
        device_ids = [device.index] if device.type == "cuda" else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        if cfg.SOLVER.AMP.ENABLED:
            self._trainer = AMPTrainer(model, loader, optimizer, precision=torch.bfloat16)
        else:
            self._trainer = SimpleTrainer(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = _AtomicCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.register_hooks(self.build_hooks())

    def build_train_loader(self, cfg: Any) -> CheckedLoader:
        """A loader of the training set; PreciseBN uses a separate one."""
        images = TrainingImages(self.data)
        return CheckedLoader(
            build_detection_train_loader(
                images,
                mapper=Mapper(cfg, is_train=True),
                # The state of the sampler is not saved: a resumed run draws its images anew.
                sampler=TrainingSampler(len(images), seed=self.run.seed + self.first_step),
                total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
                aspect_ratio_grouping=True,
                num_workers=cfg.DATALOADER.NUM_WORKERS,
            ),
            self.run.processes,
        )

    def build_hooks(self) -> list[HookBase]:
        default = [hook for hook in super().build_hooks() if not isinstance(hook, hooks.EvalHook)]
        return [*default, _ReportAndStop(self.run, self.first_step)]

    def run_step(self) -> None:
        super().run_step()
        self.timer.tick()  # before the hooks, one of which is PreciseBN

    def save(self, completed_steps: int) -> None:
        """Write a checkpoint that `resume_or_load` resumes from after `completed_steps` steps."""
        self.iter = completed_steps - 1
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)


class _ReportAndStop(HookBase):  # type: ignore[misc]
    """Progress on the terminal, and the stop at a signal."""

    def __init__(self, run: RunContext, first_step: int) -> None:
        self._run, self._reported_step = run, first_step

    def after_step(self) -> None:
        step = self.trainer.iter + 1
        status = self._run.processes.largest(self._run.stop.status)
        if step % _REPORT_EVERY == 0 or step == self.trainer.max_iter:
            loss = self.trainer.storage.latest().get("total_loss", (float("nan"),))[0]
            self.trainer.advance(step - self._reported_step, f"loss {loss:.4f}")
            self._reported_step = step
        if status and step < self.trainer.max_iter:
            self.trainer.save(step)
            self._run.processes.barrier()  # no process leaves before the checkpoint is complete
            raise Stopped(
                f"Stopped after step {step} of {self.trainer.max_iter}. Run the same command to resume from "
                f"{self._run.folder}.",
                status,
            )


class _AtomicCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Writes checkpoints, and the name of the last one, completely or not at all; keeps the last two."""

    def save(self, name: str, **kwargs: Any) -> None:
        if not (self.save_dir and self.save_to_disk):
            return
        content = {
            "model": self.model.state_dict(),
            **{key: item.state_dict() for key, item in self.checkpointables.items()},
        }
        if not all_finite(content["model"]):
            raise FloatingPointError  # as detectron2 does for the next loss, but before a good checkpoint is replaced
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


def _completed_steps(folder: Path) -> int:
    """Number of steps before the last checkpoint, from its name."""
    tag = folder / "last_checkpoint"
    match = re.search(r"model_(\d+)", tag.read_text()) if tag.exists() else None
    return int(match.group(1)) + 1 if match else 0


def _resume(trainer: _Trainer, run: RunContext) -> None:
    try:
        trainer.resume_or_load(resume=True)
    except (RuntimeError, KeyError, ValueError, AssertionError, OSError) as error:
        raise DataError(
            f"The checkpoint in {run.folder} cannot be loaded, so the run cannot be resumed; choose another --out."
        ) from error
    if run.processes.main:
        complete = trainer.start_iter >= trainer.max_iter
        state = "training is complete" if complete else f"resuming after step {trainer.start_iter}"
        say(f"{run.folder}: {state}.")


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    result = model.load_state_dict(dict(weights), strict=False)
    if result.unexpected_keys:
        raise DataError(f"The converted weights do not fit the detector (unexpected key: {result.unexpected_keys[0]}).")


@contextlib.contextmanager
def _errors_as_data_errors(trainer: _Trainer, run: RunContext) -> Iterator[None]:
    """Errors in training as one sentence; after an unusable image, a checkpoint as well."""

    def last_good() -> str:
        return str(run.folder) if (run.folder / "last_checkpoint").exists() else "the beginning"

    try:
        with out_of_memory_as_data_error(run.processes.device, lambda: trainer.iter + 1, last_good):
            try:
                yield
            except UnusableImageError as error:
                step = trainer.iter
                if step < trainer.max_iter:
                    trainer.save(step)
                    run.processes.barrier()  # no process leaves before the checkpoint is complete
                raise DataError(
                    f"Stopped after step {step} of {run.schedule.iterations}: {error}. Fix this and run the same command "
                    "to resume."
                ) from error
    except FloatingPointError as error:
        raise not_finite_error(trainer.iter + 1, last_good()) from error


def _log_to(folder: Path) -> None:
    """Send messages of detectron2 and fvcore to a file; standard output is the record's."""
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
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # warns about a function detectron2 traces
