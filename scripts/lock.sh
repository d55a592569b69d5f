#!/bin/sh
# Writes requirements/*.txt: every package with its version and the hashes of its files, and no address of an index, so that
# the locks hold wherever packages come from. `make lock` runs it with the Python that the locks are for (Debian 12's 3.11).
# With --upgrade, versions move; without, only what the .in files and pyproject.toml ask for changes.
set -eu
cd "$(dirname "$0")/.."
compile=${LOCK_WITH:-.venv/bin/pip-compile}

lock() {
    output=$1
    shift
    CUSTOM_COMPILE_COMMAND="make lock" "$compile" --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-emit-options --no-emit-trusted-host --strip-extras --allow-unsafe --output-file "$output" "$@"
}

lock requirements/runtime.txt "$@" pyproject.toml
lock requirements/build.txt "$@" requirements/build.in
lock requirements/dev.txt "$@" --extra test --extra lint --extra dev --constraint requirements/runtime.txt pyproject.toml
