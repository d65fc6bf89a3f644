#!/bin/sh
# Makes the pictures of the documents again, from recordings that it makes.
#
#   docs/pictures/make.sh GUEST [NVMX]
#
# GUEST is a folder that tests/guests/linux.sh and tests/guests/kvm.sh have filled: vmlinuz and payload.img are read. NVMX is
# the program, target/release/nvmx unless given. Needs tmux, python3 and, for the pages, chromium; what is missing is said,
# and its pictures stay as they are. Screens become SVGs by screen.py beside this file. The same program and guest give the
# same screens, but for what a busy machine has not finished drawing: look at each picture before it is committed.
set -eu

[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 GUEST [NVMX]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
guest=$(cd "$1" && pwd)
nvmx=${2:-$here/../../target/release/nvmx}
nvmx=$(cd "$(dirname "$nvmx")" && pwd)/$(basename "$nvmx")
[ -f "$guest/vmlinuz" ] && [ -f "$guest/payload.img" ] || { echo "$0: $guest has no vmlinuz and payload.img" >&2; exit 2; }
for tool in tmux python3; do
    command -v $tool >/dev/null || { echo "$0: there is no $tool" >&2; exit 2; }
done
work=$(mktemp -d)
terminal=
trap '[ -z "$terminal" ] || $terminal kill-server 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"

words="console=ttyS0 nokaslr mitigations=off quiet acpi=off nosmp lpj=1000000 tsc=reliable no_timer_check \
random.trust_cpu=1 raid=noautodetect cryptomgr.notests=1 nvmx.run=kvm"
for policy in mapped kvm-2011; do
    "$nvmx" record -q --kernel "$guest/vmlinuz" --initrd "$guest/payload.img" --append "$words" --policy $policy -o $policy.nvmx >/dev/null
done

# A picture of the inspector: its name, its title, columns and rows, the trace or traces, then the keys. TEXT=… is typed as
# it stands, WAIT=… waits until the screen shows the text, and GONE=… until it does not.
picture() {
    name=$1 title=$2 columns=$3 rows=$4 traces=$5
    shift 5
    terminal="tmux -f /dev/null -L pictures-$$-$name"
    # shellcheck disable=SC2086 # a list of words
    $terminal new-session -d -x "$columns" -y "$rows" "exec env -u NO_COLOR LC_ALL=C.UTF-8 COLORTERM=truecolor $nvmx tui --fresh $traces"
    $terminal set-option -g status off
    for key; do
        case $key in
        WAIT=* | GONE=*)
            tries=1200 shown=0
            [ "${key%%=*}" = WAIT ] || shown=1
            until { $terminal capture-pane -p | grep -qF -- "${key#*=}"; [ $? -eq $shown ]; }; do
                tries=$((tries - 1))
                [ $tries -gt 0 ] || { echo "$0: $name: $key in vain:" >&2; $terminal capture-pane -p >&2; exit 1; }
                sleep 0.1
            done ;;
        TEXT=*) $terminal send-keys -l "${key#TEXT=}"; sleep 0.3 ;;
        *) $terminal send-keys "$key"; sleep 0.3 ;;
        esac
    done
    sleep 2
    $terminal capture-pane -e -p | python3 "$here/screen.py" "$title" >"$work/$name.svg"
    mv "$work/$name.svg" "$here/$name.svg"
    $terminal kill-server
    terminal=
    echo "$here/$name.svg"
}

picture inspector "nvmx tui: what one OUT of L2 cost" 120 36 mapped.nvmx \
    WAIT=Events 4 WAIT=exits } } Enter WAIT=IO_INSTRUCTION 3 WAIT=cost
picture memory "nvmx tui: memory at L2's RIP, with the walks that lead there" 120 28 mapped.nvmx \
    WAIT=Events 4 WAIT=exits } } Enter WAIT=IO_INSTRUCTION 8 WAIT=EPT12:
picture two "nvmx tui: two policies side by side, by shape" 120 32 "mapped.nvmx kvm-2011.nvmx" \
    WAIT=Both t t WAIT=shape d WAIT=Only 'GONE=so far'

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[ -n "$browser" ] || { echo "$0: there is no chromium: report.png and flame.png stay as they are" >&2; exit 0; }
shot() {
    name=$1 size=$2 page=$3
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/browser" \
        --window-size="$size" --screenshot="$work/$name.png" "file://$work/$page" >/dev/null 2>&1
    python3 "$here/palette.py" "$work/$name.png" "$here/$name.png"
    echo "$here/$name.png"
}
"$nvmx" report kvm-2011.nvmx --format html -o report.html
shot report 1240,1148 report.html
"$nvmx" record -q multiplication -o multiplication.nvmx >/dev/null
"$nvmx" report multiplication.nvmx --format flame -o flame.svg
shot flame 1200,254 flame.svg
