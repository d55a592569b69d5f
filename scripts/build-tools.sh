#!/bin/sh
# Makes, in the checkout and unless they are there and current: build/venv, with the tools that build our wheel and fill environments
# (requirements/build.txt), and build/wheels, what environments are filled with (requirements/runtime.txt), which is fetched once.
set -eu
PYTHON=/usr/bin/python3
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

want=$({ $PYTHON -VV; cat requirements/build.txt requirements/runtime.txt; } | sha256sum)
[ "$(cat build/wheels/stamp 2>/dev/null)" != "$want" ] || exit 0
rm -rf build/venv build/wheels
mkdir -p build
if ! $PYTHON -I -m venv build/venv; then
    echo "build-tools: cannot make an environment in build/venv" >&2
    echo "  hint: apt-get install python3-venv" >&2
    exit 1
fi
pip() {
    build/venv/bin/python -I -m pip "$@" --quiet --quiet --require-hashes --no-deps --only-binary :all:
}
pip install -r requirements/build.txt
pip download --dest build/wheels -r requirements/runtime.txt
echo "$want" >build/wheels/stamp
