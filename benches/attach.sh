#!/bin/sh
# What `nvmx attach` counts, costs and writes, beside perf and trace-cmd: the same guest under QEMU each time.
#
#   benches/attach.sh [NVMX [OUTS [CPUIDS [ROUNDS]]]]
#
# First its counts of each tracepoint beside those of `perf stat` of the same run. Then how much longer the guest takes by its
# own time-stamp counter while it is recorded, and how many bytes a record takes in the file, less an empty file's: the best
# of ROUNDS rounds in which each takes its turn. Needs root, /dev/kvm, QEMU, a C compiler, and perf and trace-cmd to compare
# with; `ftrace` stands in for a trace-cmd that this kernel refuses. docs/bench.md has figures.
set -eu

nvmx=$(command -v "${1:-nvmx}") outs=${2:-30000} cpuids=${3:-30000} rounds=${4:-3}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cc -c -DOUTS="$outs" -DCPUIDS="$cpuids" -o exits.o "$here/../tests/guests/exits.S"
ld --oformat binary -Ttext 0 -e 0 -o exits.bin exits.o

events=kvm_entry,kvm_exit,kvm_page_fault,kvm_mmio,kvm_pio,kvm_msr,kvm_cr,kvm_cpuid,kvm_inj_virq,kvm_userspace_exit
perf_events=$(echo "$events" | sed 's/kvm_/kvm:kvm_/g')
trace_events=$(echo "$perf_events" | tr ',' '\n' | sed 's/^/-e /' | tr '\n' ' ')

# Runs the guest; its ticks are in the file `ticks`. QEMU leaves with what isa-debug-exit makes of 0.
cat > guest.sh <<'END'
rm -f ticks
qemu-system-x86_64 -name guest=exits,debug-threads=on -enable-kvm -m 64 -display none -nodefaults -no-reboot \
    -bios exits.bin -device isa-debug-exit -debugcon file:ticks 2>/dev/null
[ "$(wc -c < ticks)" -eq 8 ] || { echo "the guest did not end well" >&2; exit 1; }
END

# The ticks of the guest's last run, and the lesser of two numbers, of which the first may be none.
ticks() { od -An -t u8 ticks | tr -d ' '; }
best() { if [ -z "$1" ] || [ "$2" -lt "$1" ]; then echo "$2"; else echo "$1"; fi; }

# Each runs a command and records meanwhile, into a file.
attach() {
    file=$1 && shift
    "$nvmx" attach --json -e "$events" -o "$file" > attach.json 2> attach.err &
    recorder=$!
    until grep -q 'nvmx: recording' attach.err; do sleep 0.1; done
    "$@"
    kill -INT $recorder
    wait $recorder
}
perf_record() {
    file=$1 && shift
    perf record -q -a -e "$perf_events" -o "$file" -- "$@" > perf.out 2>&1 || { cat perf.out >&2; exit 1; }
}
trace_cmd() {
    file=$1 && shift
    trace-cmd record -q $trace_events -o "$file" "$@" > trace.out 2>&1
}
# Where the kernel has switched its function tracer off, trace-cmd ends at its first write to it. What it would read and store
# is in the kernel's own rings: here it stays in them, and the file is as long as they say.
ftrace() {
    file=$1 && shift
    size=$(cut -d ' ' -f 1 $tracefs/buffer_size_kb)
    echo 65536 > $tracefs/buffer_size_kb
    echo > $tracefs/trace
    echo 1 > $tracefs/tracing_on
    for name in $(echo "$events" | tr ',' ' '); do echo 1 > $tracefs/events/kvm/$name/enable; done
    "$@"
    for name in $(echo "$events" | tr ',' ' '); do echo 0 > $tracefs/events/kvm/$name/enable; done
    truncate -s "$(cat $tracefs/per_cpu/cpu*/stats | awk '/^bytes/ { sum += $2 } END { print sum + 0 }')" "$file"
    echo > $tracefs/trace
    echo "$size" > $tracefs/buffer_size_kb
}

# What was recorded of a tracepoint, and of all.
count() { sed -n '/"recorded"/,/}/p' attach.json | sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" | awk '{ sum += $1 } END { print sum + 0 }'; }

echo "counts of one run, by nvmx attach and by perf stat"
attach counts.nvmx perf stat -a -x, -e "$perf_events" -o stat.csv -- sh guest.sh
same=yes
for name in $(echo "$events" | tr ',' ' '); do
    perf=$(awk -F, -v name="kvm:$name" '$3 == name { print $1 }' stat.csv)
    [ "$(count "$name")" = "$perf" ] || same=no
    [ "$perf" = 0 ] || printf '  %-20s %10s %10s\n' "$name" "$(count "$name")" "$perf"
done
echo "  equal: $same"

have() { command -v "$1" > /dev/null || { echo "  $1 is not installed"; return 1; }; }
tools="attach"
! have perf || tools="$tools perf_record"
tracefs=/sys/kernel/tracing
if ! have trace-cmd || ! trace_cmd probe.dat true; then
    ! [ -w $tracefs/tracing_on ] || tools="$tools ftrace"
    [ ! -s trace.out ] || echo "  trace-cmd does not record here: $(grep -v '^$' trace.out | head -2 | tr '\n' ' ')"
fi
case $tools in *ftrace*) ;; *) tools="$tools trace_cmd" ;; esac
for tool in $tools; do $tool "$tool.empty" sleep 0.5; done
none=''
for round in $(seq "$rounds"); do
    sh guest.sh
    none=$(best "$none" "$(ticks)")
    for tool in $tools; do
        $tool "$tool.trace" sh guest.sh
        best "$(cat $tool.best 2>/dev/null || true)" "$(ticks)" > $tool.best.new
        mv $tool.best.new $tool.best
    done
done
lost=$(sed -n 's/^ *"lost": \([0-9]*\),*$/\1/p' attach.json)
records=$(count 'kvm_[a-z_]*')
echo "$records records of a run, $lost lost; the guest's time as a multiple of that without, and bytes a record"
for tool in $tools; do
    size=$(($(stat -c %s $tool.trace) - $(stat -c %s $tool.empty)))
    awk -v name="$tool" -v ticks="$(cat $tool.best)" -v none="$none" -v bytes="$size" -v records="$records" 'BEGIN {
        printf "  %-14s %9.2f %14.1f\n", name, ticks / none, bytes / records }'
done
