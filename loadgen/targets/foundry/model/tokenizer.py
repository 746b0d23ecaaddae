"""A `tokenizer.json` from the fields of a GGUF file with a byte-level BPE vocabulary. Knows no files."""

import json
from typing import Any, Final

from loadgen.targets.foundry.model.weights import Weights

CONTROL: Final = 3
"""GGUF's token type for tokens that no text spells, such as <|im_start|>."""

BYTE_LEVEL: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def tokenizer_of(weights: Weights) -> bytes:
    """The file's contents: SmolLM2's tokenizer, which splits numbers into digits, then words into bytes.

    A token's id is its place in the list; a merge is two tokens with a space between. Raises InputError for a GGUF file
    without these fields.
    """
    tokens: list[str] = weights.field("tokenizer.ggml.tokens")
    kinds: list[int] = weights.field("tokenizer.ggml.token_type")
    merges: list[str] = weights.field("tokenizer.ggml.merges")
    split = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(number, token)
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _added_token(number: int, token: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
