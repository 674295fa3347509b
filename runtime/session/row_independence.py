"""Whether a session's rows come out the same, bit by bit, alone and in a batch: computed, not believed.

ONNX Runtime picks matrix kernels by shape, bits, block size and CPU, and not every pair of them rounds alike: on a CPU
with AVX-512, MatMulNBits does at 8 bits in blocks up to 64 and at 4 bits in blocks up to 32, and not above. Knows the
device seam only.
"""

from __future__ import annotations

import numpy as np

from runtime.session.session import Session, decode_logits

_BATCHES = (2, 4, 16)


def rows_are_independent(session: Session, most: int = _BATCHES[-1]) -> bool:
    """Decode the first and last row of batches of 2, 4 and 16, also alone, and compare. Overwrites every slot's start.

    A session of one slot has nothing to compare. Takes ten decode calls; batches above ``most`` rows are left out.
    """
    for size in (size for size in _BATCHES if size <= min(most, session.info.num_slots)):
        token_ids = np.arange(1, size + 1, dtype=np.int64) % session.info.vocab_size
        positions = np.zeros(size, np.int64)
        together = decode_logits(session, 0, token_ids, positions)[[0, -1]].copy()  # the next call reuses the rows
        for row, slot in zip(together, (0, size - 1), strict=True):
            alone = decode_logits(session, slot, token_ids[slot : slot + 1], positions[:1])
            if not np.array_equal(alone[0], row):
                return False
    return True
