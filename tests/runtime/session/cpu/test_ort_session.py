"""The CPU session's buffers: many rows of logits take memory once, not once a slot."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np

from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.kv_budget import KVPlan
from tests.export.tiny_package import write_package

NUM_TOKENS = 20


def test_many_rows_of_logits_are_kept_for_one_slot_only(tmp_path: Path) -> None:
    package = write_package(tmp_path / "tiny", with_trt=False)
    kv = KVPlan(num_slots=3, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    options = OrtOptions(intra_op_threads=1)
    session = OrtSession(package.path("ort/model.onnx"), package.manifest.shape, kv, options, "float32")
    token_ids = np.arange(NUM_TOKENS)
    buffers = []
    for slot in range(3):
        wide = session.prefill(slot, token_ids, 0, NUM_TOKENS)
        last = wide[-1].copy()
        buffers.append(weakref.ref(wide))
        del wide
        assert np.array_equal(session.prefill(slot, token_ids, 0, 1)[0], last)
    assert [buffer() is not None for buffer in buffers] == [False, False, True]
    again = session.prefill(2, token_ids, 0, NUM_TOKENS)
    assert again is buffers[2]()  # the pieces of one prompt share theirs
    session.close()
