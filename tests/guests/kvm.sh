#!/bin/sh
# Makes a Linux guest that is a hypervisor: what linux.sh made, with KVM's modules to load, a small virtual machine monitor,
# and a kernel and initramfs for the guest's own guest.
#
#   tests/guests/kvm.sh DIR [OUT]
#
# reads DIR/vmlinuz, DIR/initrd.img and DIR/host/bin/busybox, as linux.sh leaves them, and leaves OUT/kvm.img (OUT is DIR
# unless given), an initramfs to boot DIR/vmlinuz with, and OUT/payload.img, a smaller one that lacks what kvm-linux needs.
# Needs gzip and a C compiler with its static C library. The same compiler gives the same bytes.
#
# Its tests, to be named by `nvmx.run=NAME` on the kernel's command line:
#
#   kvm         for each set of parameters in `nvmx.kvm=SET/SET...` (as `nested=1,enable_apicv=0`; `-` is the empty one, and
#               the default) loads kvm_intel with it, runs the payload of vmm.c with the words of
#               `nvmx.payload=WORD,WORD...`, and unloads it. Marks 1, 2, ... (see mark.c) end the sets
#   kvm-bench   runs the payload `nvmx.rounds=N` times with `nvmx.cpuid=N` CPUIDs only and as often with `nvmx.out=N` port
#               writes only, with a mark before and after each: what cli/bench/nested.rs times
#   kvm-linux   boots the same kernel as L2, with kvm_intel's parameters of `nvmx.kvm=SET`. L2 runs `nvmx.l2=NAME` of its
#               own tests, with the words of `nvmx.append=WORD+WORD...` on its command line, in `nvmx.l2mib` MiB (96);
#               `nvmx.l2irq=apic` has L2 use its APICs, which it leaves for the PIC and the PIT otherwise
#   hello       says that it is there: the least that a Linux can do
#   interrupts  sleeps a little, and shows where its interrupts came from
#   soak        works in bursts and sleeps between for `nvmx.minutes=N` minutes (1): Linux as L2 in the background, started
#               again every five minutes, with APICs and without in turn, and beside it the payload once a second, by another
#               number of machines and vCPUs every ten. clock.c tells the clocks then, of L2 too. kvm_intel is loaded with
#               the parameters of `nvmx.kvm=SET`
#   soak-l2     what L2 does meanwhile: some work each second, for `nvmx.seconds=N`
#
# `kvm` and `kvm-linux` say what KVM has counted: the counters of each vCPU, and as `exits REASON COUNT` a histogram of the
# tracepoint kvm_exit over all of them, by the number of the exit reason.
set -eu

