"""detectron2's own engine, with our data before it and our checkpoints, stops and errors around it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import tasks.detection.detectron2_heads  # noqa: F401 - registers the C4 heads
from simsiam_eval.atomic_file import atomic_write
from simsiam_eval.device import autocast
from simsiam_eval.errors import DataError, Stopped, UsageError
from simsiam_eval.progress import Advance, progress, say
from simsiam_eval.stopping import ignore_stop_signals
from tasks.detection.backend import DetectorSpec, Work
from tasks.detection.batches import read_pixels, worker_count
from tasks.detection.dataset import DetectionSet, LabelledImage
from tasks.detection.detectron2_config import config_values, yaml_text
from tasks.detection.predictions import Detections, readable
from tasks.detection.schedule import Schedule

# detectron2's own, about its own calls, which a user of ours can do nothing about.
warnings.filterwarnings("ignore", message=r".*(torch\.meshgrid|torch\.jit\.script)")
_LOOK = 20  # steps between two lines to the person at the terminal


def config(arch: str, spec: DetectorSpec, schedule: Schedule, norm: str = "BN", **more: Any) -> Any:
    """A detectron2 config, from code alone; `more` has `__` for the dots of the keys."""
    cfg = get_cfg()
    values = config_values(arch, spec, schedule, norm) | {key.replace("__", "."): value for key, value in more.items()}
    cfg.merge_from_list([part for key, value in values.items() for part in (key, value)])
    return cfg


def fresh_model(arch: str, spec: DetectorSpec, **more: Any) -> nn.Module:
    """A detector of random weights on the CPU."""
    with torch.random.fork_rng(devices=[]):
        return build_model(config(arch, spec, Schedule(1, 0.1, 1, (), 0), MODEL__DEVICE="cpu", **more))


def fit(
    arch: str, spec: DetectorSpec, weights: Mapping[str, Tensor], data: DetectionSet, work: Work
) -> tuple[nn.Module, int]:
    """Train to the end of the schedule, from the last checkpoint in the folder; returns the model and the steps done now."""
    processes = work.processes
    if processes.world > 1:
        if processes.device.type == "cpu":
            raise UsageError(
                "detectron2 trains on one process without GPUs: leave out torchrun, or --backend torchvision."
            )
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    _log_to(work.folder)
    cfg = _run_config(arch, spec, data, work)
    if processes.main:
        with atomic_write(work.folder / "config.yaml") as file:
            values = config_values(arch, spec, work.schedule, cfg.MODEL.RESNETS.NORM)
            file.write(yaml_text(values).encode())
    first = _first_step(work.folder)
    seed_all_rng(abs(hash((work.seed, processes.rank, first))) % 2**31)
    with _progress(work, first) as advance:
        trainer = _Trainer(cfg, data, work, first, advance)
        if trainer.checkpointer.has_checkpoint():
            _read(trainer, work)
        else:
            _load(trainer.checkpointer.model, weights)
        if trainer.start_iter < trainer.max_iter:
            with _one_sentence(trainer, work):
                trainer.train()
    return trainer.checkpointer.model, trainer.max_iter - trainer.start_iter


class _Trainer(DefaultTrainer):  # type: ignore[misc]
    """DefaultTrainer on a data set of ours, without its evaluation, and with checkpoints that are whole."""

    def __init__(self, cfg: Any, data: DetectionSet, work: Work, first: int, advance: Advance) -> None:
        self.work, self.advance, self.first = work, advance, first
        self._dicts = [_as_dict(image, place) for place, image in enumerate(data.images)]
        self.build_train_loader = self._train_loader  # DefaultTrainer's is a class method, which knows no data
        super().__init__(cfg)
        if cfg.SOLVER.AMP.ENABLED:
            self._trainer.precision = torch.bfloat16

    def _train_loader(self, cfg: Any) -> Any:
        return _Readable(
            build_detection_train_loader(
                self._dicts,
                mapper=_Mapper(cfg, is_train=True),
                # The sampler cannot be put where it was: a run that goes on draws its images anew.
                sampler=TrainingSampler(len(self._dicts), seed=self.work.seed + self.first),
                total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
                aspect_ratio_grouping=True,
                num_workers=cfg.DATALOADER.NUM_WORKERS,
            )
        )

    def build_hooks(self) -> list[HookBase]:
        self.checkpointer = _WholeCheckpointer(self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        kept = [hook for hook in super().build_hooks() if not isinstance(hook, hooks.EvalHook)]
        return [*kept, _Watch(self.work)]

    def save(self, steps_done: int) -> None:
        """A checkpoint that `resume_or_load` goes on from after `steps_done` steps."""
        self.iter = steps_done - 1
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)


class _Watch(HookBase):  # type: ignore[misc]
    """What the person sees, and the stop at a signal."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        status = self._work.processes.largest(self._work.stop.status)
        if done % _LOOK == 0 or done == self.trainer.max_iter:
            loss = self.trainer.storage.latest().get("total_loss", (float("nan"),))[0]
            self.trainer.advance(min(_LOOK, done - self.trainer.first), f"loss {loss:.4f}")
        if status and done < self.trainer.max_iter:
            self.trainer.save(done)
            self._work.processes.largest(0)  # no process leaves before the checkpoint is whole
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
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with atomic_write(path) as file:
                torch.save(content | kwargs, file)
            self.tag_last_checkpoint(path.name)
        except DataError as error:
            if name == "model_final":
                raise
            say(f"Warning: {error}; the run goes on")
            return
        for old in sorted(Path(self.save_dir).glob("model_[0-9]*.pth"))[:-2]:
            if old != path:
                old.unlink()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(Path(self.save_dir) / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())


