"""Seeds: what may be given, and how it reaches generators that read fewer bits."""

import hashlib

MAX_SEED = 2**63  # a seed is at least 0 and below this


def fold_seed(seed: int) -> int:
    """A seed in 32 bits: itself where it fits, else the first four bytes of the SHA-256 of its decimal digits.

    torch's CPU generator takes a seed of 64 bits and reads the lower 32: 0 and 2^32 would be one seed.
    """
    if 0 <= seed < 2**32:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