[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 DIR [OUT]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
linux=$(cd "$1" && pwd)
mkdir -p "${2:-$1}"
out=$(cd "${2:-$1}" && pwd)
for part in vmlinuz initrd.img host/bin/busybox; do
    [ -f "$linux/$part" ] || { echo "$0: $linux/$part is missing: run $here/linux.sh $1" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

archive() {
    find . -exec touch -h -d @0 {} +
    find . | LC_ALL=C sort | "$linux/host/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null
}

mkdir -p both/bin both/tests
cc -O2 -s -static -pthread -o both/bin/vmm "$here/vmm.c"
cc -O2 -s -static -o both/bin/clock "$here/clock.c"
cat >both/tests/hello <<'HELLO'
echo "hello from $(uname -s) $(uname -m): $(seq 1 100 | sha256sum)"
HELLO
cat >both/tests/kvm-words <<'WORDS'
word() {
    sed -n "s/.*nvmx\.$1=\([^ ]*\).*/\1/p" /proc/cmdline | tr "${2:-,}" ' '
}
insmod /lib/modules/irqbypass.ko
insmod /lib/modules/kvm.ko
mount -t tracefs tracefs /sys/kernel/tracing
exits=/sys/kernel/tracing/events/kvm/kvm_exit
count() {
    echo hist:keys=exit_reason:size=128 >$exits/trigger
}
counted() {
    sed -n 's/^{ exit_reason: *\([0-9]*\) } hitcount: *\([0-9]*\)/exits \1 \2/p' $exits/hist
    echo '!hist:keys=exit_reason:size=128' >$exits/trigger
}
WORDS
cat >both/tests/kvm <<'KVM'
set -e
. /tests/kvm-words
sets=$(word kvm /)
number=0
for set in ${sets:--}; do
    number=$((number + 1))
    echo "set $number $set"
    # shellcheck disable=SC2046,SC2086 # lists of words
    insmod /lib/modules/kvm-intel.ko $(echo ${set#-} | tr , ' ')
    count
    vmm payload $(word payload)
    counted
    rmmod kvm_intel
    mark $number "set$number"
done
KVM
cat >both/tests/kvm-bench <<'BENCH'
set -e
. /tests/kvm-words
insmod /lib/modules/kvm-intel.ko
cpuid=$(word cpuid) out=$(word out) rounds=$(word rounds)
while [ "$rounds" -gt 0 ]; do
    rounds=$((rounds - 1))
    vmm payload cpuid="$cpuid" out=0 pages=0 mmio=0 mark=1 >/dev/null
    vmm payload cpuid=0 out="$out" pages=0 mmio=0 mark=3 >/dev/null
done
BENCH
cat >both/tests/kvm-linux <<'LINUX'
set -e
. /tests/kvm-words
# shellcheck disable=SC2046 # a list of words
insmod /lib/modules/kvm-intel.ko $(word kvm)
count
size=$(word l2mib)
irq="acpi=off nosmp"
[ "$(word l2irq)" != apic ] || irq=
vmm linux /l2/vmlinuz /l2/initrd.img "${size:-96}" "console=ttyS0 nokaslr mitigations=off quiet $irq lpj=1000000 tsc=reliable no_timer_check random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1 nvmx.run=$(word l2) $(word append +)"
counted
LINUX
cat >both/tests/interrupts <<'INTERRUPTS'
for nap in 1 2 3 4 5 6 7 8 9 10; do sleep 0.05; done
cat /proc/interrupts
INTERRUPTS
cat >both/tests/soak <<'SOAK'
set -e
. /tests/kvm-words
# shellcheck disable=SC2046 # a list of words
insmod /lib/modules/kvm-intel.ko $(word kvm)
minutes=$(word minutes)
end=$((${minutes:-1} * 60))
up() {
    read -r seconds rest </proc/uptime
    echo "${seconds%.*}"
}
# L2 after L2, as long as there is time for one.
others() {
    lives=0
    while left=$((end - $(up) - 10)) && [ "$left" -ge 20 ]; do
        [ "$left" -lt 300 ] || left=300
        lives=$((lives + 1))
        irq="acpi=off nosmp"
        [ $((lives % 2)) -eq 1 ] || irq=
        vmm linux /l2/vmlinuz /l2/initrd.img 96 "console=ttyS0 nokaslr mitigations=off quiet $irq lpj=1000000 tsc=reliable no_timer_check random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1 nvmx.run=soak-l2 nvmx.seconds=$left" >/tmp/l2 || { cat /tmp/l2; return 1; }
        grep -e '^nvmx-clock' -e '^l2 ' -e '^vmm:' /tmp/l2
    done
    echo "soak: $lives L2s lived"
}
clock 0 l1
others &
times=0
while now=$(up) && [ "$now" -lt "$end" ]; do
    times=$((times + 1))
    case $((times % 4)) in
    0) how="" ;;
    1) how="vcpus=2" ;;
    2) how="vms=3" ;;
    3) how="vms=2 vcpus=2" ;;
    esac
    # shellcheck disable=SC2086 # a list of words
    vmm payload cpuid=8 out=8 pages=10 mmio=3 rounds=10 pause=1000 $how >/tmp/payload || { cat /tmp/payload; exit 1; }
    sha256sum /tmp/payload >/tmp/work
    clock "$(up)" l1
done
wait $!
clock "$end" l1
echo "soak: $times payloads ran; $(date)"
SOAK
cat >both/tests/soak-l2 <<'SOAK'
set -e
seconds=$(sed -n 's/.*nvmx\.seconds=\([^ ]*\).*/\1/p' /proc/cmdline)
up() {
    read -r seconds_up rest </proc/uptime
    echo "${seconds_up%.*}"
}
clock 0 l2
ten=0 rounds=0
while now=$(up) && [ "$now" -lt "$seconds" ]; do
    if [ "$now" -ge $((ten + 10)) ]; then
        ten=$((now / 10 * 10))
        clock "$ten" l2
    fi
    rounds=$((rounds + 1))
    if [ $((rounds % 10)) -eq 0 ]; then
        seq 1 500 | sha256sum >/tmp/sum
        dd if=/dev/zero of=/tmp/file bs=4096 count=100 2>/dev/null
        rm /tmp/file
    fi
    # A port that nobody serves.
    port 0x80 1
    sleep 1
done
echo "l2 $rounds rounds $(cat /tmp/sum)"
clock 999999 l2
SOAK
(cd both && archive) | gzip -n -9 >both.gz

cat "$linux/initrd.img" both.gz >"$out/payload.img"
# L2's own files stand uncompressed, and first, where they are aligned: they do not compress, and L1 need not try.
mkdir -p image/l2
cp "$linux/vmlinuz" image/l2/vmlinuz
cp "$out/payload.img" image/l2/initrd.img
(cd image && archive) >l2
cat l2 "$linux/initrd.img" both.gz >"$out/kvm.img"
echo "$out/kvm.img"
