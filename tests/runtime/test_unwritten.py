"""What a person is told of a write that failed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.unwritten import size_text, why_unwritten


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_is_free_where_the_file_would_go(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=3 * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    said = why_unwritten(OSError(number, ""), tmp_path / "not" / "made")
    assert said.endswith(" (3,072 KiB are free there); free some space or choose another folder")
    assert asked == [tmp_path]


def test_other_reasons_have_other_ways_out(tmp_path: Path) -> None:
    said = why_unwritten(OSError(errno.EACCES, ""), tmp_path)
    assert said == "Permission denied; choose another folder"
    said = why_unwritten(OSError(errno.EFBIG, ""), tmp_path)
    assert said == "File too large; raise the limit on the size of files (ulimit -f)"
    several = shutil.Error([("a", "b", "[Errno 28] No space left on device")])
    assert why_unwritten(several, tmp_path).startswith("not every file could be copied; free some space")


def test_sizes_have_the_unit_that_tells_something() -> None:
    assert [size_text(size) for size in (0, 3000, 10 * 2**20, 3 * 2**30)] == ["0 KiB", "3 KiB", "10 MiB", "3,072 MiB"]
