"""Matrices as 4-bit integers with a scale and a zero point for every 32 numbers. Knows no files and no models.

The layout is that of ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized` (bits = 4, block size 32, asymmetric): a
number is (q − zero point) × scale, two q to a byte, the earlier one in the low half.
"""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCK: Final = 32
TOP: Final = np.float32(15)
CLIPS: Final = np.linspace(0.78, 1.0, 12, dtype=np.float32)
"""How much of a block's range the 16 steps span: clipping an outlier can cost less than coarser steps for the rest."""
SMALLEST_SCALE: Final = np.float32(1e-8)
PIECE_BLOCKS: Final = 4096
"""Blocks worked on at once, so that what the search writes and reads again (two times 512 KiB) stays in a core's
cache; it is three times as fast as a whole matrix at once."""


class Quantized(Struct, frozen=True):
    """A matrix of N rows and K columns, B = K / 32 blocks a row.

    scales: float32 (N, B). zero_points: uint8 (N, ⌈B / 2⌉), two to a byte. numbers: uint8 (N, B, 16), two to a byte.
    """

    scales: Floats
    zero_points: Bytes
    numbers: Bytes


def quantize(matrix: Floats) -> Quantized:
    """The 4-bit form of a matrix (N, K), all finite, with the least squared error in each block.

    A block's range is taken to include 0. Of the twelve shares of it in `CLIPS`, the one with the least error wins, the
    first of equals. Raises ValueError unless K is a multiple of 32.
    """
    rows, columns = matrix.shape
    if columns % BLOCK:
        raise ValueError(f"{columns} columns are not whole blocks of {BLOCK}")
    blocks_a_row = columns // BLOCK
    blocks = np.ascontiguousarray(matrix, np.float32).reshape(rows * blocks_a_row, BLOCK)
    pieces = [blocks[start : start + PIECE_BLOCKS] for start in range(0, len(blocks), PIECE_BLOCKS)]
    done = [_quantize_piece(piece) for piece in pieces]
    scales, zero_points, numbers = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return Quantized(
        scales=scales.reshape(rows, blocks_a_row),
        zero_points=pack(zero_points.reshape(rows, blocks_a_row)),
        numbers=numbers.reshape(rows, blocks_a_row, BLOCK // 2),
    )


def dequantize(quantized: Quantized) -> Floats:
    """The matrix (N, K) that a runtime computes with."""
    rows, blocks_a_row = quantized.scales.shape
    zero_points = unpack(quantized.zero_points)[:, :blocks_a_row, None].astype(np.float32)
    numbers = unpack(quantized.numbers).astype(np.float32)
    matrix: Floats = (numbers - zero_points) * quantized.scales[..., None]
    return matrix.reshape(rows, blocks_a_row * BLOCK)


def pack(numbers: Bytes) -> Bytes:
    """Numbers below 16 (…, n), two to a byte (…, ⌈n / 2⌉), the earlier one in the low half; the last may stay alone."""
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    packed: Bytes = numbers[..., ::2] | (numbers[..., 1::2] << np.uint8(4))
    return packed


def unpack(packed: Bytes) -> Bytes:
    """The numbers below 16 in bytes (…, n): (…, 2n)."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _quantize_piece(blocks: Floats) -> tuple[Floats, Bytes, Bytes]:
    """Scales (n,), zero points (n,) and packed numbers (n, 16) of blocks (n, 32)."""
    numbers = np.ascontiguousarray(blocks.T)  # (32, n): what is done to all blocks is then one long inner loop
    low = np.minimum(numbers.min(axis=0), 0)
    high = np.maximum(numbers.max(axis=0), 0)
    scales, zero_points = _steps(low, high, CLIPS[0])
    errors = _squared_error(numbers, scales, zero_points)
    for clip in CLIPS[1:]:
        other_scales, other_zero_points = _steps(low, high, clip)
        other_errors = _squared_error(numbers, other_scales, other_zero_points)
        better = other_errors < errors
        np.copyto(errors, other_errors, where=better)
        np.copyto(scales, other_scales, where=better)
        np.copyto(zero_points, other_zero_points, where=better)
    chosen = (_offsets(numbers, scales, zero_points) + zero_points).astype(np.uint8)
    return scales, zero_points.astype(np.uint8), pack(np.ascontiguousarray(chosen.T))


def _steps(low: Floats, high: Floats, clip: np.float32) -> tuple[Floats, Floats]:
    """Scale and zero point (a whole number, 0 to 15) where 16 steps span `clip` of the range from low to high."""
    scales = np.maximum((high - low) * clip / TOP, SMALLEST_SCALE)
    return scales, np.clip(np.rint(-low * clip / scales), 0, TOP)


def _offsets(numbers: Floats, scales: Floats, zero_points: Floats) -> Floats:
    """q − zero point, a whole number, for each number: the nearest there is."""
    offsets = np.divide(numbers, scales)
    np.rint(offsets, out=offsets)
    np.maximum(offsets, -zero_points, out=offsets)
    np.minimum(offsets, TOP - zero_points, out=offsets)
    return offsets


def _squared_error(numbers: Floats, scales: Floats, zero_points: Floats) -> Floats:
    """What each block loses (n,), summed in one order of our own, so that every machine finds the same winner."""
    lost = _offsets(numbers, scales, zero_points)
    lost *= scales
    lost -= numbers
    lost *= lost
    sums = lost[:8] + lost[8:16]
    sums += lost[16:24]
    sums += lost[24:]
    while len(sums) > 1:
        sums = sums[::2] + sums[1::2]
    total: Floats = sums[0]
    return total
