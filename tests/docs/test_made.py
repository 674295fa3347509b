"""What docs/ has that is made from the code is as the code would make it now."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.docs.write import MADE
from tests.paths import ROOT
from tests.test_architecture import EDGES


@pytest.mark.parametrize("name", MADE)
def test_made_files_are_what_the_code_makes(name: str) -> None:
    path = ROOT / name
    is_same = path.is_file() and path.read_text(encoding="utf-8") == MADE[name]()
    assert is_same, f"{name} is older than the code; run 'make reference' and commit what it writes"


def test_the_drawing_is_well_formed_and_has_a_box_for_every_folder() -> None:
    root = ET.fromstring(MADE["docs/rooms.svg"]())  # noqa: S314 - our own
    boxes = [item for item in root.iter() if item.get("class", "").startswith("folder")]
    assert len(boxes) == len(EDGES)
