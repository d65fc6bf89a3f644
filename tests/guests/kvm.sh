#!/bin/sh
# Makes a Linux guest that is a hypervisor: what linux.sh made, with KVM's modules to load, a small virtual machine monitor,
# and a kernel and initramfs for the guest's own guest.
#
#   tests/guests/kvm.sh DIR
#
# reads DIR/vmlinuz, DIR/initrd.img and DIR/host/bin/busybox, as linux.sh leaves them, and leaves DIR/kvm.img, an initramfs
# to boot DIR/vmlinuz with, and DIR/payload.img, a smaller one that lacks what kvm-linux needs. Needs gzip and a C compiler
# with its static C library. The same compiler gives the same bytes.
#
# Its tests, to be named by `nvmx.run=NAME` on the kernel's command line:
#
#   kvm         loads kvm_intel with the parameters of `nvmx.kvm=WORD,WORD...` (`nested=1,enable_apicv=0`), and runs the
#               payload of vmm.c with the words of `nvmx.payload=WORD,WORD...`
#   kvm-bench   runs the payload `nvmx.rounds=N` times with `nvmx.cpuid=N` CPUIDs only and as often with `nvmx.out=N` port
#               writes only, with a mark (see mark.c) before and after each: what benches/nested.rs times
#   kvm-linux   boots the same kernel as L2, which runs `nvmx.l2=NAME` of its own tests, with the words of
#               `nvmx.append=WORD+WORD...` on its command line, in `nvmx.l2mib` MiB (96)
set -eu

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
for file in vmlinuz initrd.img host/bin/busybox; do
    [ -f "$out/$file" ] || { echo "$0: $out/$file is missing: run $here/linux.sh $1" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

archive() {
    find . -exec touch -h -d @0 {} +
    find . | LC_ALL=C sort | "$out/host/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null
}

mkdir -p both/bin both/tests
cc -O2 -s -static -pthread -o both/bin/vmm "$here/vmm.c"
cat >both/tests/load-kvm <<'LOAD'
word() {
    sed -n "s/.*nvmx\.$1=\([^ ]*\).*/\1/p" /proc/cmdline | tr "${2:-,}" ' '
}
insmod /lib/modules/irqbypass.ko
insmod /lib/modules/kvm.ko
insmod /lib/modules/kvm-intel.ko $(word kvm)
LOAD
cat >both/tests/kvm <<'KVM'
set -e
. /tests/load-kvm
vmm payload $(word payload)
KVM
cat >both/tests/kvm-bench <<'BENCH'
set -e
. /tests/load-kvm
cpuid=$(word cpuid) out=$(word out) rounds=$(word rounds)
while [ "$rounds" -gt 0 ]; do
    rounds=$((rounds - 1))
    vmm payload cpuid="$cpuid" out=0 pages=0 mmio=0 mark=1 >/dev/null
    vmm payload cpuid=0 out="$out" pages=0 mmio=0 mark=3 >/dev/null
done
BENCH
cat >both/tests/kvm-linux <<'LINUX'
set -e
. /tests/load-kvm
size=$(word l2mib)
vmm linux /l2/vmlinuz /l2/initrd.img "${size:-96}" "console=ttyS0 nokaslr mitigations=off quiet acpi=off nosmp lpj=1000000 tsc=reliable no_timer_check random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1 nvmx.run=$(word l2) $(word append +)"
LINUX
(cd both && archive) | gzip -n -9 >both.gz

cat "$out/initrd.img" both.gz >"$out/payload.img"
# L2's own files stand uncompressed, and first, where they are aligned: they do not compress, and L1 need not try.
mkdir -p image/l2
cp "$out/vmlinuz" image/l2/vmlinuz
cp "$out/payload.img" image/l2/initrd.img
(cd image && archive) >l2
cat l2 "$out/initrd.img" both.gz >"$out/kvm.img"
echo "$out/kvm.img"
