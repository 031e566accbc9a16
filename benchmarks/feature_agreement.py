"""How far features move with a setting of `extract`: cosine to the reference's, and the nearest neighbor's label.

extract --checkpoint CKPT --data SPEC --out float32.h5
extract --checkpoint CKPT --data SPEC --precision bf16 --out bf16.h5
python benchmarks/feature_agreement.py --pair NAME float32.h5 bf16.h5

--pair may be given several times; both files are of the same images. Neighbors are by cosine, every image left out of its
own search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from report import run, write_table

from simsiam_eval.errors import UsageError
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.unit_length import unit_length
from simsiam_eval.neighbors.exact import search


def agreement(
    reference: NDArray[np.float32], features: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """(N,) each: cosine of the rows, and the label of the nearest neighbor in the reference and in the other features."""
    one, two = (unit_length(torch.from_numpy(found)) for found in (reference, features))
    kept, now = (labels[search(found, None, 1)[1][:, 0]] for found in (reference, features))
    return (one * two).sum(dim=1).numpy(), kept, now


def compared(name: str, reference: Path, other: Path) -> list[str]:
    one, two = read_features(reference), read_features(other)
    if one.attributes["source"]["fingerprint"] != two.attributes["source"]["fingerprint"]:
        raise UsageError(f"{reference} and {other} are of different images.")
    cosine, kept, now = agreement(one.features, two.features, one.labels)
    right = (float((labels == one.labels).mean()) for labels in (kept, now))
    return [name, one.attributes["encoder"]["arch"], str(len(cosine)), one.attributes["precision"],
            two.attributes["precision"], f"{cosine.min():.6f}", f"{cosine.mean():.6f}",
            *(f"{100 * share:.1f}" for share in right), f"{100 * float(np.mean(kept == now)):.2f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=3, action="append", required=True, metavar=("NAME", "REFERENCE", "OTHER"))
    parser.add_argument("--note", action="append", default=[], help="What the encoder is.")
    asked = parser.parse_args()
    write_table(
        "feature_agreement",
        "Features beside those of the reference: cosine, and the label of the nearest neighbor (leave one out)",
        ("images", "encoder", "rows", "reference", "other", "least cosine", "mean cosine", "1-NN right %, reference",
         "1-NN right %, other", "same 1-NN label, %"),
        [compared(name, Path(reference), Path(other)) for name, reference, other in asked.pair],
        asked.note,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