class _Mapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper, with the reason where an image cannot be read; an exception would come as a traceback."""

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        pixels = read_pixels(LabelledImage(0, entry["file_name"], entry["width"], entry["height"], ()))
        if isinstance(pixels, str):
            return {"unreadable": pixels, "width": entry["width"], "height": entry["height"]}
        mapped: dict[str, Any] = super().__call__(entry)
        return mapped


class _Readable:
    """A loader that raises DataError for a batch with an unreadable image."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.dataset = loader, getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            for one in batch:
                if "unreadable" in one:
                    raise DataError(one["unreadable"])
            yield batch


def _run_config(arch: str, spec: DetectorSpec, data: DetectionSet, work: Work) -> Any:
    polygons = all(isinstance(one.segmentation, list) for image in data.images for one in image.annotations)
    cuda = work.processes.device.type == "cuda"
    return config(
        arch,
        spec,
        work.schedule,
        "SyncBN" if work.processes.world > 1 else "BN",
        MODEL__DEVICE=work.processes.device.type if work.processes.world > 1 else str(work.processes.device),
        INPUT__MASK_FORMAT="polygon" if polygons or not spec.masks else "bitmask",
        DATALOADER__NUM_WORKERS=worker_count(work.workers),
        SOLVER__CHECKPOINT_PERIOD=work.checkpoint_every,
        SOLVER__AMP__ENABLED=cuda and work.precision == "bf16",
        SEED=work.seed,
        OUTPUT_DIR=str(work.folder),
    )


def _as_dict(image: LabelledImage, place: int) -> dict[str, Any]:
    """The image in detectron2's form; `place` is its number in the set."""
    annotations = []
    for one in image.annotations:
        entry = {"bbox": list(one.corners), "bbox_mode": BoxMode.XYXY_ABS, "category_id": one.label, "iscrowd": 0}
        if one.segmentation is not None:
            entry["segmentation"] = one.segmentation
        annotations.append(entry)
    size = {"width": image.width, "height": image.height}
    return {"file_name": str(image.path), "image_id": place, "annotations": annotations, **size}


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
    try:
        yield
    except (Stopped, UsageError):
        raise
    except DataError as error:
        if "image" not in str(error):
            raise
        done = trainer.iter
        if done < trainer.max_iter:
            trainer.save(done)
        where = f"after step {done} of {work.schedule.iterations}"
        raise DataError(f"Stopped {where}: {error}; put that right, and the same command goes on.") from error
    except FloatingPointError as error:
        raise DataError(
            f"The loss is not finite by step {trainer.iter + 1}: try a smaller --lr ({work.folder} holds the last "
            "good state)."
        ) from error
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "alloc" not in text:
            raise
        raise DataError(
            f"Out of memory on {work.processes.device} in step {trainer.iter + 1}: make room and give the same command, "
            "which goes on, or choose another --out with a smaller --batch, --rois or --max-size."
        ) from error


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


def _progress(work: Work, first: int) -> contextlib.AbstractContextManager[Advance]:
    if not work.processes.main:
        return contextlib.nullcontext(lambda steps, note="": None)
    return progress(f"detect {work.folder.name}", work.schedule.iterations, done=first)


class _TestImages(Dataset):
    """Item row -> (row, what the model takes, or the reason why the image cannot be read)."""

    def __init__(self, cfg: Any, data: DetectionSet, rows: range) -> None:
        self.mapper, self.data, self.rows = _Mapper(cfg, is_train=False), data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, dict[str, Any] | str]:
        row = self.rows[place]
        mapped = self.mapper(_as_dict(self.data.images[row], row))
        return row, mapped.get("unreadable", mapped)


@torch.no_grad()
def predict(arch: str, spec: DetectorSpec, model: nn.Module, data: DetectionSet, work: Work) -> Sequence[Detections]:
    """One entry for each image, in the set's order, the same in every process."""
    processes = work.processes
    found: dict[int, Detections | str] = {}
    model.to(processes.device).eval()
    images = _TestImages(
        _run_config(arch, spec, data, work), data, range(processes.rank, len(data.images), processes.world)
    )
    loader = DataLoader(
        images, batch_size=None, num_workers=worker_count(work.workers), worker_init_fn=ignore_stop_signals
    )
    with progress(f"predict {work.folder.name}", len(images)) as advance:
        for row, entry in loader:
            if work.stop.status and processes.world == 1:
                raise Stopped("Stopped before the evaluation; the same command goes on with it.", work.stop.status)
            if isinstance(entry, str):
                found[row] = entry
                continue
            with autocast(processes.device, work.precision):
                found[row] = _detections(model([entry])[0]["instances"].to("cpu"))
            advance(1)
    if processes.world > 1:
        parts: list[dict[int, Any]] = [{}] * processes.world
        dist.all_gather_object(parts, found, group=processes.control)
        found = {row: one for part in parts for row, one in part.items()}
    return [readable(found[row]) for row in range(len(data.images))]


def _detections(instances: Any) -> Detections:
    from pycocotools import mask

    encoded = None
    if instances.has("pred_masks"):
        encoded = []
        for one in instances.pred_masks.numpy():
            run_lengths = mask.encode(np.asfortranarray(one.astype(np.uint8)))
            encoded.append({"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode()})
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        labels=instances.pred_classes.numpy(),
        masks=encoded,
    )
