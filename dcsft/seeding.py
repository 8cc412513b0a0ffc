"""Random streams that depend on names, not on call order.

A stream is addressed by parts such as ("icons", seed, "train", 12). The same parts give the same numbers in any
process, in any order, on any machine; Python's `hash` is salted per process and is never used.
"""

import hashlib

import numpy as np


def seed_of(*parts: object) -> int:
    """A 63-bit seed for the stream that `parts` name."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*parts: object) -> np.random.Generator:
    """A fresh numpy generator for the stream that `parts` name."""
    return np.random.Generator(np.random.PCG64(seed_of(*parts)))
