#!/bin/sh
# usage: install.sh install|uninstall|check
#
# Places dkr as the Makefile's variables say, which come through the environment:
#   PREFIX       a private environment: dkr, its dependencies, nothing writable by others        /opt/dkr
#   BINDIR       where dkrctl goes, SBINDIR where dkrd goes                            /usr/bin /usr/sbin
#   SYSUSERSDIR  where sysusers.d(5), TMPFILESDIR where tmpfiles.d(5) files, UNITDIR where systemd's units go; empty: nowhere
#   MANDIR       where man pages go; BASHCOMPDIR, ZSHCOMPDIR, FISHCOMPDIR where the shells look for completion; empty: nowhere
#   DESTDIR      put in front of all of these while writing (packaging); no users are created then
# check: silent, status 0 where what stands is what this tree would install.
#
# The environment is built beside PREFIX and put in its place by rename: an install that fails leaves the old one whole.
# The interpreter is the system's, never the python3 of PATH: that may lie where other users cannot execute it.
set -eu
PYTHON=/usr/bin/python3
: "${PREFIX:?}" "${BINDIR:?}" "${SBINDIR:?}"
DESTDIR=${DESTDIR-} SYSUSERSDIR=${SYSUSERSDIR-} TMPFILESDIR=${TMPFILESDIR-} UNITDIR=${UNITDIR-}
MANDIR=${MANDIR-} BASHCOMPDIR=${BASHCOMPDIR-} ZSHCOMPDIR=${ZSHCOMPDIR-} FISHCOMPDIR=${FISHCOMPDIR-}
cd "$(dirname "$0")/.."
umask 022
# What a caller's environment says to Python or pip about other environments does not hold for this one.
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "install: $1" >&2
    [ "$#" -lt 2 ] || echo "  hint: $2" >&2
    exit 1
}

placed=$DESTDIR$PREFIX      # where the environment is written
site=                       # site-packages below PREFIX

examine() {
    for path in "$PREFIX" "$BINDIR" "$SBINDIR" $SYSUSERSDIR $TMPFILESDIR $UNITDIR $MANDIR $BASHCOMPDIR $ZSHCOMPDIR $FISHCOMPDIR; do
        case $path in
            *[!A-Za-z0-9._/+-]*) fail "cannot install to $path: only letters, digits and ._/+- can stand in it" ;;
            /*[!/]*) ;;
            *) fail "cannot install to $path: not an absolute path below /" ;;
        esac
    done
    [ -x "$PYTHON" ] || fail "cannot find $PYTHON" "apt-get install python3 python3-venv"
    version=$($PYTHON -IS -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) else "")')
    [ -n "$version" ] || fail "cannot use $PYTHON: it is older than 3.11"
    site=lib/python$version/site-packages
}

# Two lines: what the dependencies rest on, and what all rests on.
stamp() {
    layout="$PREFIX $BINDIR $SBINDIR $SYSUSERSDIR $TMPFILESDIR $UNITDIR $MANDIR $BASHCOMPDIR $ZSHCOMPDIR $FISHCOMPDIR"
    dependencies=$({ echo "$layout"; $PYTHON -VV; cat requirements/runtime.txt; } | sha256sum | cut -c1-64)
    all=$({
        echo "$dependencies"
        find common dkrctl dkrd -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        sha256sum pyproject.toml requirements/build.txt scripts/install.sh scripts/*.py scripts/templates/* systemd/*/dkr*
    } | sha256sum | cut -c1-64)
    printf '%s\n%s\n' "$dependencies" "$all"
}

current() {
    [ -f "$placed/stamp" ] && [ -x "$DESTDIR$BINDIR/dkrctl" ] && [ -x "$DESTDIR$SBINDIR/dkrd" ] &&
        [ "$(stamp)" = "$(cat "$placed/stamp")" ]
}

# Everybody must be able to pass through to PREFIX, and nobody but root may be able to put another in its place.
examine_parents() {
    directory=$(dirname "$placed")
    mkdir -p "$directory"
    [ -z "$DESTDIR" ] || return 0
    while :; do
        mode=$(stat -c '%u %A' "$directory")
        case $mode in
            "0 d"????????[xt]) ;;
            *) fail "cannot install to $PREFIX: $directory ($mode) is not root's, or not open to other users" \
                "choose another PREFIX, as in: make install PREFIX=/opt/dkr" ;;
        esac
        case $mode in
            "0 d????w"* | "0 d???????w"[!t]) fail "cannot install to $PREFIX: $directory can be written by others" ;;
        esac
        [ "$directory" != / ] || break
        directory=$(dirname "$directory")
    done
}

pip_into() {
    target=$1
    shift
    build/venv/bin/python -I -m pip --python "$target/bin/python" install --quiet --quiet --no-compile --no-deps "$@"
}

