"""The one source of chance: a generator for a seed and a purpose, so that no two uses share a stream."""

import hashlib

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator that depends on `seed` and on `purpose` alone.

    Equal arguments give equal streams on every platform; different purposes give independent ones. The purpose
    is hashed (SHA-256) into the entropy of numpy's `SeedSequence`, so adding a use never shifts another.
    """
    text = "\x1f".join(str(part) for part in purpose)
    digest = hashlib.sha256(text.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed & (2**64 - 1), *words])))
