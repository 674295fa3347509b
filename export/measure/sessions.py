"""Sessions on the CPU for what runs in bulk: the float32 twin, golden rows, the package's graph for its quality report.

Left to itself, ONNX Runtime starts a thread for each core of the machine, binds it there and lets it spin while it
waits. Two steps of a build beside each other then want the same cores and burn them, and a container that may use two
of 64 cores gets 64 threads. Here are as many threads as CPUs that this process may use, bound to none, and asleep when
they have nothing to do. No result depends on their number. ``quality.open_session`` stays as it is: what a recipe pins
was measured by that file's bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime
from runtime.package import dtypes
from runtime.package.manifest import ModelShape

from export.measure.quality import GraphRunner


def open_in_bulk(graph: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU that gives memory back after each run, and leaves CPUs that it does not use to others."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class BulkRunner(GraphRunner):
    """A ``GraphRunner`` over many windows."""

    def __init__(self, graph: Path, shape: ModelShape) -> None:
        self._session, self._shape = open_in_bulk(graph), shape
        self._kv_dtype = dtypes.BY_ORT_NAME[self._session.get_inputs()[-1].type].numpy
