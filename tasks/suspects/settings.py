"""Settings of `suspects`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simsiam_eval.commands.settings import DeviceSettings, SeedSettings, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import SHEET_ENDINGS

LABELS, OUTLIERS, DUPLICATES = "labels", "outliers", "duplicates"
NEIGHBORS, HEAD, LOGISTIC, CLEANLAB = "neighbors", "head", "logistic", "cleanlab"


@dataclass(frozen=True, kw_only=True)
class SuspectsSettings(DeviceSettings, SeedSettings):
    """Rank the images of a labeled set that deserve a look: likely wrong labels, outliers and near-duplicates."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "file images",
        "method": "find method k temperature head folds c outlier_k threshold",
        "index": "index index_parameters",
        "output": "top csv sheet",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "train.h5 --csv suspects.csv --sheet suspects.html",
        "train.h5 --method cleanlab --find labels",
    )

    file: Path = setting(positional=True, help="Feature file (.h5).")
    find: tuple[str, ...] = setting(
        (LABELS, OUTLIERS, DUPLICATES),
        choices=(LABELS, OUTLIERS, DUPLICATES),
        once=True,
        help="What to look for; comma-separated for several.",
    )
    method: str | None = setting(
        None,
        choices=(NEIGHBORS, HEAD, LOGISTIC, CLEANLAB),
        help="Who judges the labels: the votes of the neighbors, leave-one-out; a --head; logistic regression, "
        "cross-validated; or confident learning by cleanlab on the probabilities of --head or of the logistic regression. "
        "Default: head if --head is given, else neighbors.",
    )
    k: int = setting(20, short="-k", at_least=1, help="Number of neighbors that vote on a label.")
    temperature: float = setting(0.07, above=0, help="Temperature T of a vote's weight exp(cosine similarity / T).")
    head: Path | None = setting(
        None,
        help="Head saved by linear-eval (.safetensors); train it on other images, for it has learned its own labels.",
    )
    folds: int = setting(5, at_least=2, help="Number of parts for the cross-validation of the logistic regression.")
    c: float = setting(0.1, above=0, help="Inverse strength of the logistic regression's L2 penalty.")
    outlier_k: int = setting(10, at_least=1, help="Outliers: distance to the k-th nearest image.")
    threshold: float = setting(
        0.95, above=0, at_most=1, help="Minimum cosine similarity of near-duplicates; check it on the --sheet."
    )
    index: str | None = setting(
        None,
        help="FAISS factory string for approximate search, such as IVF4096,Flat or HNSW32. Default: exact search.",
    )
    index_parameters: str | None = setting(None, help="FAISS search parameters of --index, such as nprobe=32.")
    top: int = setting(100, at_least=1, help="Number of suspects of each kind in the record; --csv has all.")
    csv: Path | None = setting(
        None, output=True, endings=(".csv",), help="CSV file with every ranked image of each kind, and the reason."
    )
    sheet: Path | None = setting(
        None, output=True, endings=SHEET_ENDINGS, help="Contact sheet of the worst of each kind (.png or .html)."
    )
    images: str | None = setting(None, help="Image source for the contact sheet; default: the source of the features.")

    @property
    def judge(self) -> str:
        """The method, chosen or by default."""
        return self.method or (NEIGHBORS if self.head is None else HEAD)

    def check(self) -> None:
        if self.judge == HEAD and self.head is None:
            raise UsageError("--method head requires --head.")
        if LABELS not in self.find:
            self.reject_given(("method", "k", "temperature", "head", "folds", "c"), f"requires {LABELS} among --find")
        if self.judge != NEIGHBORS:
            self.reject_given(("k", "temperature"), f"cannot be used with --method {self.judge}")
        if self.judge == NEIGHBORS:
            self.reject_given(("head",), "cannot be used with --method neighbors")
        if self.judge not in (LOGISTIC, CLEANLAB) or self.head is not None:
            self.reject_given(("folds", "c"), "requires --method logistic or cleanlab, without --head")
        if self.judge == LOGISTIC:
            self.reject_given(("head",), "cannot be used with --method logistic")
        if OUTLIERS not in self.find:
            self.reject_given(("outlier_k",), f"requires {OUTLIERS} among --find")
        if DUPLICATES not in self.find:
            self.reject_given(("threshold",), f"requires {DUPLICATES} among --find")
        if self.index_parameters is not None and self.index is None:
            raise UsageError(f"--index-parameters {self.index_parameters} requires --index.")
        if self.sheet is None:
            self.reject_given(("images",), "requires --sheet")
