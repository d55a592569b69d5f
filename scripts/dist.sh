#!/bin/sh
# Makes dist/dkr_runtime-VERSION-py3-none-any.whl and dist/dkr_runtime-VERSION.tar.gz, the same bytes from the same sources.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME
scripts/build-tools.sh
rm -rf dist/dkr_runtime-*
build/venv/bin/python -I -m hatchling build --directory dist
