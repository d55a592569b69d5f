#!/bin/sh
# usage: run.sh PREFIX BINDIR SBINDIR [ARG...]
#
# Starts the installed daemon unless it answers, then `dkrctl run ARG...`. Without ARG: at a terminal a shell in a fresh container,
# else (a pipe, no standard input) a few commands there that show where they run.
set -eu
prefix=$1 dkrctl=$2/dkrctl dkrd=$3/dkrd
shift 3
unset DKR_SOCKET
/usr/bin/python3 -I "$(dirname "$0")/start_daemon.py" "$prefix" "$dkrd"

if [ "$#" -gt 0 ]; then
    exec "$dkrctl" run "$@"
fi
if [ -t 0 ] && [ -t 1 ]; then
    echo 'make run: dkrctl run --rm /bin/sh (leave it with "exit")'
    exec "$dkrctl" run --rm /bin/sh
fi

# The shell reads /proc itself: no ps is needed, and no process of the host is there to be seen.
show='
echo "hostname:   $(cat /proc/sys/kernel/hostname)"
echo "user:       $(id)"
echo "on host as: $(awk "{ print \$2 }" /proc/self/uid_map) (first id of the range)"
echo "process $$:  $(tr "\0" " " </proc/$$/cmdline | cut -c1-40 | head -n 1)"
cd /proc
set -- [0-9]*
echo "processes:  $*"
echo "network:    $(awk -F: "NR > 2 { print \$1 }" /proc/net/dev | tr -d " " | tr "\n" " ")"
echo "mounts:"
awk "{ print \"  \" \$2, \$3 }" /proc/mounts
'
echo "make run: dkrctl run --rm /bin/sh -c '...' </dev/null"
exec "$dkrctl" run --rm /bin/sh -c "$show" </dev/null
