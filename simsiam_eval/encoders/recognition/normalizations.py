"""Mean and standard deviation of the RGB images on which toolkits train, as fractions of 1."""

from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
SWAV = {"mean": list(IMAGENET_MEAN), "std": [0.228, 0.224, 0.225]}
CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}  # kuangliu/pytorch-cifar
SOLO_LEARN = {
    "cifar10": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
    "cifar100": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "stl10": {"mean": [0.4914, 0.4823, 0.4466], "std": [0.247, 0.243, 0.261]},
    "imagenet": IMAGENET,
    "imagenet100": IMAGENET,
}
LIGHTNING_BOLTS = {
    "cifar10": {"mean": [125.3 / 255, 123 / 255, 113.9 / 255], "std": [63 / 255, 62.1 / 255, 66.7 / 255]},
    "stl10": {"mean": [0.43, 0.42, 0.39], "std": [0.27, 0.26, 0.27]},
    "imagenet": IMAGENET,
}
# Of MSRA's ImageNet models, and of the ResNeXts that are published beside them; detectron2's MODEL_ZOO.md.
MSRA = {"mean": [123.675 / 255, 116.28 / 255, 103.53 / 255], "std": [1 / 255, 1 / 255, 1 / 255]}
CAFFE2_RESNEXT = {"mean": MSRA["mean"], "std": [58.395 / 255, 57.12 / 255, 57.375 / 255]}