# What stands is taken over where its dependencies are those of the lock: then only our own packages are renewed.
make_environment() {
    if [ "$(stamp | head -n 1)" = "$(head -n 1 "$placed/stamp" 2>/dev/null)" ]; then
        cp -a "$placed/." "$stage/"
        rm -rf "${stage:?}/$site/common" "$stage/$site/dkrctl" "$stage/$site/dkrd" "$stage/$site"/dkr_runtime-*
        renewed="$stage/$site/common $stage/$site/dkrctl $stage/$site/dkrd"
    else
        $PYTHON -I -m venv --without-pip "$stage"
        rm -f "$stage"/bin/activate* "$stage"/bin/Activate*
        sed -i '/^command = /d' "$stage/pyvenv.cfg"
        pip_into "$stage" --require-hashes --no-index --find-links build/wheels -r requirements/runtime.txt
        renewed=$stage/$site
    fi
    rm -rf build/wheel
    said=$(build/venv/bin/python -I -m hatchling build --target wheel --directory build/wheel 2>&1) || fail "$said"
    pip_into "$stage" --no-index build/wheel/dkr_runtime-*.whl
    # What others' packages would put beside our programs, headers for building more, and where our wheel lay: not wanted here. The lists of
    # files name none of them: they would tell the name of the stage, another each time.
    find "$stage/bin" -type f -exec rm -f {} +
    rm "$stage/$site"/dkr_runtime-*/direct_url.json
    sed -i -e '\|^\.\./\.\./\.\./bin/|d' -e /direct_url.json/d "$stage/$site"/*.dist-info/RECORD
    rm -rf "$stage/include"
    # Whoever packs the files gives them other times, by which Python would not believe what is compiled.
    [ -z "$DESTDIR" ] && judged=timestamp || judged=unchecked-hash
    # shellcheck disable=SC2086  # paths without blanks (examine)
    "$stage/bin/python" -I -m compileall -q -f -s "$stage" -p "$PREFIX" --invalidation-mode "$judged" $renewed
    $PYTHON -IS scripts/pack_client.py "$stage/$site"
}

# The flags keep the user's environment and the site module (6 ms) out; pip's own way of making scripts would drop them.
# One path, in front: below it only the directories of our own packages are ever read by the client. Its first words keep ctrl-C
# from showing a traceback while it is being loaded.
write_programs() {
    mkdir -p "$stage/bin" "$stage/sbin"
    cat >"$stage/bin/dkrctl" <<PROGRAM
#!$PYTHON -IS
import _signal
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
import sys
sys.path[:0] = ["$PREFIX/$site"]
from dkrctl.packed import use
use()
from dkrctl.lean import entry
entry()
PROGRAM
    cat >"$stage/sbin/dkrd" <<PROGRAM
#!$PYTHON -IS
import sys
sys.path[:0] = ["$PREFIX/$site"]
from dkrd.launcher.main import main
main("$PREFIX/bin/python")
PROGRAM
    chmod 755 "$stage/bin/dkrctl" "$stage/sbin/dkrd"
}

# Man pages and the shells' completion: made here from the table of options, so that nothing has to be computed when they are used.
write_pages() {
    rm -rf "$stage/share"
    $PYTHON -I scripts/generate.py "$stage/share"
}

# place SOURCE TARGET: by rename, so that nobody ever runs half a file. A file that is not dkr's stays.
place() {
    target=$DESTDIR$2
    if [ -e "$target" ] && ! grep -q dkr "$target"; then
        fail "cannot place $target: another file has that name"
    fi
    mkdir -p "$(dirname "$target")"
    cp "$1" "$target.new"
    chmod --reference="$1" "$target.new"
    mv -f "$target.new" "$target"
    echo "$2" >>"$stage/manifest"
}

place_outside() {
    : >"$stage/manifest"
    [ "$BINDIR" = "$PREFIX/bin" ] || place "$stage/bin/dkrctl" "$BINDIR/dkrctl"
    [ "$SBINDIR" = "$PREFIX/sbin" ] || place "$stage/sbin/dkrd" "$SBINDIR/dkrd"
    [ -z "$SYSUSERSDIR" ] || place systemd/sysusers.d/dkr.conf "$SYSUSERSDIR/dkr.conf"
    [ -z "$TMPFILESDIR" ] || place systemd/tmpfiles.d/dkr.conf "$TMPFILESDIR/dkr.conf"
    for page in man1/dkrctl.1 man5/dkrd.toml.5 man8/dkrd.8; do
        [ -z "$MANDIR" ] || place "$stage/share/man/$page" "$MANDIR/$page"
    done
    [ -z "$BASHCOMPDIR" ] || place "$stage/share/completion/dkrctl.bash" "$BASHCOMPDIR/dkrctl"
    [ -z "$ZSHCOMPDIR" ] || place "$stage/share/completion/_dkrctl" "$ZSHCOMPDIR/_dkrctl"
    [ -z "$FISHCOMPDIR" ] || place "$stage/share/completion/dkrctl.fish" "$FISHCOMPDIR/dkrctl.fish"
    [ -n "$UNITDIR" ] || return 0
    for unit in systemd/system/*; do
        sed "s|@SBINDIR@|$SBINDIR|g" "$unit" >"$stage/unit"
        place "$stage/unit" "$UNITDIR/${unit##*/}"
        rm "$stage/unit"
    done
}

