"""How much a setting of `extract` changes features: cosine similarity, and the nearest neighbor's label.

extract --checkpoint CKPT --data SPEC --out float32.h5
extract --checkpoint CKPT --data SPEC --precision bf16 --out bf16.h5
python benchmarks/feature_agreement.py --pair NAME float32.h5 bf16.h5

--pair is repeatable; both files must hold features of the same images. Neighbors are by cosine similarity,
leave-one-out.
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
    """Cosine similarity of each row to its reference, and its nearest neighbor's label in both; (N,) each."""
    reference_unit, unit = (unit_length(torch.from_numpy(rows)) for rows in (reference, features))
    expected, got = (labels[search(rows, None, 1)[1][:, 0]] for rows in (reference, features))
    return (reference_unit * unit).sum(dim=1).numpy(), expected, got


def compare_files(name: str, reference_path: Path, other_path: Path) -> list[str]:
    reference, other = read_features(reference_path), read_features(other_path)
    if reference.attributes["source"]["fingerprint"] != other.attributes["source"]["fingerprint"]:
        raise UsageError(f"{reference_path} and {other_path} hold features of different images; expected the same.")
    cosine, expected, got = agreement(reference.features, other.features, reference.labels)
    accuracies = (float((labels == reference.labels).mean()) for labels in (expected, got))
    return [name, reference.attributes["encoder"]["arch"], str(len(cosine)), reference.attributes["precision"],
            other.attributes["precision"], f"{cosine.min():.6f}", f"{cosine.mean():.6f}",
            *(f"{100 * accuracy:.1f}" for accuracy in accuracies),
            f"{100 * float(np.mean(expected == got)):.2f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=3, action="append", required=True, metavar=("NAME", "REFERENCE", "OTHER"),
                        help="Row name and the two feature files to compare; repeatable.")  # fmt: skip
    parser.add_argument(
        "--note", action="append", default=[], help="Note below the table, such as what the encoder is; repeatable."
    )
    args = parser.parse_args()
    write_table(
        "feature_agreement",
        "Features compared with a reference: cosine similarity and 1-NN label (leave-one-out)",
        ("images", "encoder", "rows", "reference", "other", "min cosine", "mean cosine", "1-NN accuracy %, reference",
         "1-NN accuracy %, other", "same 1-NN label, %"),
        [compare_files(name, Path(reference), Path(other)) for name, reference, other in args.pair],
        args.note,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
