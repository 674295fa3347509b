"""Sessions for measuring leave other processes the CPUs that they do not use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.measure.sessions import open_in_bulk


def threads() -> dict[str, str]:
    """Every thread of this process -> the CPUs that it may run on."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found[task.name] = next(line for line in lines if line.startswith("Cpus_allowed_list"))
    return found


@pytest.mark.parametrize("cpus", [1, 3])
def test_threads_are_as_many_as_cpus_bound_to_none_and_do_not_spin(
    cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "relu.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> relu (float[N] x) => (float[N] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), str(graph))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    before = threads()
    session = open_in_bulk(graph)
    new = {name: allowed for name, allowed in threads().items() if name not in before}
    assert len(new) == cpus - 1  # the caller's is the first
    assert set(new.values()) <= {before[str(os.getpid())]}
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert np.array_equal(session.run(None, {"x": np.array([-1, 2], np.float32)})[0], [0, 2])
