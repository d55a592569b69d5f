#!/bin/sh
# Makes .venv, from the system's Python and requirements/dev.txt, unless it is there and current. The checkout itself is on its
# path (a .pth file), so that tests and mypy see the sources.
set -eu
PYTHON=/usr/bin/python3
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

want=$({ pwd; $PYTHON -VV; cat requirements/dev.txt; } | sha256sum)
[ "$(cat .venv/stamp 2>/dev/null)" != "$want" ] || exit 0
echo "dev: making .venv"
rm -rf .venv
$PYTHON -I -m venv .venv
.venv/bin/python -I -m pip install --quiet --quiet --require-hashes --no-deps --only-binary :all: -r requirements/dev.txt
pwd >"$(.venv/bin/python -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dkr.pth"
echo "$want" >.venv/stamp
