#!/bin/sh
# usage: setup-debian.sh SET...
#
# Installs the packages of these sets of debian-packages.txt that are not installed yet. Does nothing, in some milliseconds,
# where nothing is missing: neither the network nor root is needed then. Fetches the package lists only when it must install.
set -eu
list=$(dirname "$0")/debian-packages.txt
[ "$#" -gt 0 ] || { echo "usage: $0 SET..." >&2; exit 2; }

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "setup-debian: this is no Debian: see $list for what must be there" >&2
    exit 0
fi

wanted=
for set in "$@"; do
    wanted="$wanted $(awk -v set="$set" '!/^#/ && $2 == set { print $1 }' "$list")"
done

missing=
for package in $wanted; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "setup-debian: these packages are missing:$missing" >&2
    echo "  hint: run as root, or: sudo apt-get install$missing" >&2
    exit 1
fi
echo "setup-debian: installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get --quiet --quiet update
# shellcheck disable=SC2086  # a list of words on purpose
apt-get --quiet --quiet --yes --no-install-recommends install $missing
