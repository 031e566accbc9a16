"""One training step: forward, loss, backward, SGD, in the precision and on the processes that the settings say."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from pretrain.model import Outputs, SimSiam, parameter_groups, simsiam_loss
from pretrain.run_folder import seed_all
from pretrain.settings import PretrainSettings
from simsiam_eval.linear.schedule import epoch_lr, scaled_lr
from simsiam_eval.runtime.batch_norm import synchronize_bn
from simsiam_eval.runtime.device import autocast
from simsiam_eval.runtime.processes import Processes

_SMALLEST = 16  # pixels, up to which a CPU is slower with channels-last (benchmarks/results/memory_format.md)


class TrainingStep:
    """Model and optimizer, and what one batch does to them.

    Attributes:
        model: the bare model, whose state dict is the checkpoint's.
        optimizer: SGD; its lr is that of the whole batch, lr x batch / 256.
    """

    def __init__(self, settings: PretrainSettings, processes: Processes) -> None:
        self.settings, self.device = settings, processes.device
        on_gpu = self.device.type == "cuda"
        last = settings.channels_last
        if last is None:
            last = on_gpu or settings.image_size > _SMALLEST
        self._format = torch.channels_last if last else torch.contiguous_format
        seed_all(settings.seed)
        model: Any = SimSiam.of(settings)
        if processes.world > 1 and settings.sync_bn:
            model = synchronize_bn(model, self.device)
        self.model: SimSiam = model.to(self.device, memory_format=self._format)
        self.base_lr = scaled_lr(settings.lr, settings.batch_size)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.model, settings.predictor, warmup=settings.warmup_epochs > 0),
            self.base_lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=(on_gpu if settings.fused is None else settings.fused) or None,  # False would rule out foreach too
        )
        if settings.compile != "off":
            self.model.compile(mode="reduce-overhead" if settings.compile == "cuda-graphs" else "default")
        self._whole: Any = self.model
        if processes.world > 1:
            ids = [self.device.index] if on_gpu else None
            self._whole = DistributedDataParallel(self.model, ids, gradient_as_bucket_view=True)

    def set_lr(self, epoch: int) -> float:
        """Set the lr of an epoch: cosine over all epochs (after the warm-up, which the predictor has not, those that are
        left), but constant where the predictor is marked so. Returns the encoder's."""
        settings = self.settings
        warming = epoch < settings.warmup_epochs
        now = epoch_lr(self.base_lr, epoch, settings.epochs, settings.warmup_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr if group.get("fix_lr") or (warming and not group.get("warms_up", True)) else now
        return now

    def __call__(self, view1: torch.Tensor, view2: torch.Tensor) -> tuple[torch.Tensor, Outputs]:
        """Views (B,3,S,S) float32, this process's -> the loss, a scalar, and the outputs, both without gradient.

        With `accumulate` the parts of the batch go through one after the other: gradients are those of the mean over
        the whole batch, but BN sees one part at a time; the outputs are those of the last part.
        """
        parts = self.settings.accumulate
        total = torch.zeros((), device=self.device)
        for part, (one, two) in enumerate(zip(view1.chunk(parts), view2.chunk(parts), strict=True)):
            if self.settings.compile == "cuda-graphs":
                torch.compiler.cudagraph_mark_step_begin()
            with self._without_exchange(last=part == parts - 1):
                with autocast(self.device, self.settings.precision):
                    outputs = self._whole(
                        one.contiguous(memory_format=self._format), two.contiguous(memory_format=self._format)
                    )
                loss = self._loss(outputs) / parts
                loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, Outputs(*(value.detach() for value in outputs))

    def _loss(self, outputs: Outputs) -> torch.Tensor:
        chosen = self.settings
        return simsiam_loss(outputs, chosen.stop_gradient, chosen.loss, chosen.symmetric)

    def _without_exchange(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged once a step, with its last part."""
        if last or not isinstance(self._whole, DistributedDataParallel):
            return nullcontext()
        return self._whole.no_sync()
