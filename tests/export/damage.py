"""Ways to damage a file, bytes changed and its end cut off, and the layer of a reader that refuses what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from export.checkpoint.checkpoint import Checkpoint, check_shapes
from export.checkpoint.spec import weight_shapes
from export.errors import ExportError
from export.package.text_check import check_text_files
from runtime.text.template.process import TemplateWorker

_WORKER = TemplateWorker()  # one for all, where each build would start its own


@dataclass(frozen=True)
class Damage:
    """``changes`` are (place, new byte); ``kept`` is the share of the file that is left."""

    changes: list[tuple[int, int]]
    kept: float

    def done_to(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for place, byte in self.changes:
            damaged[place] = byte
        return bytes(damaged[: round(len(damaged) * self.kept)])


def damage_within(*ranges: tuple[int, int]) -> st.SearchStrategy[Damage]:
    """One to four bytes changed, each in one of ``ranges`` [start, stop) of places; a fifth of the files are cut."""
    place = st.one_of(*(st.integers(start, stop - 1) for start, stop in ranges))
    byte = st.sampled_from([0, 127, 255]) | st.integers(0, 255)
    kept = st.one_of(*[st.just(1.0)] * 4, st.floats(0, 1))
    return st.builds(Damage, st.lists(st.tuples(place, byte), min_size=1, max_size=4), kept)


def refusing_layer(open_checkpoint: Callable[[], Checkpoint]) -> str:
    """Which layer refuses a checkpoint, in the order in which a build comes to them, or ``none``.

    Whatever is raised must be an ExportError of one line.
    """
    layer = "open"
    try:
        checkpoint = open_checkpoint()
        layer = "shapes"
        check_shapes(checkpoint)
        layer = "text"
        text = checkpoint.text_files()
        layer = "text check"
        check_text_files(text, checkpoint.spec.vocab_size, _WORKER)
        layer = "values"
        for name, shape in weight_shapes(checkpoint.spec).items():
            assert checkpoint.tensor(name).numpy().shape == shape
    except ExportError as error:
        message = str(error)
    else:
        return "none"
    assert "\n" not in message
    assert len(message) < 1000
    return layer
