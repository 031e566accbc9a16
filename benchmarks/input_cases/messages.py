"""Messages: what they name, and what they propose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision
from PIL import Image

from input_cases.case import Case, difference, run
from input_cases.small_sets import flat_table, noise
from simsiam_eval.commands.config_file import read_config
from simsiam_eval.errors import DataError, UserError
from simsiam_eval.features.foreign.labels import read_class_names
from simsiam_eval.sources.opening import open_source
from tasks.knn import KnnSettings


def says(*arguments: str, parts: Sequence[str], **tables: Sequence[object]) -> Callable[[Path], str | None]:
    """Whether a command on images fails with a message that has all parts, and names no file of the cache."""

    def check(folder: Path) -> str | None:
        noise(folder, 8)
        weights = folder / "resnet18.pth"
        torch.save(torchvision.models.resnet18().state_dict(), weights)
        for name, labels in tables.items():
            flat_table(folder, name, labels)
        done = run(*(str(argument).replace("@", f"{folder}/") for argument in arguments), "--checkpoint", weights,
                   "--crop", "8", "--device", "cpu")  # fmt: skip
        message = done.stderr.splitlines()[-1] if done.stderr else ""
        missing = [part for part in parts if part.replace("@", f"{folder}/") not in message]
        if done.returncode != 1 or missing or "/features/" in message or "Traceback" in done.stderr:
            return f"status {done.returncode}: {done.stderr[-300:]}"
        return None

    return check


def proposes(header: str, name: str, *parts: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        (folder / name).write_text(f"{header}\n1.jpg\n")
        try:
            open_source(str(folder / name))
        except DataError as error:
            missing = [part for part in parts if part not in str(error)]
            return f"the error is: {error}" if missing else None
        return "read"

    return check


def table(content: bytes, words: str, name: str = "a.csv", options: str = "") -> Callable[[Path], str | None]:
    """Whether a table is rejected, or read with a note, in these words."""

    def check(folder: Path) -> str | None:
        Image.new("L", (4, 4)).save(folder / "a.png")
        (folder / name).write_bytes(content)
        try:
            said = "; ".join(open_source(f"{folder}/{name}{options}").notes)
        except UserError as error:
            said = str(error)
        return None if words in said else f"the message is: {said}"

    return check


def marked(encoding: str, name: str) -> Callable[[Path], str | None]:
    """Whether a text file with a byte order mark is read."""

    def check(folder: Path) -> str | None:
        path = folder / name
        text = {".txt": "cat\ndog", ".json": '["cat", "dog"]', ".toml": "k = [3]"}[path.suffix]
        path.write_bytes(text.encode(encoding))
        if path.suffix == ".toml":
            return difference(read_config(path, "knn", KnnSettings), {"k": [3]})
        return difference(read_class_names(path), ["cat", "dog"])

    return check


KNN = ("knn", "--train", "@a.csv", "--test", "@b.csv")
TWO = [0, 1] * 4
CASES = [
    Case("knn, a class that is missing", "names both options", says(
        *KNN, parts=["--train @a.csv", "--test @b.csv", ": 2"], a=TWO, b=[1, 2] * 4)),
    Case("knn, names and numbers", "names both options", says(
        *KNN, parts=["--train @a.csv", "--test @b.csv"], a=TWO, b=["x", "y"] * 4)),
    Case("linear-eval, no labels", "names the option", says(
        "linear-eval", *KNN[1:], parts=["--test @b.csv has no labels"], a=TWO, b=["NA"] * 8)),
    Case("retrieval eval, one class", "names the option", says(
        "retrieval", "eval", "--gallery", "@a.csv", parts=["--gallery @a.csv has only one class"], a=[3] * 8)),
    Case("CSV without the column path, semicolons", "separator and #path=", proposes(
        "file;label", "a.csv", "semicolons", "'file', 'label'", "#path=COLUMN")),
    Case("CSV without the column path, tabs", "separator and #path=", proposes(
        "file\tlabel", "a.csv", "tabs", "#path=COLUMN")),
    Case("TSV without the column path, commas", "separator and #path=", proposes(
        "file,label", "a.tsv", "commas", "#path=COLUMN")),
    Case("CSV with one other column", "its name and #path=", proposes("file", "a.csv", "'file'", "#path=COLUMN")),
    Case("CSV without the column label", "the other columns and #label=", table(
        b"path,species\na.png,cat\n", "name one of 'species' with #label=COLUMN")),
    Case("CSV with two columns label", "an error", table(b"path,label,label\na.png,1,2\n", "2 columns called 'label'")),
    Case("CSV without a header line", "an error that proposes one", table(b"a.png,cat\n", "has no header line")),
    Case("CSV in Latin-1", "the line and its bytes", table(
        b"path,label\na.png,caf\xe9\n", r"line 2: b'a.png,caf\xe9' is not UTF-8")),
    Case("CSV joined with its header", "the row", table(
        b"path\na.png\npath\na.png\n", "row 2: the header line is repeated")),
    Case("JSON lines with a wrong one", "its number", table(b'{"path": "a.png"}\n{\n', "line 2: not JSON", "a.jsonl")),
    Case("#path= without a value", "an error", table(b"path\na.png\n", "#path= has no value", options="#path=")),
    Case("two possible separators", "both are named", proposes("path;x|path", "a.csv", "semicolons or vertical bars")),
    *(
        Case(f"byte order mark, {encoding}, {name}", "read", marked(encoding, name))
        for encoding in ("utf-8-sig", "utf-16", "utf-32")
        for name in ("classes.txt", "classes.json", "config.toml")
    ),
]  # fmt: skip
