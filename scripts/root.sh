#!/bin/sh
# usage: root.sh WHAT
# Fails, with the way out, unless it runs as root.
[ "$(id -u)" -eq 0 ] && exit 0
echo "cannot $1: containers are made by a daemon that runs as root, and you are $(id -un)" >&2
echo "  hint: sudo $1" >&2
exit 1
