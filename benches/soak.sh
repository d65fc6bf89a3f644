#!/bin/sh
# A long recording of Linux under KVM under L0: does memory grow, do clocks drift, is the replay the same to the last event?
#
#   benches/soak.sh NVMX GUESTDIR [MINUTES]
#
# GUESTDIR is where tests/guests/linux.sh and tests/guests/kvm.sh have left vmlinuz and kvm.img. L1 runs the test `soak` of
# kvm.sh for MINUTES (30) of guest time; what it idles away takes no time here, so that 30 minutes are some 10 of one CPU.
# NVMX_SOAK_OUT=DIR keeps the trace and what was measured there, and NVMX_SOAK_AGAIN=1 judges what is there; NVMX_SOAK_LOG=exits|vmcs|l0 chooses the log (vmcs).
#
# Samples are in soak.csv: phase, seconds of guest time, bytes of the trace, and of the process in KiB: what it has in memory
# (VmRSS), the most that it ever had (VmHWM), what of that is its guest's memory, and all else. Judged is:
#
#   memory   all but the guest's, at its most in the last third of the run: not above that of the first third by more than
#            GROWTH KiB, of the recording and of the replay
#   clocks   of L1 and of each L2, by the stamps of the events at which they were read: never out by a tick of 4 ms. An L2
#            counts its TSC against its PIT when it boots, and is some kHz out by that: its kernel's clocks are held to the
#            straight line from its first reading to its last, and how far that is out is told
#   replay   identical, up to the last event
#
# Exit status 0 if all of it holds, else 1.
set -eu

