"""What a file is that is no checkpoint, and what to give instead: one true sentence for each kind."""

import json
import os
import struct
from typing import BinaryIO

COPY_AGAIN = "copy or write the file again."
SAVE_WEIGHTS = "Save only the weights, with torch.save(model.state_dict(), FILE), and give that file."
_EXPECTED = "expected a file written by torch.save or safetensors."
_GIVE_PYTORCH = "give the PyTorch checkpoint that it was made from."
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_SSTABLE_END = struct.pack("<Q", 0xDB4775248B80FB57)  # of TensorFlow's .index files
_KNOWN_STARTS = {
    b"GGUF": f"a GGUF file; {_GIVE_PYTORCH}",
    b"PAR1": "a Parquet table; " + _EXPECTED,
    b"%PDF": "a PDF document; " + _EXPECTED,
    b"SQLite format 3": "an SQLite database; " + _EXPECTED,
    b"Rar!": "a RAR archive; unpack it and give the checkpoint in it.",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and give the checkpoint in it.",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it with `unzstd` and give the file in it.",
}


def not_a_checkpoint(file: BinaryIO, name: str) -> str:
    """The message for a file in no supported format, open at any position."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(4096)
    return f"{name} is not a checkpoint but {_kind(file, start, size, name)}"


def _kind(file: BinaryIO, start: bytes, size: int, name: str) -> str:
    for known, kind in _KNOWN_STARTS.items():
        if start.startswith(known):
            return kind
    if start.startswith(_IMAGE_STARTS) or start[8:12] == b"WEBP":
        return f"an image; {_EXPECTED}"
    if start.startswith(b"\x89HDF"):
        return _hdf5_kind(name)
    if start[257:262] == b"ustar":
        return _tar_kind(file)
    if _is_onnx(start, name):
        return f"an ONNX model, whose weights are not read; {_GIVE_PYTORCH}"
    if start[4:8] == b"TFL3":
        return f"a TensorFlow Lite model; {_GIVE_PYTORCH}"
    if _is_tensorflow(file, size, name):
        return f"part of a TensorFlow checkpoint, whose weights are not read; {_GIVE_PYTORCH}"
    if name.endswith(".msgpack"):
        return f"a Flax checkpoint, whose weights are not read; {_GIVE_PYTORCH}"
    if any(byte < 9 for byte in start):
        return f"a file of unknown format; {_EXPECTED}"
    return _text_kind(file, start)


def _text_kind(file: BinaryIO, start: bytes) -> str:
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer to it; run `git lfs pull` in its repository, or download the file itself."
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page that was downloaded in its place; download the file itself, signed in if the site asks for it."
    if text.startswith(b"<?xml"):
        return f"an XML file; {_EXPECTED}"
    if text.startswith(b"model_checkpoint_path:"):
        return f"TensorFlow's list of checkpoints; {_GIVE_PYTORCH}"
    if text[:1] in (b"{", b"["):
        file.seek(0)
        return _json_kind(file.read(2**24))
    return f"text; {_EXPECTED}"


def _json_kind(text: bytes) -> str:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return f"text; {_EXPECTED}"
    keys = set(content) if isinstance(content, dict) else set()
    if {"added_tokens", "model"} <= keys or "tokenizer_class" in keys:
        return f"a Hugging Face tokenizer; {_EXPECTED}"
    if keys & {"architecture", "architectures", "model_type", "pretrained_cfg"}:
        return "the configuration of a model, without weights; give the weights beside it, or their folder."
    return f"a JSON file; {_EXPECTED}"


def _hdf5_kind(name: str) -> str:
    import h5py

    try:
        with h5py.File(name, "r") as file:
            if "format_version" in file.attrs and "features" in file:
                return "a feature file; give it where features are expected, or give the encoder's checkpoint."
            if "keras_version" in file.attrs or "model_weights" in file or "layer_names" in file.attrs:
                return f"a Keras model (HDF5), whose weights are not read; {_GIVE_PYTORCH}"
    except Exception:  # a damaged file can raise any exception
        return f"a damaged HDF5 file; {_EXPECTED}"
    return f"an HDF5 file; {_EXPECTED}"


def _tar_kind(file: BinaryIO) -> str:
    import tarfile

    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            first = {member.name for member, _ in zip(archive, range(10), strict=False)}
    except (tarfile.TarError, OSError, ValueError):
        return f"a damaged tar archive; {COPY_AGAIN}"
    if {"storages", "tensors", "pickle"} <= first:
        return "a file of PyTorch 0.1; load it with torch.load and write it again with torch.save."
    return "a tar archive; unpack it and give the checkpoint in it."


def _is_onnx(start: bytes, name: str) -> bool:
    # ModelProto: field 1, the IR version, then most often field 2, the producer's name.
    by_content = start[:1] == b"\x08" and start[2:3] == b"\x12" and 0 < start[1] < 32
    return by_content or name.lower().endswith((".onnx", ".onnx_data"))


def _is_tensorflow(file: BinaryIO, size: int, name: str) -> bool:
    file.seek(max(0, size - len(_SSTABLE_END)))
    return file.read(len(_SSTABLE_END)) == _SSTABLE_END or ".ckpt.data-" in name or name.endswith("saved_model.pb")
