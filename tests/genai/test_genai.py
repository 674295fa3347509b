"""Converted packages in a real ONNX Runtime GenAI: the tokens that our own session gives.

``make test-genai`` makes the Python that POWERTRAIN_GENAI_PYTHON names; GenAI never enters the default environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.interop.folder import convert
from export.interop.package import build_foreign_package
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package, load_package
from runtime.session.session import decode_logits
from tests.export.interop.foreign_folders import write_genai
from tests.export.tiny_models import write_tiny_folder

PYTHON = os.environ.get("POWERTRAIN_GENAI_PYTHON")
PROGRAM = Path(__file__).with_name("run_genai.py")
PROMPT = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
SHORT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
TEXTS = ["Hello, world! 12345", " zwei  Leerzeichen\n\n\tund Tabs", "naïve café 東京 🙂", PROMPT, "x" * 70]

pytestmark = [pytest.mark.genai, pytest.mark.timeout(300)]


def run_genai(folder: Path, jobs: list[dict[str, Any]], texts: list[str], *, chat: bool = False) -> dict[str, Any]:
    assert PYTHON, "POWERTRAIN_GENAI_PYTHON is not set; 'make test-genai' sets it"
    given = json.dumps({"jobs": jobs, "texts": texts, "chat": chat})
    done = subprocess.run([PYTHON, str(PROGRAM), str(folder)], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


PARSE = """
import importlib.util, json, sys
from pathlib import Path
from google.protobuf import json_format, text_format
file = next(Path(sys.prefix).glob("lib/python*/site-packages/tritonclient/grpc/model_config_pb2.py"))
spec = importlib.util.spec_from_file_location("model_config_pb2", file)  # the package's own asks for grpc
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
config = text_format.Parse(Path(sys.argv[1]).read_text(), module.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def greedy(package: Package, ids: list[int], count: int) -> list[int]:
    """What our session gives, up to and with the first token that ends an answer."""
    options = ModelOptions(num_slots=1, max_model_len=min(256, package.manifest.max_model_len), threads=2)
    session = session_factory(package, plan_model(package, options), options)()
    tokens = [int(session.prefill(0, np.array(ids, np.int64), 0, 1)[0].argmax())]
    while len(tokens) < count and tokens[-1] not in package.manifest.stop_token_ids:
        position = np.array([len(ids) + len(tokens) - 1])
        tokens.append(int(decode_logits(session, 0, np.array(tokens[-1:]), position)[0].argmax()))
    session.close()
    return tokens


@pytest.mark.model
def test_the_default_model_says_the_same_64_tokens(default_package: Package, tmp_path: Path) -> None:
    convert(default_package, "genai", tmp_path / "out")
    tokenizer = Tokenizer.from_str(default_package.read_text("tokenizer.json"))
    ids = tokenizer.encode(PROMPT).ids
    jobs = [{"prompts": [PROMPT], "count": 64}, {"prompts": [PROMPT, SHORT], "count": 40}]
    said = run_genai(tmp_path / "out", jobs, TEXTS, chat=True)
    expected = greedy(default_package, ids, 64)
    assert len(expected) == 64
    assert said["tokens"][0] == [expected]
    short = greedy(default_package, tokenizer.encode(SHORT).ids, 40)
    long_row, short_row = said["tokens"][1]
    assert long_row == expected[:40]
    assert short_row[: len(short)] == short
    assert said["ids"] == [tokenizer.encode(text).ids for text in TEXTS]
    assert said["chat"].endswith(PROMPT)


@pytest.mark.parametrize("name", ["llama-3.1", "mistral", "qwen3", "gemma2", "gemma3", "phi3-longrope"])
def test_other_architectures_say_the_same_tokens(tmp_path: Path, name: str) -> None:
    """Windows, soft caps, norms of queries and rope tables are the graph's own business."""
    source = FolderSource(path=str(write_tiny_folder(tmp_path / "source", name)))
    recipe = Recipe(name="tiny", source=source, precision="fp32", quality=None)
    package = load_package(build_package(recipe, tmp_path, tmp_path / "tiny", SilentReporter()).root)
    convert(package, "genai", tmp_path / "out")
    ids = [5, 9, 33, 60, 61, 7, 18, 90, 41, 12]
    expected = greedy(package, ids, 40)
    assert run_genai(tmp_path / "out", [{"prompts": [ids], "count": 40}], [])["tokens"] == [[expected]]


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_a_folder_of_genais_says_the_same_tokens_as_the_package_made_of_it(tmp_path: Path, *, int8: bool) -> None:
    folder = write_genai(tmp_path / "given", int8=int8)
    recipe = Recipe(name="taken", source=FolderSource(path=str(folder)))
    package = load_package(build_foreign_package(recipe, tmp_path, tmp_path / "out", SilentReporter()).root)
    ids = [5, 9, 33, 60, 61, 7, 18, 90, 41, 12]
    expected = greedy(package, ids, 40)
    assert run_genai(folder, [{"prompts": [ids], "count": 40}], [])["tokens"] == [[expected]]


@pytest.mark.model
def test_tritons_own_schema_reads_the_configuration(default_package: Package, tmp_path: Path) -> None:
    convert(default_package, "triton", tmp_path / "out")
    home = tmp_path / "out" / default_package.manifest.name
    done = subprocess.run(
        [str(PYTHON), "-c", PARSE, str(home / "config.pbtxt")], capture_output=True, text=True, check=True
    )
    config = json.loads(done.stdout)
    assert config["name"] == default_package.manifest.name
    assert config["backend"] == "onnxruntime"
    assert "max_batch_size" not in config  # 0, which is its default
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]
    assert len(config["input"]) == 2 + 60
    assert config["input"][2] == {
        "name": "past_key_values.0.key", "data_type": "TYPE_FP32", "dims": ["-1", "3", "-1", "64"]
    }  # fmt: skip
    assert config["output"][0] == {"name": "logits", "data_type": "TYPE_FP32", "dims": ["-1", "1", "49152"]}