[ $# -ge 2 ] && [ $# -le 3 ] || { echo "usage: $0 NVMX GUESTDIR [MINUTES]" >&2; exit 2; }
nvmx=$(command -v "$1") || { echo "$0: there is no $1" >&2; exit 2; }
guest=$(cd "$2" && pwd) minutes=${3:-30}
log=${NVMX_SOAK_LOG:-vmcs}
for part in vmlinuz kvm.img; do
    [ -f "$guest/$part" ] || { echo "$0: $guest/$part is missing: see tests/guests/kvm.sh" >&2; exit 2; }
done
# 8 MiB: the writer's index takes some 150 bytes for each block, and the allocator is not exact.
GROWTH=8192
TICK=4000000
MEMORY=384

if [ -n "${NVMX_SOAK_OUT:-}" ]; then
    mkdir -p "$NVMX_SOAK_OUT"
    cd "$NVMX_SOAK_OUT"
else
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    cd "$dir"
fi
here=$(pwd -P)
[ -n "${NVMX_SOAK_AGAIN:-}" ] || rm -f console soak.csv soak.nvmx pipe

bytes() { stat -c %s soak.nvmx 2>/dev/null || echo 0; }

# Of a process: VmRSS, VmHWM and what of its memory is the guest's, which is the one mapping that is as large.
memory() {
    awk '/^VmRSS:/ { rss = $2 } /^VmHWM:/ { hwm = $2 } END { printf "%d,%d,", rss, hwm }' "/proc/$1/status" 2>/dev/null &&
        awk -v least=$((MEMORY * 1024)) '/^Size:/ { size = $2 } /^Rss:/ && size >= least { rss += $2 } END { print rss + 0 }' \
            "/proc/$1/smaps" 2>/dev/null
}

sample() { # PHASE SECONDS BYTES PROCESS
    now=$(memory "$4") || return 0
    # A process that ends meanwhile has no guest any more, and of a report there is none.
    echo "$1,$2,$3,$now" | awk -F, '$4 > 0 && ($6 > 0 || $1 == "report") { print $0 "," $4 - $6 }' >>soak.csv
}

failed=0
fail() {
    echo "FAILED: $*"
    failed=1
}

measure() {
    mkfifo pipe
    append="console=ttyS0 nokaslr mitigations=off quiet acpi=off nosmp lpj=1000000 tsc=reliable no_timer_check \
random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 panic=-1 nvmx.run=soak nvmx.minutes=$minutes"
    begun=$(date +%s)
    "$nvmx" record -q --mem ${MEMORY}M --log "$log" --kernel "$guest/vmlinuz" --initrd "$guest/kvm.img" --append "$append" \
        -o soak.nvmx </dev/null >pipe 2>errors &
    recorder=$!
    while IFS= read -r line; do
        printf '%s\n' "$line" | tr -d '\r' >>console
        case $line in
        "nvmx-clock l1 "*)
            # shellcheck disable=SC2086 # a list of words
            set -- $line
            sample record $(($4 / 1000000000)) "$(bytes)" $recorder
            ;;
        esac
    done <pipe
    wait $recorder || fail "the recording ended with status $?: $(cat errors)"
    recorded=$(date +%s)
    grep -q '^soak: [0-9]* payloads ran' console || fail "the guest did not come to its end: $(tail -n 3 console)"

    # Where a process last read the trace.
    place() {
        for file in /proc/"$1"/fd/*; do
            if [ "$(readlink "$file" 2>/dev/null)" = "$here/soak.nvmx" ]; then
                sed -n 's/^pos:[[:space:]]*//p' "/proc/$1/fdinfo/${file##*/}" 2>/dev/null
                break
            fi
        done
    }

    # Runs a command over the trace, with a sample each second, at the place of the trace that it has read up to.
    watched() { # PHASE WORDS...
        phase=$1 && shift
        "$nvmx" "$@" >"$phase.out" 2>"$phase.err" &
        process=$!
        while kill -0 $process 2>/dev/null; do
            read=$(place $process)
            at=$(awk -F, -v read="${read:-0}" '
                $1 != "record" { next }
                $3 >= read && !done { at = $3 > before ? from + ($2 - from) * (read - before) / ($3 - before) : $2; done = 1 }
                { before = $3; from = $2 }
                END { printf "%d", done ? at : from }' soak.csv)
            sample "$phase" "$at" "${read:-0}" $process
            sleep 1
        done
        wait $process || fail "$* ended with status $?: $(cat "$phase.err")"
    }

    events=$("$nvmx" info --json soak.nvmx | sed -n 's/^  "events": \([0-9]*\).*/\1/p')
    watched replay replay --json soak.nvmx
    grep -q '"identical": true' replay.out || fail "the replay differs: $(cat replay.out)"
    grep -q "\"events\": $events," replay.out || fail "the replay is not of all $events events: $(cat replay.out)"
    replayed=$(date +%s)
    if [ "$log" = l0 ]; then
        watched l0 replay --l0 --json soak.nvmx
        grep -q '"identical": true' l0.out || fail "the replay of L0 alone differs: $(cat l0.out)"
    fi
    watched report report soak.nvmx

    # Where the clocks were read, by the events: marks of L1's, and exits of L2's.
    "$nvmx" query soak.nvmx 'SELECT event, instruction FROM marks' --format csv >marks.csv
    "$nvmx" query soak.nvmx "SELECT event, instruction FROM exits WHERE level = 2 AND reason = 'IO_INSTRUCTION' \
AND qualification >= $((0xe9a << 16)) AND qualification < $((0xe9b << 16))" --format csv >exits.csv

    echo "$events $((recorded - begun)) $((replayed - recorded))" >took
}

[ -n "${NVMX_SOAK_AGAIN:-}" ] || measure
read -r events recording replaying <took
echo "soak: $minutes minutes of guest time, $events events, $(($(bytes) >> 20)) MiB; recorded in $recording s, replayed in \
$replaying s; $(sed -n 's/^soak: //p' console | tr '\n' ' ')"

# Pairs what a guest read with when that was.
clocks() { # GUEST FILE
    awk -F, 'NR > 1 { print $2 }' "$2" >stamps
    grep "^nvmx-clock $1 " console >read || true
    [ "$(wc -l <stamps)" -eq "$(wc -l <read)" ] || fail "$1 read its clocks $(wc -l <read) times, and $(wc -l <stamps) are in the trace"
    paste -d ' ' read stamps | awk -v tick=$TICK -v guest="$1" '
        function size(value) { return value < 0 ? -value : value }
        # A life has ended: how far its clocks were from where they should have been.
        function judge(   row, span, line, off) {
            span = stamp[rows] - stamp[1]
            for (row = 1; row <= rows; row++) {
                off = size((tsc[row] - tsc[1]) - (stamp[row] - stamp[1]))
                if (off > worst["tsc"]) worst["tsc"] = off
                for (name in clock) {
                    line = guest == "l1" || !span ? 0 : (far[name, rows] - far[name, 1]) * (stamp[row] - stamp[1]) / span
                    off = size(far[name, row] - far[name, 1] - line)
                    if (off > worst[name]) worst[name] = off
                }
            }
            if (span && guest != "l1") rates = rates sprintf(" %.2f", (far["monotonic", rows] - far["monotonic", 1]) / span * 1e6)
            rows = 0
        }
        BEGIN { clock["monotonic"]; clock["date"] }
        # Another life begins: its counters are others.
        $3 == 0 { if (rows) judge(); lives++ }
        {
            rows++; count++
            stamp[rows] = $7; tsc[rows] = $4
            far["monotonic", rows] = $5 - $7
            # All digits of it would be too many for the numbers of awk.
            far["date", rows] = substr($6, 5) - $7
        }
        END {
            judge()
            printf "%s: %d readings of %d lives; against the instructions of the trace, at most %d ns out by the TSC, %d by the " \
                "monotonic clock, %d by the date", guest, count, lives, worst["tsc"], worst["monotonic"], worst["date"]
            if (rates) printf ", beside their own calibration, in parts per million:%s", rates
            print ""
            exit !(count && worst["tsc"] < tick && worst["monotonic"] < tick && worst["date"] < tick)
        }'
}
clocks l1 marks.csv || fail "the clocks of L1 drift"
clocks l2 exits.csv || fail "the clocks of L2 drift"

# The most of all but the guest's memory, in the first third of a phase and in the last.
thirds() {
    awk -F, -v phase="$1" -v bound=$GROWTH -v end=$((minutes * 60)) '
        $1 != phase { next }
        { hwm = $5 }
        $2 < end / 3 && $7 > first { first = $7 }
        $2 >= end / 3 * 2 && $7 > last { last = $7 }
        END {
            printf "%s: all but the guest\x27s memory is %d KiB at most in the first third, %d in the last; VmHWM %d KiB\n",
                phase, first, last, hwm
            exit !(first && last && last <= first + bound)
        }' soak.csv
}
thirds record || fail "the recording takes more and more memory"
thirds replay || fail "the replay takes more and more memory"
if [ "$log" = l0 ]; then thirds l0 || fail "the replay of L0 alone takes more and more memory"; fi
# It reads the trace more than once, and what it finds it keeps.
awk -F, '$1 == "report" { hwm = $5 } END { printf "report: VmHWM %d KiB\n", hwm }' soak.csv

# Each minute: where the trace was, and what the recording and the replay had in memory.
echo
echo "| minute | events | trace, MiB | recording, MiB | of it the guest's | all else | replay: all else |"
echo "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
awk -F, '
    FILENAME == "marks.csv" { if (FNR > 1) { at[++marks] = $2 / 1e9; event[marks] = $1 } next }
    $1 == "record" { seconds[++rows] = $2; trace[rows] = $3; rss[rows] = $4; guest[rows] = $6; own[rows] = $7 }
    $1 == "replay" { m = int($2 / 60 + 0.5); if ($7 > replay[m]) replay[m] = $7 }
    END {
        for (row = 1; row <= rows; row++) {
            minute = int(seconds[row] / 60 + 0.1)
            if (row > 1 && minute == last) continue
            last = minute
            if (own[row] > most) most = own[row]
            printf "| %d | %d | %.1f | %.1f | %.1f | %.1f | %s |\n", minute, event[row], trace[row] / 1048576, rss[row] / 1024,
                guest[row] / 1024, own[row] / 1024, minute in replay ? sprintf("%.1f", replay[minute] / 1024) : ""
            curve[++drawn] = own[row]; when[drawn] = minute
        }
        print ""
        for (row = 1; row <= drawn; row++) {
            bar = ""
            for (column = 0; column < curve[row] / most * 60; column++) bar = bar "#"
            printf "%3d min %s %.1f MiB\n", when[row], bar, curve[row] / 1024
        }
    }' marks.csv soak.csv
exit $failed
