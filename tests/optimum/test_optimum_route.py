"""The Optimum route, with a real Optimum: runs where POWERTRAIN_OPTIMUM_PYTHON names a Python that has it.

``make test-optimum`` makes that Python and sets the variable; torch never enters the default environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from export.package.builder import build_package
from export.package.optimum import build_optimum_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import CHAT_TEMPLATE_FILE, Package, load_package
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session, decode_logits
from tests.export.tiny_models import tiny_input_ids, tiny_tokenizer_json
from tests.paths import MODELS

PYTHON = os.environ.get("POWERTRAIN_OPTIMUM_PYTHON")

pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="POWERTRAIN_OPTIMUM_PYTHON is not set; 'make test-optimum' sets it"),
    pytest.mark.timeout(600),
]

TINY = """
import sys, numpy, torch, transformers
torch.manual_seed(0)
config = transformers.GPTNeoXConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, rotary_pct=0.5)
model = transformers.GPTNeoXForCausalLM(config).eval()
model.save_pretrained(sys.argv[1])
ids = numpy.load(sys.argv[1] + "/ids.npy")
with torch.no_grad():
    numpy.save(sys.argv[1] + "/logits.npy", model(torch.from_numpy(ids)[None]).logits[0].numpy())
"""

FROM_GGUF = """
import sys, torch, transformers
from pathlib import Path
from tests.paths import MODELS
gguf = Path(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
model.save_pretrained(sys.argv[2])
"""


def run_python(script: str, *arguments: str) -> None:
    subprocess.run([str(PYTHON), "-c", script, *arguments], check=True, capture_output=True)


def open_session(package: Package) -> Session:
    options = ModelOptions(num_slots=3, max_model_len=64, threads=2)
    plan: KVPlan = plan_model(package, options)
    return session_factory(package, plan, options)()


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, npt.NDArray[np.float32]]:
    """GPT-NeoX, which the native list lacks, and transformers' logits of it."""
    folder = tmp_path_factory.mktemp("neox")
    np.save(folder / "ids.npy", tiny_input_ids())
    run_python(TINY, str(folder))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json())
    special = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    recipe = Recipe(name="neox", source=FolderSource(path=str(folder)))
    root = build_optimum_package(recipe, folder, folder / "out" / "neox", SilentReporter(), PYTHON).root
    return load_package(root), np.load(folder / "logits.npy")


def test_an_architecture_outside_the_native_list_computes_what_transformers_does(
    neox: tuple[Package, npt.NDArray[np.float32]],
) -> None:
    package, expected = neox
    assert package.manifest.architecture == "gpt_neox"
    ids, session = tiny_input_ids(), open_session(package)
    whole = session.prefill(0, ids, 0, len(ids))
    assert np.abs(whole - expected).max() < 1e-3
    chunks = [session.prefill(1, ids[start:stop], start, stop - start) for start, stop in ((0, 9), (9, 10), (10, 20))]
    assert np.abs(np.concatenate(chunks) - expected[:20]).max() < 1e-3
    session.prefill(2, ids[:5], 0, 0)
    rows = decode_logits(session, 0, ids[[23, 20, 5]], np.array([23, 20, 5]))
    assert np.abs(rows - expected[[23, 20, 5]]).max() < 1e-3


def test_slots_are_copied_and_rewound(neox: tuple[Package, npt.NDArray[np.float32]]) -> None:
    package, expected = neox
    ids, session = tiny_input_ids(), open_session(package)
    session.prefill(0, ids[:12], 0, 0)
    session.copy_slot(0, 1, 8)
    assert np.abs(session.prefill(1, ids[8:14], 8, 6) - expected[8:14]).max() < 1e-3
    session.copy_slot(1, 2, 8)
    session.copy_slot(1, 2, 14, 8)
    assert np.abs(decode_logits(session, 2, ids[14:15], np.array([14])) - expected[14:15]).max() < 1e-3
    assert np.abs(decode_logits(session, 0, ids[12:13], np.array([12])) - expected[12:13]).max() < 1e-3
    assert np.abs(session.prefill(0, ids, 0, 24) - expected).max() < 1e-3


@pytest.mark.model
def test_the_default_model_says_the_same_64_tokens_natively_and_through_optimum(
    default_package: Package, tmp_path: Path
) -> None:
    gguf = next((MODELS / ".cache").glob("*.gguf"))
    folder = tmp_path / "smollm2"
    run_python(FROM_GGUF, str(gguf), str(folder))
    (folder / "tokenizer.json").write_bytes(default_package.path("tokenizer.json").read_bytes())
    template = default_package.path(CHAT_TEMPLATE_FILE).read_bytes()
    (folder / CHAT_TEMPLATE_FILE).write_bytes(template)
    source = FolderSource(path=str(folder))
    route = build_optimum_package(Recipe(name="o", source=source), tmp_path, tmp_path / "o", SilentReporter(), PYTHON)
    native = Recipe(name="n", source=source, precision="fp32")
    other = build_package(native, tmp_path, tmp_path / "n", SilentReporter())
    tokenizer = Tokenizer.from_str(default_package.read_text("tokenizer.json"))
    prompt = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    ids = np.array(tokenizer.encode(prompt).ids, np.int64)
    texts = [greedy(open_long(load_package(result.root)), ids, 64) for result in (route, other)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 64


def open_long(package: Package) -> Session:
    options = ModelOptions(num_slots=1, max_model_len=256, threads=2)
    return session_factory(package, plan_model(package, options), options)()


def greedy(session: Session, ids: npt.NDArray[np.int64], count: int) -> list[int]:
    """``count`` tokens, each the likeliest, whatever they are."""
    tokens = [int(session.prefill(0, ids, 0, 1)[0].argmax())]
    while len(tokens) < count:
        position = np.array([len(ids) + len(tokens) - 1])
        tokens.append(int(decode_logits(session, 0, np.array(tokens[-1:]), position)[0].argmax()))
    session.close()
    return tokens