# Whether systemd runs here and has to do with this install: sd_booted(3).
concerns_systemd() {
    [ -n "$UNITDIR" ] && [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

# Restarts nothing: when the new daemon takes over is for who installs to say.
tell_systemd() {
    systemctl daemon-reload
    if systemctl --quiet is-active dkrd.service; then
        echo "install: to run the new daemon, containers live on: systemctl restart dkrd.service"
    elif ! systemctl --quiet is-enabled dkrd.socket 2>/dev/null; then
        echo "install: to have dkrd started by its first client: systemctl enable --now dkrd.socket"
    fi
}

# Both names change places in one step (renameat2(2), RENAME_EXCHANGE): a client that starts meanwhile finds the old or the new.
exchange() {
    $PYTHON -IS - "$1" "$2" <<'PROGRAM'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
old, new = (os.fsencode(path) for path in sys.argv[1:])
if libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE) != 0:
    sys.exit(f"install: cannot exchange {sys.argv[1]} and {sys.argv[2]}: {os.strerror(ctypes.get_errno())}")
PROGRAM
}

# What the install before placed outside of PREFIX and this one has not: paths and units change their names.
remove_outdated() {
    while read -r path; do
        grep -qxF "$path" "$2" || rm -f "$DESTDIR$path"
    done <"$1"
}

install_all() {
    examine
    if [ "$(id -u)" -ne 0 ] && [ -z "$DESTDIR" ]; then
        fail "cannot install to $PREFIX: not root" "run as root, as in: sudo make install"
    fi
    [ -n "$DESTDIR" ] || scripts/users.sh systemd/sysusers.d/dkr.conf
    current && return 0
    examine_parents
    exec 9<"$(dirname "$placed")"
    flock 9 # on the directory itself: of two installs at once the second waits
    current && return 0
    [ ! -e "$placed" ] || [ -f "$placed/stamp" ] ||
        fail "cannot install to $placed: it is there and not an install of dkr" "remove it, or choose another PREFIX"
    rm -rf "$(dirname "$placed")"/.dkr-install.?????? # an install that was killed; nobody else is at work, we hold the lock
    scripts/build-tools.sh
    stage=$(mktemp -d "$(dirname "$placed")/.dkr-install.XXXXXX")
    trap 'rm -rf "$stage"' EXIT
    trap 'exit 1' INT TERM HUP
    stamp >"$stage/.stamp.new"
    make_environment
    write_programs
    write_pages
    place_outside
    mv "$stage/.stamp.new" "$stage/stamp"
    [ "$(id -u)" -ne 0 ] || chown -R root:root "$stage"
    chmod -R u=rwX,go=rX "$stage"
    if [ -e "$placed" ]; then
        exchange "$stage" "$placed" # what stood is now in $stage, and removed at exit
        remove_outdated "$stage/manifest" "$placed/manifest"
    else
        mv "$stage" "$placed"
    fi
    echo "install: dkr is in $PREFIX, the programs are $BINDIR/dkrctl and $SBINDIR/dkrd"
    ! concerns_systemd || tell_systemd
}

uninstall_all() {
    if [ ! -f "$placed/stamp" ]; then
        echo "uninstall: nothing of dkr is in $placed"
        return 0
    fi
    if concerns_systemd; then
        # The daemon first, so that nothing is started while containers are stopped.
        systemctl --quiet disable dkrd.socket dkrd.service
        systemctl stop dkrd.socket dkrd.service
        systemctl stop dkr-containers.service
    fi
    while read -r path; do
        rm -f "$DESTDIR$path"
    done <"$placed/manifest"
    rm -rf "$placed"
    if concerns_systemd; then
        systemctl daemon-reload
        rm -f /run/dkr/dkrd.lock
        rmdir /run/dkr/containers /run/dkr 2>/dev/null || true # a container that is being removed is still there
    fi
    echo "uninstall: $PREFIX and what belongs to it is removed"
    echo "uninstall: kept are the user dkr-api, the groups dkr-api, dkr and dkr-admin, /etc/dkr and /var/lib/dkr"
}

case ${1-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    check) examine && current ;;
    *) fail "usage: $0 install|uninstall|check" ;;
esac
