"""Run every command on digits and on small generated images, and record all their results.

    python tests/golden/make.py           # rewrite records.json in this folder; review its diff before you commit
    python tests/golden/make.py OUT.json  # write elsewhere, as the test does

Everything runs through the command line, so modules can move freely. The records omit times, machines and package
versions. `PINNED` fixes threads and kernels, so that results do not depend on the number of cores.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDS = Path(__file__).with_name("records.json")
PACKAGES = ("faiss-cpu", "numpy", "pillow", "scikit-learn", "scipy", "torch", "torchvision")
# Keys of what differs between two runs or two machines, wherever they stand in a record.
LEFT_OUT = re.compile(r".*(second|speed).*|finished|machine|versions|waiting")
CACHE_KEY = re.compile(r"(?<=cache/features/)[0-9a-f]{32}")

# One thread, no GPU, and one set of kernels for every processor.
PINNED = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "generic",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "JSIMD_FORCESSE2": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}


def main(out: Path) -> None:
    """Write the records of this checkout to `out`, from a separate process with `PINNED` in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SIMSIAM_EVAL_")}
        environment |= PINNED | {"SIMSIAM_EVAL_CACHE": "cache", "PYTHONPATH": str(ROOT)}
        code = f"import runpy; runpy.run_path({__file__!r})['run_all']({str(out.resolve())!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


def processor() -> str:
    """The processor model reported by Linux."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def run_all(out: str) -> None:
    """Run every command in the current folder, which must be empty, and write the records to `out`."""
    records = Records()
    draw_images()
    run_digits(records)
    run_photos(records)
    run_detection(records)
    made_with = {name: importlib.metadata.version(name) for name in PACKAGES} | {"processor": processor()}
    content = {"hashes": records.hashes, "records": records.records, "made_with": made_with}
    text = re.sub(r"\[[^][{}]+\]", on_one_line, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))
    if json.loads(text) != content:
        raise RuntimeError("the shortened text does not hold the same records")
    Path(out).write_text(text + "\n", encoding="utf-8")


def on_one_line(values: re.Match[str]) -> str:
    """Join a short list into one line, so that a change to it is one line of a diff."""
    line = re.sub(r"\n *", " ", values[0]).replace("[ ", "[").replace(" ]", "]")
    return line if len(line) <= 100 else values[0]


class Records:
    """Runs commands and keeps their records and file hashes by name."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.hashes: dict[str, str] = {}

    def run(self, name: str, command: str) -> None:
        """Run a command, which must succeed, and keep its JSON record."""
        from click.testing import CliRunner

        import cli

        result = CliRunner().invoke(cli.main, [*command.split(), "--json"])
        if result.exit_code != 0:
            raise RuntimeError(f"{name}: exit status {result.exit_code}\n{result.output}") from result.exception
        self.records[name] = cleaned(json.loads(result.stdout))

    def log(self, name: str, path: str) -> None:
        """Keep the lines of a JSON lines file."""
        self.records[name] = [cleaned(json.loads(line)) for line in Path(path).read_text().splitlines()]

    def table(self, name: str, path: str) -> None:
        """Keep the rows of a CSV file without the header."""
        with open(path, newline="", encoding="utf-8") as file:
            self.records[name] = [[number(cell) for cell in row] for row in list(csv.reader(file))[1:]]

    def checkpoint(self, name: str, path: str) -> None:
        """Hash the weights and the optimizer momentum of a checkpoint."""
        import torch

        content = torch.load(path, weights_only=True)
        self.hashes[f"{name} weights"] = sha256(content.get("state_dict", content).items())
        if "optimizer" in content:
            state = content["optimizer"]["state"]
            buffers = ((str(index), value["momentum_buffer"]) for index, value in state.items() if value)
            self.hashes[f"{name} momentum"] = sha256(buffers)

    def safetensors(self, name: str, path: str) -> None:
        """Hash the tensors of a safetensors file."""
        from safetensors.torch import load_file

        self.hashes[name] = sha256(load_file(path).items())

    def features(self, name: str, path: str) -> None:
        """Hash each dataset of a feature file."""
        import h5py
        import numpy as np

        def visit(key: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.names is None:
                values = item.asstr()[:] if h5py.check_string_dtype(item.dtype) else item[:]
                values = np.char.encode(values.astype(str), "utf-8") if values.dtype == object else values
                self.hashes[f"{name} {key}"] = sha256([(key, values)])

        with h5py.File(path) as file:
            file.visititems(visit)


def sha256(tensors: Iterable[tuple[str, Any]]) -> str:
    """Hash the names, dtypes, shapes and values of tensors or arrays, sorted by name."""
    import numpy as np

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        values = np.ascontiguousarray(tensor)
        digest.update(f"{name} {values.dtype} {tuple(np.shape(tensor))}\n".encode() + values.tobytes())
    return digest.hexdigest()


def cleaned(value: Any) -> Any:
    """A copy of a record without values that differ between runs."""
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items() if not LEFT_OUT.fullmatch(key)}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if isinstance(value, str):
        return CACHE_KEY.sub("<key>", value)
    return value


