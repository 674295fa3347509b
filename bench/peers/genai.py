"""ONNX Runtime GenAI: its own environment, and model folders that its own builder makes of a GGUF file.

The builder reads GGUF only in float16 and float32, so transformers unpacks the file into a float32 folder first; no
weight is rounded before the builder rounds it. Nothing of the library is imported here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.package.package_file import sha256_of_file

from bench.errors import BenchError
from bench.peers import genai_checkpoint
from bench.peers.making import environment, is_made, mark_made, run, unmark

VERSION = "0.18.0"
REQUIREMENTS = (
    f"onnxruntime-genai=={VERSION}",
    "onnxruntime==1.32.0",  # the version that powertrain runs on: what differs is what is built upon it
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "torch==2.13.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "gguf==0.19.0",
)
# The model itself may not be looked up anywhere, and nothing is reported to anybody during a measurement.
_QUIET = ("env", "HF_HUB_OFFLINE=1", "ORT_DISABLE_TELEMETRY=1")
# The fastest that its builder offers for a CPU: integer products, logits of the last token only, gate and up in one
# product. Blocks as wide as in packages of this project, because a wider block is a faster and a coarser model.
_SPEED = ("accuracy_level=4", "prune_lm_head=true", "fuse_mlp_gate_up=true")
OPTIONS = {"int8": (*_SPEED, "block_size=64"), "int4": (*_SPEED, "block_size=32")}


def parse_precisions(text: str) -> tuple[str, ...]:
    """``int8,int4`` as a tuple, ``none`` as an empty one. BenchError."""
    if text == "none":
        return ()
    precisions = tuple(word.strip() for word in text.split(","))
    for word in precisions:
        if word not in OPTIONS:
            raise BenchError(
                f"ONNX Runtime GenAI's builder is asked for {word!r}; choose of {', '.join(OPTIONS)}, or none"
            )
    return tuple(dict.fromkeys(precisions))


def label(precision: str) -> str:
    """What a model folder of this precision is called in tables."""
    return f"onnxruntime-genai {VERSION} ({precision})"


def python(folder: Path, say: Callable[[str], None]) -> list[str]:
    """The command of the interpreter that has the library and its builder, installed once. BenchError."""
    return [*_QUIET, *environment(folder / "genai", REQUIREMENTS, say)]


def models(
    gguf: Path, precisions: Sequence[str], folder: Path, interpreter: Sequence[str], say: Callable[[str], None]
) -> dict[str, Path]:
    """A model folder for each precision, made once for each content of ``gguf``. BenchError."""
    digest = sha256_of_file(gguf)
    homes = {precision: folder / f"genai-{digest[:16]}-{precision}" for precision in precisions}
    missing = [precision for precision in precisions if not is_made(homes[precision], _recipe(digest, precision))]
    if not missing:
        return homes
    with tempfile.TemporaryDirectory(dir=folder, prefix="genai-") as scratch:
        unpacked = Path(scratch) / "float32"
        say("unpacking the checkpoint for ONNX Runtime GenAI")
        script = str(genai_checkpoint.__file__)
        run([*interpreter, script, str(gguf), str(unpacked)], f"transformers could not read {gguf.name}")
        for precision in missing:
            say(f"building {label(precision)}")
            built = Path(scratch) / precision
            words = builder_words(interpreter, unpacked, built, precision)
            run(words, f"ONNX Runtime GenAI's builder made no {precision} model")
            mark_made(built, _recipe(digest, precision))
            if homes[precision].exists():
                unmark(homes[precision])
                shutil.rmtree(homes[precision])
            built.rename(homes[precision])
    return homes


def builder_words(interpreter: Sequence[str], source: Path, target: Path, precision: str) -> list[str]:
    """Its builder's command: a Hugging Face folder into a model folder for the CPU."""
    where = ["-i", str(source), "-o", str(target), "-c", str(target.parent / "cache")]
    what = ["-p", precision, "-e", "cpu", "--extra_options", "hf_token=false", *OPTIONS[precision]]
    return [*interpreter, "-m", "onnxruntime_genai.models.builder", *where, *what]


def _recipe(digest: str, precision: str) -> str:
    return "\n".join((*REQUIREMENTS, digest, precision, *OPTIONS[precision]))
