"""The training loop: Algorithm 1 of the paper, and what is written along the way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from pretrain.health import output_std
from pretrain.loader import Batch, Loader
from pretrain.model import SimSiam, simsiam_loss
from pretrain.recipe import PretrainSettings
from simsiam_eval.atomic_file import atomic_write
from simsiam_eval.checkpoint import write_checkpoint
from simsiam_eval.device import autocast, resolve_device
from simsiam_eval.errors import DataError
from simsiam_eval.preprocess import Preprocessing
from simsiam_eval.progress import progress, say
from simsiam_eval.result import Result, Table, provenance
from simsiam_eval.schedule import cosine_lr
from simsiam_eval.sources import open_source


def pretrain(settings: PretrainSettings) -> Result:
    """Run `pretrain`: one process, the protocol of the reference to the letter.

    Raises:
        DataError: the images or the run folder cannot be used, or the loss is not finite.
    """
    started = time.perf_counter()
    device = resolve_device(settings.device)
    source = open_source(settings.data, "train")
    loader = Loader(source, settings, pin_memory=device.type == "cuda")
    preprocessing = test_preprocessing(settings)
    _prepare_run_folder(settings.out)

    torch.manual_seed(settings.seed)
    model = SimSiam(
        settings.arch,
        settings.stem,
        settings.dim,
        settings.pred_dim,
        settings.projector_layers,
        settings.projector_hidden,
    ).to(device)
    lr = settings.lr * settings.batch_size / 256
    optimiser = torch.optim.SGD(
        parameter_groups(model, settings.fix_pred_lr),
        lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    unreadable = _Unreadable(source, settings.strict)
    history: list[dict[str, float]] = []

    def save(name: str, epochs_done: int) -> Path:
        path = settings.out / name
        write_checkpoint(
            path,
            epoch=epochs_done,
            arch=settings.arch,
            state_dict={f"module.{key}": value for key, value in model.state_dict().items()},
            optimizer=optimiser.state_dict(),
            own={
                "format_version": 1,
                "stem": settings.stem,
                "preprocessing": preprocessing.to_dict(),
                "settings": settings.to_dict(),
                "history": history,
            },
        )
        return path

    if settings.epochs == 0:
        estimate_bn_statistics(model, loader, preprocessing, device, unreadable)
        checkpoint = save("checkpoint_untrained.pth.tar", 0)
    with progress("pretrain", settings.epochs * len(loader)) as advance:
        for epoch in range(settings.epochs):
            now = cosine_lr(lr, epoch, settings.epochs)
            for group in optimiser.param_groups:
                group["lr"] = lr if group.get("fix_lr") else now
            model.train()
            epoch_started, sums, images = time.perf_counter(), torch.zeros(2, device=device), 0
            for step, batch in enumerate(loader.epoch(epoch)):
                unreadable.note(batch)
                if len(batch.view1) < 2:  # BN needs two
                    continue
                view1, view2 = (
                    preprocessing.normalise(view.to(device, non_blocking=True)) for view in (batch.view1, batch.view2)
                )
                with autocast(device, settings.precision):
                    p1, p2, z1, z2 = model(view1, view2)
                loss = simsiam_loss(p1.float(), p2.float(), z1.float(), z2.float(), settings.stop_gradient)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                sums += torch.stack((loss.detach(), output_std(z1))) * len(view1)
                images += len(view1)
                if step % 10 == 9 or step == len(loader) - 1:  # reading the sums waits for the device
                    _check_finite(sums, epoch, step)
                    mean_loss, std = (sums / images).tolist()
                    rate = images / (time.perf_counter() - epoch_started)
                    note = f"epoch {epoch} loss {mean_loss:.4f} std {std:.3f} lr {now:.4f} {rate:.0f} images/s"
                    advance(step + 1 - step // 10 * 10, note)
            if not images:
                raise DataError(f"No batch of {source.spec} had two readable images.")
            _check_finite(sums, epoch, len(loader))
            mean_loss, std = (sums / images).tolist()
            seconds = time.perf_counter() - epoch_started
            history.append(
                {"epoch": epoch, "loss": mean_loss, "output_std": std, "lr": now, "images_per_second": images / seconds}
            )
            with (settings.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(history[-1]) + "\n")
            if (epoch + 1) % settings.save_every == 0 or epoch + 1 == settings.epochs:
                checkpoint = save(f"checkpoint_{epoch:04d}.pth.tar", epoch + 1)
    result = _result(settings, history, checkpoint, len(source), len(unreadable.reasons), str(device), started)
    with atomic_write(settings.out / "result.json") as file:
        file.write(result.to_json().encode())
    return result


def parameter_groups(model: SimSiam, fix_pred_lr: bool) -> list[dict[str, object]]:
    """All parameters, weight decay on every one; with `fix_pred_lr` the predictor apart, marked `fix_lr`."""
    if not fix_pred_lr:
        return [{"params": list(model.parameters())}]
    return [
        {"params": list(model.encoder.parameters()), "fix_lr": False},
        {"params": list(model.predictor.parameters()), "fix_lr": True},
    ]


def test_preprocessing(settings: PretrainSettings) -> Preprocessing:
    """How the encoder's images are to be prepared afterwards: 256 / 224 of the view's size, or small images whole."""
    size = settings.image_size
    return Preprocessing(resize=round(size * 256 / 224) if settings.stem == "imagenet" else size, crop=size)


@torch.no_grad()
def estimate_bn_statistics(
    model: SimSiam, loader: Loader, preprocessing: Preprocessing, device: torch.device, unreadable: _Unreadable
) -> None:
    """Set BN's running statistics of an untrained model to their mean over one epoch of views."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for the cumulative mean
    model.train()
    for batch in loader.epoch(0):
        unreadable.note(batch)
        if len(batch.view1) >= 2:
            model(*(preprocessing.normalise(view.to(device)) for view in (batch.view1, batch.view2)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class _Unreadable:
    """The images that could not be read: each named once."""

    def __init__(self, source: object, strict: bool) -> None:
        self.source, self.strict, self.reasons = source, strict, dict[int, str]()

    def note(self, batch: Batch) -> None:
        for row, reason in batch.unreadable.items():
            name = self.source.id(row)  # type: ignore[attr-defined]
            if self.strict:
                raise DataError(
                    f"Image {name} (row {row}) could not be read: {reason}; without --strict it is skipped."
                )
            if row not in self.reasons:
                say(f"skipped {name} (row {row}): {reason}")
            self.reasons[row] = reason


def _check_finite(sums: torch.Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(sums).all():
        raise DataError(
            f"The loss is not finite in epoch {epoch}, by step {step}: try a smaller --lr; earlier checkpoints are kept."
        )


def _prepare_run_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        used = (out / "log.jsonl").exists() or any(out.glob("checkpoint_*"))
        with atomic_write(out / ".writable"):
            pass
        (out / ".writable").unlink()
    except OSError as error:
        raise DataError(f"Cannot write to the run folder {out}: {error.strerror}.") from error
    if used:
        raise DataError(f"{out} holds an earlier run: choose another --out, or delete it.")


def _result(
    settings: PretrainSettings,
    history: list[dict[str, float]],
    checkpoint: Path,
    images: int,
    unreadable: int,
    device: str,
    started: float,
) -> Result:
    last = history[-1] if history else {}
    metrics = {"epochs": settings.epochs, "images": images, "unreadable": unreadable, **last}
    row = [str(settings.epochs), str(images), str(unreadable)]
    row += [f"{last[name]:.4f}" for name in ("loss", "output_std")] if last else ["-", "-"]
    return Result(
        task="pretrain",
        protocol=settings.preset,
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, device, data=settings.data),
        files={"checkpoint": str(checkpoint), "log": str(settings.out / "log.jsonl")},
        table=Table(
            f"SimSiam, {settings.arch} ({settings.stem} stem): {checkpoint}",
            ("epochs", "images", "unreadable", "last loss", "output std x sqrt(d)"),
            [row],
        ),
    )
