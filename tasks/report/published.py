"""Published numbers that stand beside the measured ones, and how their protocols differ. See docs/protocols.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One accuracy of a publication.

    Attributes:
        dataset: as `dataset_of` names it.
        metric: knn or linear.
        who: whose number, and the training that it is of.
        top1: as a fraction.
        protocol: what a comparable number must share.
    """

    dataset: str
    metric: str
    who: str
    top1: float
    protocol: str


_CIFAR = "CIFAR ResNet-18, kNN k 200 T 0.1"
_IMAGENET = "ResNet-50, LARS, 90 epochs on random crops"
PUBLISHED = (
    Published("cifar10", "linear", "SimSiam paper, 800 epochs", 0.918, "CIFAR ResNet-18, batch 512"),
    Published("cifar10", "linear", "PatrickHua/SimSiam, 800 epochs", 0.908, "CIFAR ResNet-18"),
    Published("cifar10", "linear", "solo-learn, 1000 epochs", 0.905, "CIFAR ResNet-18, batch 256, online classifier"),
    Published("cifar10", "knn", "lightly, 200 epochs, batch 512", 0.764, f"{_CIFAR}, best epoch"),
    Published("cifar10", "knn", "lightly, 800 epochs, batch 512", 0.904, f"{_CIFAR}, best epoch"),
    Published("cifar10", "knn", "PatrickHua/SimSiam, 800 epochs", 0.903, "CIFAR ResNet-18, k 200, T 0.1"),
    Published("cifar100", "linear", "solo-learn, 1000 epochs", 0.660, "CIFAR ResNet-18, online classifier"),
    Published("imagenet", "linear", "SimSiam paper, 100 epochs", 0.681, _IMAGENET),
    Published("imagenet", "linear", "SimSiam paper, 200 epochs", 0.700, _IMAGENET),
    Published("imagenet", "linear", "SimSiam paper, 400 epochs", 0.708, _IMAGENET),
    Published("imagenet", "linear", "SimSiam paper, 800 epochs", 0.713, _IMAGENET),
    Published("imagenet", "knn", "mmselfsup, 100 epochs", 0.576, "ResNet-50, k 20, T 0.07"),
    Published("imagenet", "knn", "mmselfsup, 200 epochs", 0.602, "ResNet-50, k 20, T 0.07"),
)
_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}


def dataset_of(spec: str | None, class_names: list[str] | None) -> str | None:
    """The published data set that an image source is; None if none is recognized.

    >>> dataset_of("cifar10:data#test", None), dataset_of("folder:val", ["n01440764"] * 1000), dataset_of("digits", None)
    ('cifar10', 'imagenet', None)
    """
    kind = (spec or "").partition(":")[0]
    if kind in ("cifar10", "cifar100"):
        return kind
    # The folders of ImageNet are named by WordNet's synsets.
    if class_names is not None and len(class_names) == 1000 and all(_is_synset(name) for name in class_names):
        return "imagenet"
    return None


def _is_synset(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def published_for(dataset: str | None) -> list[Published]:
    """The rows of a data set."""
    return [row for row in PUBLISHED if row.dataset == dataset]


def title_of(dataset: str) -> str:
    """
    >>> title_of("cifar10")
    'CIFAR-10'
    """
    return _NAMES[dataset]
