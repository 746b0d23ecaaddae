"""The only source of random numbers: a generator for each seed and purpose, so that no two uses share a stream."""

import hashlib

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator that depends only on `seed` and `purpose`.

    Equal arguments give equal streams on every platform; different purposes give independent streams. The purpose
    is hashed (SHA-256) into the entropy of numpy's `SeedSequence`, so a new use never shifts another one.
    """
    text = "\x1f".join(str(part) for part in purpose)
    digest = hashlib.sha256(text.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed & (2**64 - 1), *words])))
