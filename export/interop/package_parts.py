"""What every form takes of a package: its ``ort`` graph behind a mask, the weights, and the texts. Knows no form."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from runtime.package import manifest as package

from export.errors import UnsupportedError
from export.graph.writer import DATA_FILE, GRAPH_FILE
from export.interop.masked_graph import masked_graph


def masked_ort_graph(source: package.Package, program: str) -> tuple[package.GraphInfo, onnx.ModelProto]:
    """The manifest's entry of the ``ort`` graph, and the graph behind a mask, its weights left where they are.

    Raises UnsupportedError for a package without such a graph of ours; ``program`` is what should have run it.
    """
    manifest = source.manifest
    info = manifest.graphs.get(package.ORT_GRAPH)
    if info is None:
        held = ", ".join(sorted(manifest.graphs))
        raise UnsupportedError(
            f"package {manifest.name!r} holds no ort graph (it holds: {held}), the only one for {program}; a trt graph "
            "and its plans write into their caches in place, as nobody else has them. Export with --dialect ort,trt"
        )
    if not manifest.spec:
        raise UnsupportedError(f"package {manifest.name!r} was made of a foreign graph; convert what it was made of")
    shape = manifest.shape
    model = onnx.load(str(source.path(info.path)), load_external_data=False)
    return info, masked_graph(model, shape.vocab_size, shape.num_layers)


def write_graph_and_data(
    source: package.Package, info: package.GraphInfo, model: onnx.ModelProto, folder: Path
) -> None:
    """``model.onnx`` and a copy of its weights below ``folder``: packages with linked files are not loaded."""
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
    data = str(Path(info.path).with_name(DATA_FILE))
    if data in source.manifest.files:
        shutil.copyfile(source.path(data), folder / DATA_FILE)


def copy_texts(source: package.Package, folder: Path) -> None:
    """Tokenizer, chat template and licence, as far as the package has them."""
    for name in (package.TOKENIZER_FILE, package.CHAT_TEMPLATE_FILE, package.LICENSE_FILE):
        if name in source.manifest.files:
            shutil.copyfile(source.path(name), folder / name)
