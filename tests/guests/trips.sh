#!/bin/sh
# Makes the bare hypervisor of trips.S, both as a multiboot kernel and as a disk.
#
#   tests/guests/trips.sh DIR TRIPS ROUNDS
#
# leaves DIR/trips.bin, and the same bytes as DIR/disk.img, of 65 cylinders, 16 heads and 63 sectors. Needs an assembler and
# a linker.
set -eu

[ $# -eq 3 ] || { echo "usage: $0 DIR TRIPS ROUNDS" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
cc -c -DTRIPS="$2" -DROUNDS="$3" -o trips.o "$here/trips.S"
ld --oformat binary -Ttext 0xfe00 -e boot -o trips.bin trips.o
rm trips.o
cp trips.bin disk.img
truncate -s $((65 * 16 * 63 * 512)) disk.img
