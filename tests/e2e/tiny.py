"""A tiny llama-architecture model with random weights, made on the spot: the real engine, very fast."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 4, 2, 128
MANY_LAYERS = 160
"""For a token that takes milliseconds, so that a busy client still sees one token after another."""
SPECIALS = ("<unk>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>'+m['role']+'\n'+m['content']+'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    signs = {byte: byte for byte in printable} | {byte: 256 + place for place, byte in enumerate(hidden)}
    return [chr(signs[byte]) for byte in range(256)]


def make_tiny_model(path: Path, layers: int = LAYERS) -> Path:
    """Write the model; it answers in lower-case letters, spaces and full stops, for as long as it is asked to."""
    chance = np.random.default_rng(0)
    tokens = [*SPECIALS, *byte_alphabet()]

    def weights(*shape: int) -> NDArray[np.float16]:
        return (chance.standard_normal(shape) * 0.08).astype(np.float16)

    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, tokens, layers)
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    speakable = [len(SPECIALS) + byte for byte in [*range(97, 123), 32, 46]]
    head = np.zeros((len(tokens), WIDTH), np.float16)
    head[speakable] = weights(len(speakable), WIDTH)
    writer.add_tensor("output.weight", head)
    narrow = KV_HEADS * WIDTH // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (narrow, WIDTH),
        "attn_v": (narrow, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, np.float32))
        for name, shape in shapes.items():
            # Layers beyond the first take their time and change nothing: what the model says stays the same.
            adds_nothing = layer >= LAYERS and name in {"attn_output", "ffn_down"}
            tensor = np.zeros(shape, np.float16) if adds_nothing else weights(*shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, tokens: list[str], layers: int) -> None:
    writer.add_name("tiny-random-byte")
    writer.add_license("CC0-1.0")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3, *[1] * 256])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
