#!/bin/sh
# Makes dist/dkr_VERSION_ARCHITECTURE.deb from what `make dist` has made, by dpkg-buildpackage in build/deb: so what is packed is what is
# published as sources, and nothing is left in the tree. The version is common/version.py's, the date that of the last commit or
# SOURCE_DATE_EPOCH.
set -eu
cd "$(dirname "$0")/.."
sources=$(echo dist/dkr_runtime-*.tar.gz)
version=${sources#dist/dkr_runtime-}
# 1.0rc1 comes before 1.0: dpkg says that with a tilde.
version=$(echo "${version%.tar.gz}" | sed -E 's/\.?(a|b|rc|dev)([0-9]+)/~\1\2/')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

rm -rf build/deb dist/dkr_*.deb
mkdir -p "build/deb/dkr-$version"
tar -xf "$sources" -C "build/deb/dkr-$version" --strip-components=1
cd "build/deb/dkr-$version"
ln -s ../.. build # the tools, and what was fetched, are those of the checkout
cat >debian/changelog <<CHANGELOG
dkr ($version) unstable; urgency=medium

  * What has changed: /usr/share/doc/dkr/CHANGELOG.md.gz

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
CHANGELOG
if ! dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes >../log 2>&1; then
    tail -n 50 ../log >&2
    exit 1
fi
cd ../../..
mv build/deb/dkr_*.deb dist/
rm -rf "build/deb/dkr-$version"
echo "deb: $(echo dist/dkr_*.deb)"
