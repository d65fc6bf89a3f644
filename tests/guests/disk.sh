#!/bin/sh
# Makes a disk that boots a Linux kernel, for machines that load a kernel from nothing else.
#
#   tests/guests/disk.sh DIR APPEND
#
# leaves DIR/disk.img, of 65 cylinders, 16 heads and 63 sectors, with DIR/vmlinuz, DIR/initrd.img and the command line
# APPEND behind syslinux, which speaks on the serial line. Needs apt-get with a package list and dpkg-deb; nothing is
# installed.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 DIR APPEND" >&2; exit 2; }
out=$(cd "$1" && pwd)
append=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get -q download syslinux mtools >/dev/null 2>&1 ||
    { echo "$0: cannot download syslinux and mtools: is a package mirror reachable?" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done
PATH=$work/root/usr/bin:$PATH

cat >syslinux.cfg <<CFG
SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
KERNEL /vmlinuz
APPEND initrd=/initrd.img $append
CFG
truncate -s $((65 * 16 * 63 * 512)) disk.img
mformat -i disk.img -t 65 -h 16 -s 63 -H 0 ::
mcopy -i disk.img "$out/vmlinuz" "$out/initrd.img" syslinux.cfg ::
syslinux --install disk.img
mv disk.img "$out/disk.img"
