"""The store of steps: one maker per key, whole entries or none, and nothing removed that is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import powertrain
from export.commands.cache import cache_group
from export.pipeline.cache import Cache, Stored, new_entry
from export.pipeline.keys import CODE, code_digest, code_files, differences, step_key
from export.pipeline.upkeep import superfluous


def put(cache: Cache, key: str, data: bytes = b"12345", used: int = 0) -> Stored:
    with cache.making(key) as files:
        (files / "sub").mkdir()
        (files / "sub/data").write_bytes(data)
        entry = new_entry(files, kind="package", label=f"of {key[:2]}", key=key, inputs={"a": "1"}, facts={})
        stored = cache.publish(entry, files)
    if used:
        os.utime(stored.folder.parent / "entry.json", (used, used))
    return stored


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_an_entry_is_whole_or_not_there(cache: Cache) -> None:
    assert cache.find("k") is None
    with cache.making("k") as files:
        (files / "half").touch()
    assert cache.find("k") is None
    assert cache.unfinished_keys() == []
    stored = put(cache, "k")
    found = cache.find("k")
    assert found == stored
    assert (found.folder / "sub/data").read_bytes() == b"12345"
    (found.folder / "sub/data").write_bytes(b"1234")
    assert cache.find("k") is None
    put(cache, "k")
    assert cache.find("k") is not None
    (stored.folder.parent / "entry.json").write_text("{")
    assert cache.find("k") is None


def test_two_makers_of_one_key_take_turns(cache: Cache) -> None:
    """The second gets in when the first is out, and then finds the first one's entry."""
    found: list[bool] = []

    def second() -> None:
        with cache.making("k"):
            found.append(cache.find("k") is not None)

    thread = threading.Thread(target=second)
    with cache.making("k") as files:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        cache.publish(new_entry(files, kind="plan", label="l", key="k", inputs={}, facts={}), files)
    thread.join()
    assert found == [True]


def test_readers_go_together_and_keep_an_entry_from_being_removed(cache: Cache) -> None:
    put(cache, "k")
    with cache.reading("k"), cache.reading("k"):
        assert not cache.remove("k")
        assert cache.find("k") is not None
    assert cache.remove("k")
    assert cache.find("k") is None
    assert not any((cache.root / "steps").iterdir())


def test_what_is_unused_for_longest_goes_first(cache: Cache) -> None:
    for number, key in enumerate("abc", 1):
        put(cache, key, bytes(100), used=1000 * number)
    cache.touch("a")
    chosen = superfluous(cache, older_than_days=None, max_bytes=150)
    assert [stored.entry.key for stored in chosen] == ["b", "c"]
    assert [one.entry.key for one in superfluous(cache, older_than_days=1, max_bytes=None)] == ["b", "c"]
    assert superfluous(cache, older_than_days=None, max_bytes=300) == []


def run(cache: Cache, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cache_group, [words[0], "--cache", str(cache.root), *words[1:]])
    return result.exit_code, result.output


def test_the_commands_list_verify_and_prune(cache: Cache) -> None:
    whole, hurt = put(cache, "a" * 64, used=1000), put(cache, "b" * 64, used=2000)
    (cache.root / "partial/c").mkdir()
    (hurt.folder / "sub/data").write_bytes(b"54321")
    status, text = run(cache, "list")
    assert status == 0
    assert text.index("of aa") < text.index("of bb")
    assert f"2 entries, 0.0 MiB in {cache.root}" in text
    status, text = run(cache, "verify")
    assert (status, text.splitlines()) == (
        1,
        [f"{'b' * 12} package of bb: sub/data missing or altered", "2 entries, 1 damaged"],
    )
    assert "; removed" in run(cache, "verify", "--remove")[1]
    assert run(cache, "verify") == (0, "1 entries, 0 damaged\n")
    assert "say what is to go" in run(cache, "prune")[1]
    assert "1 entries" in run(cache, "prune", "--older-than", "1", "--dry-run")[1]
    assert cache.find(whole.entry.key) is not None
    assert run(cache, "prune", "--max-gib", "0") == (
        0,
        "removed 1 entries, 0.0 MiB, and what 1 killed steps left\n",
    )
    assert list(cache.entries()) == []


def test_a_cache_that_is_not_there_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(powertrain.main, ["cache", "list", "--cache", str(tmp_path / "no")])
    assert result.exit_code == 1
    assert "there is no cache at" in result.output


def test_a_key_depends_on_kind_names_and_values_in_any_order() -> None:
    key = step_key("plan", {"a": "1", "b": "2"})
    assert key == step_key("plan", {"b": "2", "a": "1"})
    others = [("package", {"a": "1", "b": "2"}), ("plan", {"a": "2", "b": "1"}), ("plan", {"a": "1"})]
    assert len({key, *(step_key(kind, inputs) for kind, inputs in others)}) == 4
    assert differences({"a": "1", "gone": "x", "long": "y"}, {"a": "2", "new": "z", "long": "w" * 64}) == [
        "a is 2, was 1",
        "new is z, was none",
        "long changed",
        "gone is none, was x",
    ]


def test_the_code_that_matters_is_what_is_imported_with_its_data(tmp_path: Path) -> None:
    room = tmp_path / "export"
    (room / "texts").mkdir(parents=True)
    (room / "a.py").write_text("from export import b\n\n\ndef f():\n    from export.c import (\n        x,\n    )\n")
    for name in ("b.py", "c.py", "stranger.py", "__init__.py", "texts/one.txt", "errors.py"):
        (room / name).write_text("from export.errors import E\n" if name == "b.py" else "")
    files = [path.relative_to(room).as_posix() for path in code_files("export.a", root=tmp_path)]
    assert files == ["__init__.py", "a.py", "b.py", "c.py", "texts/one.txt"]  # words of errors decide no byte
    before = code_digest("export.a", root=tmp_path)
    code_digest.cache_clear()
    (room / "stranger.py").write_text("1")
    assert code_digest("export.a", root=tmp_path) == before
    code_digest.cache_clear()
    (room / "texts/one.txt").write_text("1")
    assert code_digest("export.a", root=tmp_path) != before


def test_what_decides_a_package_is_in_its_code() -> None:
    def names(module: str) -> set[str]:
        return {path.relative_to(CODE).as_posix() for path in code_files(module)}

    package, plan = names("export.package.builder"), names("export.plan.builder")
    assert {"export/measure/texts/prose.txt", "export/graph/trt/weights.py", "export/checkpoint/quantize.py"} <= package
    assert not {"export/plan/builder.py", "export/pipeline/perform.py", "export/commands/export.py"} & package
    assert {"export/plan/network.py", "export/graph/trt/slot_length.py"} <= plan
    evaluation = names("bench.commands.evaluate_run")
    assert {"bench/evaluation/data/questions.jsonl", "bench/evaluation/scorer.py"} <= evaluation
    assert "export/graph/trt/dialect.py" not in plan  # a plan's key has the graph that it wrote


def test_a_build_with_nothing_to_do_imports_nothing_that_builds() -> None:
    program = (
        "import sys; from export.pipeline import display, report, runner, setup; "
        "sys.exit(', '.join({'numpy', 'onnx', 'onnxruntime', 'ml_dtypes', 'rich.progress', 'xml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CODE, check=False)
    assert done.stderr == "\n"