def number(text: str) -> str | float:
    """A table cell as a number if it is one, otherwise its text."""
    try:
        return float(text)
    except ValueError:
        return text


def draw_images() -> None:
    """Write photos/ (36 images in three classes; one is a duplicate, one unreadable) and voc/ (a detection dataset)."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    colors = {"disc": (230, 60, 60), "square": (60, 200, 80), "triangle": (70, 90, 240)}

    def drawn(kind: str, side: int) -> tuple[Image.Image, list[int]]:
        image = Image.fromarray(rng.integers(0, 120, (side, side, 3), dtype=np.uint8))
        size = int(rng.integers(side // 3, side // 2))
        x, y = (int(value) for value in rng.integers(1, side - size, 2))
        pen, right, bottom = ImageDraw.Draw(image), x + size - 1, y + size - 1
        if kind == "disc":
            pen.ellipse((x, y, right, bottom), fill=colors[kind])
        elif kind == "square":
            pen.rectangle((x, y, right, bottom), fill=colors[kind])
        else:
            pen.polygon(((x, bottom), (right, bottom), (x + size // 2, y)), fill=colors[kind])
        return image, [x + 1, y + 1, right + 1, bottom + 1]

    for kind in colors:
        Path("photos", kind).mkdir(parents=True)
        for index in range(12):
            image, _ = drawn(kind, 24 + index % 3)
            image.save(Path("photos", kind, f"{index:02d}.png"), compress_level=0)  # the same bytes by any zlib
    Path("photos/disc/11.png").write_bytes(Path("photos/disc/03.png").read_bytes())
    Path("photos/square/07.png").write_bytes(b"not an image")

    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        Path("voc", name).mkdir(parents=True)
    for split, count in (("trainval", 4), ("test", 3)):
        names = [f"{split}{index}" for index in range(count)]
        Path("voc/ImageSets/Main", f"{split}.txt").write_text("\n".join(names) + "\n")
        for index, name in enumerate(names):
            kind = list(colors)[index % 3]
            image, box = drawn(kind, 64)
            image.save(Path("voc/JPEGImages", f"{name}.jpg"), quality=95)
            corners = "".join(
                f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            Path("voc/Annotations", f"{name}.xml").write_text(
                "<annotation><size><width>64</width><height>64</height><depth>3</depth></size><object>"
                f"<name>{kind}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object></annotation>"
            )


def run_digits(records: Records) -> None:
    """Pretrain three encoders, and run the other commands on them and their feature files."""
    encoder, sets = "demo/simsiam/checkpoint_0000.pth.tar", "--train demo/simsiam-train.h5 --test demo/simsiam-test.h5"
    for name, options, checkpoint in (
        ("untrained", "--epochs 0", "checkpoint_untrained"),
        ("simsiam", "--epochs 1", "checkpoint_0000"),
        ("no-stop-gradient", "--epochs 1 --no-stop-gradient", "checkpoint_0000"),
    ):
        common = f"--data digits#train --preset digits --seed 3 --out demo/{name}"
        records.run(f"pretrain on digits, {name}", f"pretrain {common} {options}")
        for split in ("train", "test"):
            data = f"--checkpoint demo/{name}/{checkpoint}.pth.tar --data digits#{split}"
            records.run(f"extract digits {split}, {name}", f"extract {data} --out demo/{name}-{split}.h5")
    for name in ("simsiam", "no-stop-gradient"):
        records.log(f"log of {name}", f"demo/{name}/log.jsonl")
        records.checkpoint(name, f"demo/{name}/checkpoint_0000.pth.tar")
    records.checkpoint("untrained", "demo/untrained/checkpoint_untrained.pth.tar")
    for split in ("train", "test"):
        records.features(f"digits {split}", f"demo/simsiam-{split}.h5")

    records.run("inspect", f"inspect {encoder}")
    for target, file in (
        ("reference", "r.pth.tar"),
        ("torchvision", "v.pth"),
        ("timm", "t.safetensors"),
        ("safetensors", "s.safetensors"),
    ):
        records.run(f"convert to {target}", f"convert {encoder} --to {target} --out {file}")
        (records.safetensors if "safe" in file else records.checkpoint)(f"converted to {target}", file)

    for name, options in {
        "simsiam-code": "--preset simsiam-code",
        "simsiam-paper, a subset of each class": "--preset simsiam-paper --epochs 9 --fraction 0.1,0.5",
        "moco-sgd": "--preset moco-sgd --epochs 12",
        "dino, standardized": "--preset dino --epochs 5 --scaling standard",
        "logistic": "--preset logistic -C 0.01,1",
        "small": "--preset small --epochs 10 --out linear --save-head head.safetensors",
        "sweep": "--preset small --epochs 3 --sweep --seed 5",
        "few shots": "--preset small --epochs 10 --shots 1,5 --trials 2",
    }.items():
        records.run(f"linear-eval, {name}", f"linear-eval {sets} {options}")
    records.safetensors("linear head", "head.safetensors")
    for name, options in {
        "exact": "-k 1,20,2000 --temperature 0.07,0.2",
        "majority": "-k 10 --vote majority --metric l2",
        "sweep": "--sweep --sweep-k 1,5,20 --sweep-temperature 0.05,0.2",
        "approximate": "-k 20 --index IVF16,Flat --index-parameters nprobe=2 --recall-sample 100",
    }.items():
        records.run(f"knn, {name}", f"knn {sets} {options}")
    records.run("knn, leave-one-out", "knn --train demo/simsiam-test.h5 --test demo/simsiam-test.h5 -k 5")

    gallery = "--gallery demo/simsiam-train.h5"
    records.run(
        "retrieval eval", f"retrieval eval {gallery} --queries demo/simsiam-test.h5 --index HNSW8 --recall-sample 100"
    )
    records.run("retrieval eval, leave-one-out", "retrieval eval --gallery demo/simsiam-test.h5 --metric l2 --limit 50")
    records.run("retrieval build", f"retrieval build {gallery} --out d.index --index IVF16,Flat --recall-sample 100")
    records.run("retrieval search, index", f"retrieval search photos --checkpoint {encoder} --gallery d.index -k 2")
    records.run("duplicates, one set", "duplicates demo/simsiam-test.h5 --threshold 0.999")
    records.run("duplicates, two sets", "duplicates demo/simsiam-train.h5 demo/simsiam-test.h5 --threshold 0.999")
    tests = "demo/simsiam-test.h5 demo/untrained-test.h5 demo/no-stop-gradient-test.h5"
    records.run("compare", f"compare {tests} --name a --name b --name c --out c.csv")
    trains = "--train demo/simsiam-train.h5 --train demo/no-stop-gradient-train.h5"
    records.run("compare, training sets", f"compare demo/simsiam-test.h5 demo/no-stop-gradient-test.h5 {trains} -k 5")
    records.run("rank", f"rank {tests} --sample 200")


def run_photos(records: Records) -> None:
    """Run the commands on image files: decoding, augmentations, layers, views, partial extraction and exports."""
    common = "--data photos --preset cifar10 --image-size 16 --batch-size 12 --epochs 2 --health-every 2 --workers 0"
    for name, options in {
        "pretrain": "--blur 0.5 --val photos --knn-every 1 --knn-k 5 --warmup-epochs 1 --accumulate 2",
        "pretrain, ablated": "--no-symmetric --predictor fixed --loss cross-entropy --projector-bn hidden --seed 1",
    }.items():
        folder = name.replace(", ", "-")
        records.run(name, f"pretrain {common} --out {folder} {options}")
        records.log(f"log of {name}", f"{folder}/log.jsonl")
        records.checkpoint(name, f"{folder}/checkpoint_0001.pth.tar")

    encoder = "--checkpoint pretrain/checkpoint_0001.pth.tar"
    photos = f"{encoder} --data photos --workers 0 --transform squash --crop 24 --layer pool,layer2"
    records.run("extract", f"extract {photos} --out photos.h5")
    records.features("photos", "photos.h5")
    records.run(
        "extract, views", f"extract {encoder} --data photos --views 2 --flip-average --normalize --out views.h5"
    )
    records.features("views", "views.h5")
    for rows in ("0:15", "15:36"):
        records.run(f"extract, rows {rows}", f"extract {photos} --rows {rows} --out part{rows[:1]}.h5")
    records.run("merge", "merge part0.h5 part1.h5 --out merged.h5")
    records.features("merged", "merged.h5")
    records.run("verify", f"verify photos.h5 {encoder} --data photos --sample 8")
    for target, out in (("npy", "npy"), ("parquet", "p.parquet")):
        records.run(f"export to {target}", f"export photos.h5 --to {target} --out {out}")
        del records.records[f"export to {target}"]["metrics"]["bytes"]  # versions and messages are in the file
    records.run("import", "import npy --encoder mine --to imported.h5")
    records.features("imported", "imported.h5")

    sets = "--train photos.h5 --test photos.h5 --preset small --epochs 5"
    records.run("linear-eval, layers", f"linear-eval {sets} --per-layer")
    images = f"{encoder} --train photos --test photos --preset small --epochs 2 --workers 0"
    records.run("linear-eval, end to end", f"linear-eval {images} --end-to-end --save-head ends.safetensors")
    records.safetensors("head trained end to end", "ends.safetensors")
    records.run("linear-eval, views", f"linear-eval {images} --views 2")
    records.run("predict", f"predict {encoder} --head ends.safetensors --data photos --workers 0 --out predict.csv")
    records.table("table of predict", "predict.csv")
    records.run(
        "retrieval search, image",
        f"retrieval search photos/disc/03.png --gallery photos.h5 {encoder} --table search.csv",
    )
    records.table("table of retrieval search", "search.csv")
    records.run("duplicates, photos", "duplicates photos.h5 --threshold 0.99 --table duplicates.csv")
    records.table("table of duplicates", "duplicates.csv")
    records.run("rank, views", "rank views.h5")


def run_detection(records: Records) -> None:
    """Train each torchvision detector for a few steps."""
    sizes = "--batch-size 2 --min-sizes 64 --test-size 64 --max-size 64 --proposals 20 --rois 8"
    small = f"--iterations 2 --precise-bn 2 {sizes}"
    common = f"--backend torchvision --train voc --test voc --workers 0 {small}"
    start = "--checkpoint demo/simsiam/checkpoint_0000.pth.tar"
    records.run("detect, fpn", f"detect {common} --out fpn {start} --init random --metric voc")
    records.run("detect, c4", f"detect {common} --out c4 --init random --arch resnet18 --heads c4 --metric voc07")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)
