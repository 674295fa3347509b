"""A low-rank adapter ready for a graph with room for it: what a request carries and a session binds.

Matrices are padded to the room's full rank, so that two adapters differ in numbers and never in shape. Knows no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """``matrices`` maps each of the graph's inputs (``graph_io.adapter_names``) to one row of it, read-only.

    What is absent is zero. ``digest`` is that of the files: equal digests, equal answers.
    """

    name: str
    digest: str
    matrices: Mapping[str, Matrix] = field(repr=False)
