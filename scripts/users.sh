#!/bin/sh
# usage: users.sh FILE
#
# Creates the system users and groups of a sysusers.d(5) file that do not exist yet: by systemd-sysusers(8) where there is one,
# else by useradd(8) and groupadd(8). Existing ones are left as they are.
set -eu
file=$(realpath "$1") # systemd-sysusers looks for relative names in its own directories

missing() {
    while read -r type name rest; do
        case $type in
            u) getent passwd "$name" >/dev/null || echo "u $name" ;;
            g) getent group "$name" >/dev/null || echo "g $name" ;;
        esac
    done <"$file"
}

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "users: cannot create $(missing | tr '\n' ';'): not root" >&2
    exit 1
fi
if command -v systemd-sysusers >/dev/null 2>&1; then
    systemd-sysusers "$file"
else
    missing | while read -r type name; do
        case $type in
            u) useradd --system --user-group --home-dir / --no-create-home --shell /usr/sbin/nologin \
                --comment "dkr API process" "$name" ;;
            g) groupadd --system "$name" ;;
        esac
    done
fi
left=$(missing)
if [ -n "$left" ]; then
    echo "users: these are still missing: $left" >&2
    exit 1
fi
