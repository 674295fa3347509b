#!/bin/sh
# Install powertrain for BACKEND into PREFIX, a virtual environment that holds what serving and exporting need and
# nothing else: hash-locked wheels, our own wheel, bytecode, and neither pip nor what builds wheels.
#
#   sh deploy/images/install.sh cpu|cuda|tensorrt|tensorrt-rtx PREFIX [PYTHON]      in the repository's root
set -eu

usage="usage: sh deploy/images/install.sh cpu|cuda|tensorrt|tensorrt-rtx PREFIX [PYTHON]"
backend=${1:?$usage}
prefix=${2:?$usage}
python=${3:-python3}
case $backend in
    cpu) locks="cpu" ;;
    cuda) locks="gpu" ;;  # ONNX Runtime for GPUs takes the place of the one for CPUs, so it has a whole list of its own
    tensorrt) locks="cpu tensorrt" ;;
    tensorrt-rtx) locks="cpu tensorrt-rtx" ;;
    *) echo "$usage; not $backend" >&2; exit 2 ;;
esac

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
"$python" -m venv --without-pip "$prefix"
ours="$prefix/bin/python"
"$ours" requirements/install_pip.py
for lock in $locks; do
    "$ours" -m pip install --quiet --no-compile --no-deps --require-hashes -r "requirements/$lock.txt"
done

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$ours" -m pip wheel --quiet --no-deps --no-build-isolation -w "$wheels" .
"$ours" -m pip install --quiet --no-compile --no-deps "$wheels"/powertrain-*.whl
"$ours" -m pip check

# What only builds, and what only tests.
"$ours" -m pip uninstall --quiet --yes editables hatchling pathspec pluggy trove-classifiers
"$ours" -m pip uninstall --quiet --yes pip
find "$prefix/bin" -type f ! -name powertrain -delete  # commands of what we use; Python is a link
find "$prefix/lib" -type d \( -name tests -o -path '*/onnx/backend/test' \) -prune -exec rm -rf {} +

# A read-only file system takes no bytecode later. It is not compared with the sources, whose times a copy may change.
# Some packages bring files for other Pythons, which do not compile.
unset PYTHONDONTWRITEBYTECODE
"$ours" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$prefix/lib" >/dev/null 2>&1 || true
