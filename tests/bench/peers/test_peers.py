"""The recipes of the peers: what is done once, what is done again, and what never counts as finished."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.commands.bench import bench_group
from bench.commands.peers_run import check_checkpoint
from bench.errors import BenchError
from bench.peers import genai, genai_checkpoint, llama_cpp, making
from bench.peers.llama_cpp import SDIST, LlamaCpp, build
from bench.peers.making import environment, is_made, mark_made, run
from runtime.package.manifest import Manifest, ModelShape, SourceInfo, write_manifest
from runtime.package.package_file import sha256_of_file

BUILDER = """#!/bin/sh
if [ "$1" = -m ]; then
  [ -f "$4/config.json" ] || exit 1
  mkdir "$6" && touch "$6/model.onnx"
  if [ -f "$0.${10}" ]; then echo "WARNING: try again"; echo "no ${10} here"; exit 1; fi
else
  mkdir "$3" && touch "$3/config.json"
fi
"""


def nothing(text: str) -> None:
    pytest.fail(f"nothing is to be done, not: {text}")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_failing_programs_are_reported_in_one_line() -> None:
    with pytest.raises(BenchError, match=r"^it failed: b / c / d$"):
        run([sys.executable, "-c", "import sys; sys.exit('a\\nb\\n\\nc\\n WARNING: retry\\nd\\n')"], "it failed")
    with pytest.raises(BenchError, match=r"^it failed: code 3$"):
        run([sys.executable, "-c", "import sys; sys.exit(3)"], "it failed")
    with pytest.raises(BenchError, match=r"^it failed: no-such-program is not installed$"):
        run(["no-such-program"], "it failed")
    assert run([sys.executable, "-c", "print(7)"], "it failed") == "7\n"


def test_environment_is_whole_only_after_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, said, done = tmp_path / "peer", list[str](), list[list[str]]()

    def create(folder: Path, *, with_pip: bool, clear: bool) -> None:
        assert (with_pip, clear) == (True, True)
        program(folder / "bin" / "python", "")

    def install(words: list[str], problem: str) -> str:
        done.append([*words, problem])
        if len(done) == 2:
            raise BenchError("no network")
        return ""

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(making, "run", install)

    python = home / "bin" / "python"
    assert environment(home, ("peer==1", "other==2"), said.append) == [str(python), "-P"]
    assert said == ["installing peer==1"]
    assert done == [
        [str(python), "-m", "pip", "install", "--quiet", "peer==1", "other==2", "pip could not install peer==1"]
    ]
    environment(home, ("peer==1", "other==2"), nothing)

    with pytest.raises(BenchError, match="no network"):  # another version, and the installation breaks off
        environment(home, ("peer==2", "other==2"), said.append)
    environment(home, ("peer==1", "other==2"), said.append)  # the old one is gone
    assert len(done) == 3

    python.unlink()  # as when the Python that it was made with was removed
    environment(home, ("peer==1", "other==2"), said.append)
    assert len(done) == 4


def test_python_without_venv_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(folder: Path, **_: bool) -> None:
        raise subprocess.CalledProcessError(1, ["ensurepip"])

    monkeypatch.setattr(venv, "create", create)
    with pytest.raises(BenchError, match=r"^this Python cannot make virtual environments; install its venv package$"):
        environment(tmp_path / "peer", ("peer==1",), lambda _: None)


def test_llama_cpp_is_built_once_and_served_with_equal_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, done = list[str](), list[list[str]]()

    def step(words: list[str], problem: str) -> str:
        assert not (tmp_path / SDIST / "ready").exists(), problem
        done.append(words)
        return ""

    (tmp_path / "empty").mkdir()
    shutil.make_archive(str(tmp_path / SDIST), "gztar", tmp_path / "empty")
    (tmp_path / SDIST).mkdir()
    mark_made(tmp_path / SDIST, "another version")
    monkeypatch.setattr(llama_cpp, "SDIST_SHA256", sha256_of_file(tmp_path / f"{SDIST}.tar.gz"))
    monkeypatch.setattr(llama_cpp, "run", step)
    monkeypatch.setattr(shutil, "which", lambda name: name)

    llama = build(tmp_path, said.append)

    assert said == ["building llama.cpp (several minutes)"]
    assert [words[:2] for words in done] == [["cmake", "-S"], ["cmake", "--build"]]
    assert llama == build(tmp_path, nothing) == LlamaCpp(tmp_path / SDIST / "build" / "bin")
    words = llama.server(Path("m.gguf"), "peer", 81, slots=16, slot_tokens=512, threads=2)
    assert " ".join(words[1:]) == (
        "-m m.gguf -np 16 -c 8192 -t 2 -tb 2 --host 127.0.0.1 --port 81 --alias peer --no-webui"
    )


def test_half_built_llama_cpp_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / SDIST / "build" / "bin" / "llama-server", "")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "make" else None)
    with pytest.raises(BenchError, match=r"which needs cmake, c\+\+ or g\+\+ or clang\+\+; install that$"):
        build(tmp_path, nothing)


def test_foreign_source_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    (tmp_path / f"{SDIST}.tar.gz").write_bytes(b"something else")
    with pytest.raises(BenchError, match="expected 832db069"):
        build(tmp_path, nothing)


def test_requantized_files_belong_to_a_content_and_not_to_a_name(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"one")
    quantize = program(tmp_path / "llama-quantize", '#!/bin/sh\nprintf "%s of " $4 > "$3"\ncat "$2" >> "$3"\n')
    llama = LlamaCpp(tmp_path)

    first = llama.quantize(source, "Q8_0", tmp_path)
    assert first.read_text() == "Q8_0 of one"

    program(quantize, '#!/bin/sh\nprintf half > "$3"\necho bad type $4\nexit 1\n')
    assert llama.quantize(source, "Q8_0", tmp_path) == first
    source.write_bytes(b"two")
    for _ in range(2):  # what the failed attempt wrote is not taken for a result
        with pytest.raises(BenchError, match=r"^llama-quantize could not make Q8_0: bad type Q8_0$"):
            llama.quantize(source, "Q8_0", tmp_path)


def test_genai_models_are_built_once_and_only_whole(tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"weights")
    digest = sha256_of_file(gguf)[:16]
    folder = tmp_path / "work"
    folder.mkdir()
    python = [str(program(tmp_path / "python", BUILDER))]
    said = list[str]()
    broken = tmp_path / "python.int4"
    broken.touch()

    with pytest.raises(BenchError, match=r"^ONNX Runtime GenAI's builder made no int4 model: no int4 here$"):
        genai.models(gguf, ("int8", "int4"), folder, python, said.append)
    assert [path.name for path in folder.iterdir()] == [f"genai-{digest}-int8"]

    broken.unlink()
    said.clear()
    homes = genai.models(gguf, ("int8", "int4"), folder, python, said.append)
    assert said == ["unpacking the checkpoint for ONNX Runtime GenAI", "building onnxruntime-genai 0.18.0 (int4)"]
    assert homes == {name: folder / f"genai-{digest}-{name}" for name in ("int8", "int4")}
    assert sorted(folder.iterdir()) == sorted(homes.values())
    assert all((home / "model.onnx").is_file() for home in homes.values())
    assert genai.models(gguf, ("int4", "int8"), folder, python, nothing) == homes

    said.clear()
    mark_made(homes["int8"], "made with other options")
    (homes["int8"] / "stale").touch()
    genai.models(gguf, ("int8",), folder, python, said.append)
    assert said[1:] == ["building onnxruntime-genai 0.18.0 (int8)"]
    assert not (homes["int8"] / "stale").exists()


def test_genai_is_asked_for_its_fastest_graph(tmp_path: Path) -> None:
    home = tmp_path / "genai"
    program(home / "bin" / "python", "")
    mark_made(home, "\n".join(genai.REQUIREMENTS))
    python = genai.python(tmp_path, nothing)
    assert python == ["env", "HF_HUB_OFFLINE=1", "ORT_DISABLE_TELEMETRY=1", str(home / "bin" / "python"), "-P"]

    words = genai.builder_words(["py", "-P"], Path("w/float32"), Path("w/int8"), "int8")
    assert " ".join(words) == (
        "py -P -m onnxruntime_genai.models.builder "
        "-i w/float32 -o w/int8 -c w/cache -p int8 -e cpu --extra_options hf_token=false "
        "accuracy_level=4 prune_lm_head=true fuse_mlp_gate_up=true block_size=64"
    )
    assert genai.OPTIONS["int4"][-1] == "block_size=32"
    assert Path(genai_checkpoint.__file__).is_file()


def test_genai_precisions_are_checked_before_anything_is_installed() -> None:
    assert genai.parse_precisions("int4, int8,int4") == ("int4", "int8")
    assert genai.parse_precisions("none") == ()
    with pytest.raises(BenchError, match="asked for 'fp16'; choose of int8, int4, or none"):
        genai.parse_precisions("int8,fp16")


def test_marker_holds_the_recipe_word_for_word(tmp_path: Path) -> None:
    assert not is_made(tmp_path / "absent", "")
    mark_made(tmp_path, "a b")
    assert is_made(tmp_path, "a b")
    assert not is_made(tmp_path, "a")


def package_of(root: Path, source: SourceInfo) -> Path:
    root.mkdir()
    shape = ModelShape(num_layers=1, num_kv_heads=1, head_dim=8, vocab_size=16)
    manifest = Manifest(
        schema_version=1, name="tiny", served_names=("tiny",), source=source, architecture="llama", spec={},
        shape=shape, max_model_len=32, stop_token_ids=(2,), special_tokens={}, graphs={}, quality=None,
        recipe_digest="", files={}, tools={}, build_seconds=0.0, created_unix=0,
    )  # fmt: skip
    write_manifest(root, manifest)
    return root


def test_only_the_packages_own_checkpoint_is_compared(tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"weights")
    digest = sha256_of_file(gguf)

    check_checkpoint(package_of(tmp_path / "same", SourceInfo("gguf", "m", digest, "MIT")), gguf)
    check_checkpoint(package_of(tmp_path / "folder", SourceInfo("safetensors", "m", "0" * 64, "MIT")), gguf)
    with pytest.raises(BenchError, match=r"^m\.gguf is not the checkpoint that other was made of \(x\)$"):
        check_checkpoint(package_of(tmp_path / "other", SourceInfo("gguf", "x", "0" * 64, "MIT")), gguf)


def test_peers_need_the_checkpoint(tmp_path: Path) -> None:
    root = package_of(tmp_path / "package", SourceInfo("gguf", "m", "0" * 64, "MIT"))
    result = CliRunner().invoke(bench_group, ["peers", str(root), "--gguf", str(tmp_path / "none.gguf")])
    assert result.exit_code == 1
    assert "no checkpoint at" in result.output
