#!/bin/sh
# Makes a Linux guest out of Debian packages: the cloud kernel, and an initramfs around a static busybox.
#
#   tests/guests/linux.sh DIR
#   tests/guests/linux.sh --versions
#
# The first leaves DIR/vmlinuz and DIR/initrd.img, and in DIR/host the guest's programs and tests, for who wants to run the
# same on the host. Needs apt-get with a package list (`apt-get update`), dpkg-deb, gzip and a C compiler with its static C
# library; nothing is installed. The same packages and compiler give the same bytes. The second names the packages and their
# versions.
#
# The guest's init mounts what a shell expects, then runs the command that the kernel's command line names as
# `nvmx.run=NAME` (one of /tests in the initramfs), powers off through isa-debug-exit with its exit status, or, without
# one, gives a shell on the console.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 DIR | --versions" >&2; exit 2; }
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
[ -n "$kernel" ] || { echo "$0: linux-image-cloud-amd64 is unknown here: run apt-get update" >&2; exit 2; }
packages="$kernel busybox-static libzstd-dev"
if [ "$1" = --versions ]; then
    for package in $packages; do
        echo "$package $(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')"
    done
    exit
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# shellcheck disable=SC2086 # a list of words
apt-get -q download $packages >/dev/null 2>&1 ||
    { echo "$0: cannot download $packages: is a package mirror reachable?" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done

cp root/boot/vmlinuz-* "$out/vmlinuz"

image=$work/image
mkdir -p "$image/bin" "$image/proc" "$image/sys" "$image/dev" "$image/tmp" "$image/tests" "$image/lib/modules"
cp root/bin/busybox "$image/bin/busybox"
"$image/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$image/bin/$applet"
done
cc -O2 -s -static -o "$image/bin/port" "$here/port.c"
cc -O2 -s -static -o "$image/bin/mark" "$here/mark.c"
cc -O2 -s -static -Iroot/usr/include -o "$image/bin/zstdtest" "$here/zstdtest.c" root/usr/lib/x86_64-linux-gnu/libzstd.a
# KVM's modules, for a guest that is a hypervisor itself.
for module in irqbypass kvm kvm-intel; do
    find root/lib/modules -name "$module.ko*" -exec cp {} "$image/lib/modules/" \;
done

cat >"$image/init" <<'INIT'
#!/bin/sh
export PATH=/bin HOME=/ TERM=vt100
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
# isa-debug-exit: the machine ends with `status << 1 | 1`. Without the device, power off.
leave() {
    port 0xf4 "$1"
    poweroff -f
}
test=$(sed -n 's/.*nvmx\.run=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$test" ]; then
    sh "/tests/$test"
    leave $?
fi
exec setsid cttyhack sh
INIT
chmod 755 "$image/init"

# Work whose output does not depend on the machine: the same text on any honest CPU.
cat >"$image/tests/work" <<'WORK'
set -e
cd "${TMPDIR:-/tmp}"
seq 1 20000 >numbers
echo "sha256 $(sha256sum <numbers)"
echo "md5 $(md5sum <numbers)"
gzip -c numbers >numbers.gz
echo "gzip $(gunzip -c numbers.gz | cmp - numbers && echo same)"
echo "bzip2 $(bzip2 -c numbers | bunzip2 -c | sha256sum)"
awk 'BEGIN { s = 0; for (i = 1; i <= 5000; i++) s += 1 / i - i / 3.7 + s / (i + 1.5); printf "awk %.12g\n", s }'
awk 'BEGIN { srand(1); for (i = 0; i < 5000; i++) print (i * 7919) % 10007 / 3 }' | sort -n | sha256sum | sed 's/^/sort /'
: >storm
i=0
while [ $i -lt 50 ]; do
    echo $i | cat | tr 0-9 a-j | cat >>storm
    i=$((i + 1))
done
echo "storm $(sha256sum <storm)"
echo "bc $(echo '2^200 / 3^50' | bc)"
zstdtest
WORK

# That every CPU is there and does work: the same on each, both at once.
cat >"$image/tests/smp" <<'SMP'
set -e
echo "cpus $(grep -c ^processor /proc/cpuinfo) online $(cat /sys/devices/system/cpu/online)"
for cpu in 0 1; do
    taskset $((cpu + 1)) sh -c 'seq 1 20000 | tee /tmp/numbers$0 | sha256sum >/tmp/sum$0
        set -- $(cat /proc/self/stat); echo "${39}" >/tmp/cpu$0' $cpu &
done
wait
for cpu in 0 1; do echo "on cpu $(cat /tmp/cpu$cpu): $(cat /tmp/sum$cpu)"; done
SMP

# The phases that cli/bench/cpu.rs times, each some seconds of one kind of work between two marks.
cat >"$image/tests/bench" <<'BENCH'
mark 1 boot
i=0
while [ $i -lt 30000 ]; do i=$((i + 1)); done
mark 2 shell-loop
i=0
while [ $i -lt 150 ]; do i=$((i + 1)); echo $i | cat | tr 0-9 a-j >/dev/null; done
mark 3 fork-and-pipe
awk 'BEGIN { for (i = 0; i < 12000; i++) print (i * 7919) % 100003 / 3 }' | sort -n | md5sum
mark 4 sort-floats
dd if=/dev/zero bs=65536 count=90 2>/dev/null | sha256sum
mark 5 sha256
BENCH

rm -rf "$out/host"
mkdir "$out/host"
cp -a "$image/bin" "$image/tests" "$out/host"

find "$image" -exec touch -h -d @0 {} +
(cd "$image" && find . | LC_ALL=C sort | "$work/root/bin/busybox" cpio -o -H newc -R 0:0 2>/dev/null | gzip -n -9) >"$out/initrd.img"
echo "$out/vmlinuz $out/initrd.img"
