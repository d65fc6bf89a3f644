#!/bin/sh
# Makes a Linux guest that is a host: what linux.sh made, with KVM's modules, and a static nvmx that records there what KVM
# does with guests of its own.
#
#   tests/guests/host.sh DIR NVMX [OUT]
#
# reads DIR/initrd.img and DIR/host/bin/busybox, as linux.sh leaves them, and NVMX, a static build (docs/host.md says how it
# is made), and leaves OUT/host.img (OUT is DIR unless given), an initramfs to boot DIR/vmlinuz with. Needs gzip. The same
# files give the same bytes.
#
# Its test, to be named by `nvmx.run=host` on the kernel's command line, loads kvm_intel with the parameters of `nvmx.kvm=SET`
# (as `nested=1,ept=0`; nested=1 unless given) and runs nvmx with the words of each command of
# `nvmx.host=WORD+WORD...,WORD+WORD...`. An `attach` runs beside the commands after it and is ended as Ctrl-C ends it.
# What the commands leave in /out is shown on the console in base64, each file between `nvmx-file NAME` and
# `nvmx-file-end`. The exit status is the first that is not 0.
set -eu

[ $# -eq 2 ] || [ $# -eq 3 ] || { echo "usage: $0 DIR NVMX [OUT]" >&2; exit 2; }
linux=$(cd "$1" && pwd)
nvmx=$(realpath "$2")
mkdir -p "${3:-$1}"
out=$(cd "${3:-$1}" && pwd)
for part in "$linux/initrd.img" "$linux/host/bin/busybox" "$nvmx"; do
    [ -f "$part" ] || { echo "$0: $part is missing" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir -p image/bin image/tests image/out
cp "$nvmx" image/bin/nvmx
cat >image/tests/host <<'HOST'
word() {
    sed -n "s/.*nvmx\.$1=\([^ ]*\).*/\1/p" /proc/cmdline | tr "${2:-,}" ' '
}
insmod /lib/modules/irqbypass.ko
insmod /lib/modules/kvm.ko
set=$(word kvm)
# shellcheck disable=SC2086 # a list of words
insmod /lib/modules/kvm-intel.ko ${set:-nested=1}
mount -t tracefs tracefs /sys/kernel/tracing
status=0 beside=
done_with() {
    echo "nvmx-status $1"
    [ "$status" -ne 0 ] || status=$1
}
for command in $(word host); do
    # shellcheck disable=SC2046 # a list of words
    set -- $(echo "$command" | tr + ' ')
    echo "nvmx-command $*"
    if [ "$1" = attach ]; then
        nvmx "$@" >/tmp/attach 2>&1 &
        beside=$!
        # It says that it records, in a line of its own.
        while [ ! -s /tmp/attach ] && kill -0 $beside 2>/dev/null; do usleep 20000; done
    else
        nvmx "$@"
        done_with $?
    fi
done
if [ -n "$beside" ]; then
    kill -INT $beside
    wait $beside
    done_with $?
    cat /tmp/attach
fi
for file in /out/*; do
    [ -f "$file" ] || continue
    echo "nvmx-file ${file#/out/}"
    base64 "$file"
    echo nvmx-file-end
done
exit $status
HOST
cd image
find . -exec touch -h -d @0 {} +
find . | LC_ALL=C sort | "$linux/host/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null >../both
# The program stands uncompressed and first: nothing of a software machine's time goes into unpacking it.
cat ../both "$linux/initrd.img" >"$out/host.img"
echo "$out/host.img"
