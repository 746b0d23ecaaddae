"""An ONNX Runtime GenAI model folder from a GGUF file and a skeleton: the graph, without its numbers. Knows no cache.

The skeleton's `manifest.json` lists what the graph expects in `model.onnx.data` and where; this module fills it in.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.errors import InputError
from loadgen.targets.foundry.model.quantization import Quantized, quantize
from loadgen.targets.foundry.model.tokenizer import tokenizer_of
from loadgen.targets.foundry.model.weights import Floats, Weights, unpermute
from loadgen.targets.small_model import WEIGHTS_FILE

BUILDER_VERSION: Final = 1
"""Goes up with every change to what comes out, so that what an older builder made is built again."""

SKELETON: Final = Path(__file__).parent / "skeleton"
COPIED: Final = ("model.onnx", "genai_config.json", "tokenizer_config.json", "chat_template.jinja")
MANIFEST: Final = "manifest.json"

OnBuildProgress = Callable[[str, float], None]
"""Is called with what is being done, and which share of all the work is done, 0 to 1."""

_NORMS: Final = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_MATRICES: Final = {
    "attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_READING_SHARE: Final = 0.2
_QUANTIZING_SHARE: Final = 0.75


class Slot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One array that the graph reads from `model.onnx.data`. Arrays of one matrix stand side by side in the list."""

    name: str
    kind: Literal["FLOAT", "UINT8"]
    shape: tuple[int, ...]
    offset_bytes: int
    length_bytes: int


def build_model(gguf: Path, out: Path, on_progress: OnBuildProgress, *, skeleton: Path = SKELETON) -> None:
    """Write the model folder `out`, the same bytes every time. It is made where it is not there.

    Raises InputError when the GGUF file cannot be read or is of another model than the skeleton, TargetError when the
    package `gguf` is missing, OSError when the folder cannot be written.
    """
    slots = msgspec.json.decode((skeleton / MANIFEST).read_bytes(), type=list[Slot])
    on_progress("reading the weights", 0.0)
    weights = Weights(gguf)
    out.mkdir(parents=True, exist_ok=True)
    total = max(slot.offset_bytes + slot.length_bytes for slot in slots)
    with (out / "model.onnx.data").open("wb") as file:
        for slot, array in _arrays(weights, slots):
            _check(gguf, slot, array)
            file.seek(slot.offset_bytes)
            file.write(array.tobytes())
            done = (slot.offset_bytes + slot.length_bytes) / total
            on_progress("quantizing", _READING_SHARE + _QUANTIZING_SHARE * done)
    on_progress("writing the tokenizer", _READING_SHARE + _QUANTIZING_SHARE)
    (out / "tokenizer.json").write_bytes(tokenizer_of(weights))
    for name in COPIED:
        shutil.copyfile(skeleton / name, out / name)


def _check(gguf: Path, slot: Slot, array: NDArray[Any]) -> None:
    if array.shape != slot.shape or array.nbytes != slot.length_bytes:
        raise InputError(
            f"{gguf}: {slot.name} is {array.shape} where {slot.shape} is needed, so this is another model; "
            f"build from {WEIGHTS_FILE}"
        )


def _arrays(weights: Weights, slots: list[Slot]) -> Iterator[tuple[Slot, NDArray[Any]]]:
    """Each slot with what belongs in it. One matrix is held at a time."""
    current: tuple[str, Quantized] | None = None
    for slot in slots:
        name, product, part = slot.name.partition(".MatMul.")
        if not product:
            yield slot, _rotary(weights, name) if name.endswith("_cache") else _norm(weights, name)
            continue
        if current is None or current[0] != name:
            current = name, quantize(_matrix(weights, name))
        yield slot, _part(current[1], part)


def _part(matrix: Quantized, name: str) -> NDArray[Any]:
    match name:
        case "weight_scale":
            return matrix.scales
        case "weight_zp":
            return matrix.zero_points
        case _:
            return matrix.numbers


def _rotary(weights: Weights, name: str) -> Floats:
    """Cosine or sine of the angle (position, pair) that rotary embedding turns a pair of numbers by, (positions, h/2).

    Su et al., RoFormer (2021), equation 15; positions as many as the model's context has.
    """
    width = weights.field("llama.rope.dimension_count")
    turns = 1.0 / (weights.field("llama.rope.freq_base") ** (np.arange(0, width, 2, dtype=np.float64) / width))
    angles = np.outer(np.arange(weights.field("llama.context_length")), turns)
    wave = {"cos_cache": np.cos, "sin_cache": np.sin}[name]
    return np.asarray(wave(angles), np.float32)


def _norm(weights: Weights, name: str) -> Floats:
    """`model.layers.7.input_layernorm.weight`, as GGUF calls it; the last norm counts as one more layer."""
    _, _, layer, norm, _ = name.split(".")
    if norm == "final_norm_layernorm":
        return weights.tensor("output_norm.weight")
    return weights.tensor(f"blk.{layer}.{_NORMS[norm]}.weight")


def _matrix(weights: Weights, name: str) -> Floats:
    """`model.layers.7.mlp.up_proj`, as GGUF calls it. The embedding serves as the last matrix too."""
    if name == "lm_head":
        return weights.tensor("token_embd.weight")
    _, _, layer, part = name.split(".", 3)
    block = f"blk.{layer}"
    if part != "attn.qkv_proj":
        return weights.tensor(f"{block}.{_MATRICES[part]}.weight")
    queries = unpermute(weights.tensor(f"{block}.attn_q.weight"), weights.field("llama.attention.head_count"))
    keys = unpermute(weights.tensor(f"{block}.attn_k.weight"), weights.field("llama.attention.head_count_kv"))
    return np.concatenate([queries, keys, weights.tensor(f"{block}.attn_v.weight")])
