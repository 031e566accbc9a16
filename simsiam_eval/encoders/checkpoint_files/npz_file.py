"""Read numpy's archives of arrays (.npz) as tensors."""

import io
import math
import zipfile

import numpy as np
import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.pickled_values import tensor_of
from simsiam_eval.encoders.checkpoint_files.torch_file import Source, member_storage
from simsiam_eval.encoders.checkpoint_files.unpickler import UnpicklingError

_HEADER = 2**17


def read_npz(source: Source, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Name -> tensor of each numeric array; arrays of strings or objects are left out.

    Raises:
        UnpicklingError: the archive is damaged.
    """
    arrays = {}
    for info in archive.infolist():
        storage = member_storage(source, archive, info, info.file_size)
        array = _array(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
        tensor = NotImplemented if array is None else tensor_of(array)
        if tensor is not NotImplemented:
            arrays[info.filename.removesuffix(".npy")] = tensor
    return arrays


def _array(data: np.ndarray) -> np.ndarray | None:
    """The array in the bytes of a .npy file; None if it has no numbers."""
    header = io.BytesIO(data[:_HEADER].tobytes())
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(header)
    if dtype.kind not in "biufc":
        return None
    length = math.prod(shape) * dtype.itemsize
    values = data[header.tell() : header.tell() + length]
    if len(values) < length:
        raise UnpicklingError("an array that is cut off")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C") if length else np.empty(shape, dtype)
