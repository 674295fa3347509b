"""Pipeline files: what the product of their tables is, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.errors import PipelineError
from export.pipeline.config import load_pipeline
from export.pipeline.matrix import PackageWish, wished_packages

MODELS = """
precisions = ["int8", "fp16"]
[[model]]
model = "a.gguf"
[[model]]
model = "b.gguf"
name = "bee"
[[target]]
name = "sm89"
[[target]]
name = "sm120"
"""


def wishes(tmp_path: Path, text: str) -> list[PackageWish]:
    (tmp_path / "p.toml").write_text(text)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    return wished_packages(load_pipeline(tmp_path / "p.toml"), tmp_path, tmp_path / "home")


def names(found: list[PackageWish]) -> dict[str, list[str]]:
    """Package -> dialects and targets."""
    return {one.recipe.name: [*one.recipe.dialects, *(target.name for target in one.targets)] for one in found}


def test_the_product_has_every_model_precision_and_target(tmp_path: Path) -> None:
    everything = ["ort", "trt", "sm89", "sm120"]
    assert names(wishes(tmp_path, MODELS)) == dict.fromkeys(["a-int8", "a-fp16", "bee-int8", "bee-fp16"], everything)
    assert names(wishes(tmp_path, '[[model]]\nmodel = "a.gguf"')) == {"a-int8": ["ort"]}


def test_excluded_artifacts_go_and_included_ones_come(tmp_path: Path) -> None:
    rules = """
    [[exclude]]
    model = "a"
    precision = "int8"
    target = "sm89"
    [[exclude]]
    precision = "fp16"
    dialect = "trt"
    [[exclude]]
    model = "bee"
    precision = "int8"
    [[include]]
    model = "bee"
    precision = "int4"
    target = "sm120"
    """
    assert names(wishes(tmp_path, MODELS + rules)) == {
        "a-int8": ["ort", "trt", "sm120"],
        "a-fp16": ["ort"],
        "bee-fp16": ["ort"],
        "bee-int4": ["ort", "trt", "sm120"],
    }


def test_a_models_own_keys_go_before_the_recipes(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'name = "r"\nprecision = "int4"\nblock = 16\nserved_names = ["old"]\nchat_template = "t.jinja"\nadapter = "a"\n'
        '[source]\nkind = "file"\npath = "a.gguf"\n[pinned]\ndigest = "0"\n[pinned.units]'
    )
    text = 'precisions = ["int4", "int8"]\n[[model]]\nmodel = "r.toml"\nserved_names = ["new"]\nmax_kl = 0.2'
    four, eight = (one.recipe for one in wishes(tmp_path, text))
    assert (four.served_names, four.block, four.chat_template) == (("new",), 16, str(tmp_path / "t.jinja"))
    assert four.adapter == eight.adapter == str(tmp_path / "a")
    assert (eight.block, eight.pinned, four.pinned is None) == (None, None, False)  # were for int4 alone
    assert four.quality is not None
    assert four.quality.max_mean_kl == 0.2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "p.toml: "),
        ("model = []", r"there is no \[\[model\]\]"),
        ('[[model]]\nmodel = "a.gguf"\nprecison = 1',
         r"p.toml: \[\[model\]\] number 1 has no key 'precison'. Did you mean 'precisions'\? It has model, name"),
        ('[[model]]\nmodel = "a.gguf"\n[[model]]\nmodel = 3',
         r"p.toml: \[\[model\]\] number 2, key 'model': Expected `str`, got `int`"),
        ('job = 3\n[[model]]\nmodel = "a.gguf"', "the top of the file has no key 'job'. Did you mean 'jobs'"),
        (MODELS + 'max_slots = 0', r"\[\[target\]\] number 2, key 'max_slots': Expected `int` >= 1"),
        (MODELS + '[[exclude]]\nmodel = "be"', r"\[\[exclude\]\] number 1, key 'model': 'be' .* Did you mean 'bee'\?"),
        (MODELS + '[[exclude]]\ndialect = "ort"\ntarget = "sm89"', "number 1 matches nothing"),
        (MODELS + "[[exclude]]", "leave nothing to build"),
        ('[[model]]\nmodel = "a.gguf"\nprecisions = ["w8a8"]\ndialects = ["trt"]',
         r"\[\[model\]\] 'a' in w8a8: .*'ort' graph"),
        (MODELS + '[[include]]\nmodel = "a"\nprecision = "int4"\ntarget = "sm99"', "number 1, key 'target': 'sm99'"),
        (MODELS + '[[target]]\nname = "sm89"', r"two \[\[target\]\] tables are called 'sm89'"),
        ('[[model]]\nmodel = "a.gguf"\n[[model]]\nmodel = "b.gguf"\nname = "a"', r"two \[\[model\]\] tables"),
        ('[[model]]\nmodel = "a.gguf"\ntargets = ["sm89"]', r"\[\[model\]\] 'a', key 'targets': 'sm89' .* none"),
        ('[[model]]\nmodel = "nothing"', r"\[\[model\]\] 'nothing': nothing: neither a package"),
        ('precisions = ["int9"]\n[[model]]\nmodel = "a.gguf"', r"'a' in int9: precision 'int9' is unknown"),
        ('precisions = ["auto"]\n[[model]]\nmodel = "a.gguf"\nquality = false', "precision 'auto' needs a budget"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_where_and_what(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=words):
        wishes(tmp_path, text)
