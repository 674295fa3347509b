"""Puts the comparison of two packages together, from the cheap to the dear. Knows no form of a weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import onnx
from runtime.package.manifest import Package

from export.compare.difference import Difference, PackageDifference, WeightDifference
from export.compare.manifest_diff import manifest_differences
from export.compare.stored_weights import stored_weights
from export.compare.text_diff import template_differences, tokenizer_differences
from export.compare.weight_diff import weight_differences


def compare(a: Package, b: Package) -> PackageDifference:
    """Everything in which two packages differ. Raises PowertrainError for files that cannot be read."""
    found = manifest_differences(a.manifest, b.manifest)
    found += [*template_differences(a, b), *tokenizer_differences(a, b)]
    weights: list[WeightDifference] = []
    equal = 0
    for name in [key for key in a.manifest.graphs if key in b.manifest.graphs]:
        paths = [package.path(package.manifest.graphs[name].path) for package in (a, b)]
        if _same_bytes(a, b, name):
            equal += len(stored_weights(paths[0]))
            continue
        found += _structure(name, *paths)
        apart, same = weight_differences(name, *paths)
        weights += apart
        equal += same
    return PackageDifference(tuple(found), tuple(weights), equal)


def _same_bytes(a: Package, b: Package, graph: str) -> bool:
    """Whether all files of the graph's folder are the same, by their verified digests."""
    files = []
    for package in (a, b):
        folder = PurePosixPath(package.manifest.graphs[graph].path).parent
        files.append({n: info for n, info in package.manifest.files.items() if PurePosixPath(n).is_relative_to(folder)})
    return files[0] == files[1]


def _structure(name: str, a: Path, b: Path) -> list[Difference]:
    """How many nodes of each operator, and which inputs and outputs, only one graph has."""
    graphs = [onnx.load(str(path), load_external_data=False).graph for path in (a, b)]
    ops = [Counter(node.op_type for node in graph.node) for graph in graphs]
    found = [
        Difference(f"graph {name}", f"{op} nodes", str(ops[0][op]), str(ops[1][op]))
        for op in sorted({*ops[0], *ops[1]})
        if ops[0][op] != ops[1][op]
    ]
    ends = [{value.name: _type(value) for value in [*graph.input, *graph.output]} for graph in graphs]
    return found + [
        Difference(f"graph {name}", end, ends[0].get(end, ""), ends[1].get(end, ""))
        for end in dict.fromkeys([*ends[0], *ends[1]])
        if ends[0].get(end) != ends[1].get(end)
    ]


def _type(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = [dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(kind.elem_type).lower()} [{', '.join(dims)}]"
