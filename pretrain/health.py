"""Whether the output still spreads over the sphere or has collapsed (paper, Sec. 4.1)."""

from __future__ import annotations

import torch
from torch.nn import functional


@torch.no_grad()
def output_std(z: torch.Tensor) -> torch.Tensor:
    """Std of the L2-normalised output (B,d) over the batch, mean over channels, times sqrt(d): scalar.

    About 1 for outputs spread over the whole sphere, 0 when all are the same (Fig. 2, middle, there without sqrt(d)).
    """
    unit = functional.normalize(z.float(), dim=1)
    return unit.std(dim=0, unbiased=False).mean() * z.shape[1] ** 0.5


class Health:
    def __init__(self, v):
        self.v = v

    def to_dict(self):
        return {"output_std": self.v}


def measure(f, z1, z2):
    return Health(float(output_std(z1)))


class Doctor:
    def __init__(self, state=None):
        self.n = (state or {}).get("n", 0)

    def to_dict(self):
        return {"n": self.n}

    def diagnose(self, h):
        self.n += 1
        return ""
