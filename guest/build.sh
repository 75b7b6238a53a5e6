#!/bin/sh
# Builds the test guests. OUTDIR/ledger.raw is a whole VM disk with boot code in
# its first sectors and one ext4 partition that holds all the rest: nothing in
# it comes from outside the disk at boot. OUTDIR/vmlinuz and OUTDIR/writer.img
# are a kernel and an initial RAM file system, for a guest that only writes to
# the disks it is given (guest/writer). All have QEMU's guest agent in them; those with
# a ledger also a shell and iproute2, for what is done by it.
#
#   usage: guest/build.sh OUTDIR [postgres]
#
# With "postgres" there is OUTDIR/postgres.raw besides: a disk like ledger.raw whose
# ledger is kept by this machine's PostgreSQL 15.
#
# Needs no root, no mount and no loop device. The kernel is Debian's own cloud
# kernel: its package is downloaded and unpacked, never installed. The result
# is rebuilt only when what goes into it changed; to move to a newer kernel,
# remove OUTDIR/kernel.
#
#   sector 0          boot.img: GRUB's first stage, and the partition table
#   sector 1…         core.img: GRUB with the few modules it needs and its menu
#   1 MiB…            ext4 "ledgerroot": /boot (kernel, initial RAM file
#                     system), /sbin/ledger, /ledger (the database)
set -eu

say() { printf 'guest: %s\n' "$*"; }
die() { printf 'guest: %s\n' "$*" >&2; exit 1; }

[ $# -eq 1 ] || { [ $# -eq 2 ] && [ "$2" = postgres ]; } || die "usage: guest/build.sh OUTDIR [postgres]"
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$1"
out=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

disk_mib=96
pg_mib=256
grub=/usr/lib/grub/i386-pc
meta=linux-image-cloud-amd64
# Load order is the order of this list: each driver needs those before it.
writer_modules="virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev
	virtio/virtio_pci block/virtio_blk scsi/scsi_common scsi/scsi_mod scsi/sd_mod scsi/virtio_scsi char/virtio_console"
modules="virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev
	virtio/virtio_pci block/virtio_blk input/evdev acpi/button"
# What the agent of a ledger's guest needs, on its root file system: it is loaded when the
# ledger serves, and only where there is a port for the agent.
agent_modules="char/virtio_console ../net/core/failover net/net_failover net/virtio_net"
# One processor and no self-tests: nothing here may cost boot time.
cmdline="console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable no_timer_check 8250.nr_uarts=1 i8042.noaux cryptomgr.notests rdinit=/init"

need() { # need TOOL-OR-FILE PACKAGE
	case $1 in
	/*) [ -e "$1" ] || missing="$missing $2" ;;
	*) command -v "$1" >/dev/null || missing="$missing $2" ;;
	esac
}
missing=
need apt-get apt; need dpkg dpkg; need cpio cpio; need mke2fs e2fsprogs; need sfdisk fdisk; need flock util-linux
need ip iproute2; need dash dash
need grub-mkimage grub-common; need "$grub/boot.img" grub-pc-bin; need go "go (from go.dev)"
[ -z "$missing" ] || die "missing:$missing (run 'make deps')"

# Two builds into one directory take turns.
exec 9>"$out/.lock"
flock 9

# --- the kernel: $out/kernel/NAME.deb unpacked, kept until removed
if [ ! -e "$out/kernel/version" ]; then
	package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1)
	[ -n "$package" ] || die "apt knows no package behind $meta (run 'apt-get update')"
	say "downloading $package"
	rm -rf "$out/kernel.tmp"
	mkdir "$out/kernel.tmp"
	# apt's download user cannot write here; what is downloaded is checked all the same.
	user=$(id -un)
	(cd "$out/kernel.tmp" && apt-get -qq -o APT::Sandbox::User="$user" download "$package") || die "download of $package failed"
	say "unpacking it"
	(cd "$out/kernel.tmp" && dpkg -x ./*.deb tree && sha256sum ./*.deb >version && rm ./*.deb)
	rm -rf "$out/kernel"
	mv "$out/kernel.tmp" "$out/kernel"
fi
kernel=$(echo "$out"/kernel/tree/boot/vmlinuz-*)
drivers=$(echo "$out"/kernel/tree/lib/modules/*/kernel/drivers)

# --- the two programs
work=$out/work
rm -rf "$work"
mkdir -p "$work/initrd" "$work/writer-initrd" "$work/root/boot" "$work/root/sbin"
trap 'rm -rf "$work"' EXIT
for p in init ledger writer; do
	(cd "$here/.." && CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOFLAGS= \
		go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$work/$p" "./guest/$p") || die "go build of guest/$p failed"
done

# number DIR MODULE…: the drivers into DIR, by names in their order.
number() {
	numbered=$1
	shift
	mkdir -p "$numbered"
	n=10
	for m in "$@"; do
		[ -e "$drivers/$m.ko" ] || die "the kernel has no driver $m"
		cp "$drivers/$m.ko" "$numbered/$n-${m##*/}.ko"
		n=$((n + 1))
	done
}

# libraries FILE…: what the programs are linked with, into $work/root.
libraries() {
	for f in "$@"; do ldd "$f"; done >"$work/libraries"
	! grep 'not found' "$work/libraries" || die "a library is missing (run 'make deps')"
	sed -n 's,.* => \(/[^ ]*\) .*,\1,p; s,^[[:space:]]*\(/[^ ]*\) (.*,\1,p' "$work/libraries" | sort -u | while read -r lib; do
		mkdir -p "$work/root${lib%/*}"
		cp -L "$lib" "$work/root$lib"
	done
}

# pack DIR INIT MODULE…: an initial RAM file system of the first program and the
# drivers beside what DIR holds already, to standard output; uncompressed,
# since emulated processors unpack slower than the boot loader reads.
pack() (
	cd "$1"
	cp "$2" init
	shift 2
	mkdir -p dev proc sys newroot
	number modules "$@"
	find . -exec touch -h -d @0 {} +
	find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0
)

# --- the guest agent: $out/agent has the program and the libraries it needs,
# kept until removed. The libraries are this machine's: QEMU needs the same.
if [ ! -e "$out/agent/version" ]; then
	say "downloading qemu-guest-agent"
	rm -rf "$out/agent.tmp"
	mkdir -p "$out/agent.tmp/tree/bin"
	(cd "$out/agent.tmp" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download qemu-guest-agent && dpkg -x ./*.deb deb) || die "download of qemu-guest-agent failed"
	cp "$out/agent.tmp/deb/usr/sbin/qemu-ga" "$out/agent.tmp/tree/bin/qemu-ga"
	ldd "$out/agent.tmp/tree/bin/qemu-ga" >"$out/agent.tmp/libraries"
	! grep 'not found' "$out/agent.tmp/libraries" || die "the guest agent needs a library that is missing (run 'make deps')"
	sed -n 's,.* => \(/[^ ]*\) .*,\1,p; s,^[[:space:]]*\(/[^ ]*\) (.*,\1,p' "$out/agent.tmp/libraries" | while read -r lib; do
		mkdir -p "$out/agent.tmp/tree${lib%/*}"
		cp -L "$lib" "$out/agent.tmp/tree$lib"
	done
	(cd "$out/agent.tmp" && sha256sum ./*.deb >version && rm -rf ./*.deb deb)
	rm -rf "$out/agent"
	mv "$out/agent.tmp" "$out/agent"
fi

# --- the writer
wstamp=$(cat "$here/build.sh" "$out/kernel/version" "$out/agent/version" "$work/writer" | sha256sum)
if [ ! -e "$out/writer.img" ] || [ "$wstamp" != "$(cat "$out/writer.stamp" 2>/dev/null)" ]; then
	say "packing the writer"
	cp -r "$out/agent/tree/." "$work/writer-initrd"
	mkdir "$work/writer-initrd/run" "$work/writer-initrd/mnt"
	# shellcheck disable=SC2086 # a list of words
	pack "$work/writer-initrd" "$work/writer" $writer_modules >"$work/writer.img"
	rm -f "$out/writer.stamp"
	cp "$kernel" "$out/vmlinuz"
	mv "$work/writer.img" "$out/writer.img"
	echo "$wstamp" >"$out/writer.stamp"
fi

# disk NAME MIB INODES: OUTDIR/NAME.raw, a disk of so many MiB that boots, with what
# lies in $work/root as its only file system.
disk() {
	name=$1 part_mib=$(($2 - 1))
	cp "$kernel" "$work/root/boot/vmlinuz"
	find "$work/root" -exec touch -h -d @0 {} +
	truncate -s "${part_mib}M" "$work/part.img"
	# A fixed identity, so that two builds differ in time stamps alone. Two of the
	# features left out are unknown to GRUB; a disk of one size needs no room to grow.
	E2FSPROGS_FAKE_TIME=1 mke2fs -q -t ext4 -b 4096 -m 0 -J size=4 -N "$3" -L ledgerroot \
		-U 6c656467-6572-4000-8000-000000000001 -E hash_seed=6c656467-6572-4000-8000-000000000002,root_owner=0:0,lazy_itable_init=0 \
		-O ^metadata_csum_seed,^orphan_file,^resize_inode -d "$work/root" "$work/part.img"
	# The 16-bit boot protocol: under emulation it starts the kernel a second sooner.
	cat >"$work/menu" <<MENU
set root=(hd0,msdos1)
linux16 /boot/vmlinuz $cmdline
initrd16 /boot/initrd.img
boot
MENU
	grub-mkimage -O i386-pc -p /boot -c "$work/menu" -o "$work/core.img" biosdisk part_msdos ext2 linux16 boot
	[ "$(stat -c %s "$work/core.img")" -le $((2047 * 512)) ] || die "boot loader does not fit before the partition"
	truncate -s "$2M" "$work/disk.img"
	printf 'label: dos\nlabel-id: 0x6c656467\nstart=2048, type=83, bootable\n' | sfdisk -q "$work/disk.img"
	# The first stage's own default is to load what follows it: core.img needs no
	# patching at sector 1. Bytes 440-511 stay the partition table's.
	dd if="$grub/boot.img" of="$work/disk.img" bs=440 count=1 conv=notrunc status=none
	dd if="$work/core.img" of="$work/disk.img" bs=512 seek=1 conv=notrunc status=none
	dd if="$work/part.img" of="$work/disk.img" bs=1M seek=1 conv=notrunc,sparse status=none
	rm "$work/part.img"
	mv "$work/disk.img" "$out/$name.raw"
	say "$out/$name.raw: $2 MiB, $(du -m "$out/$name.raw" | cut -f 1) MiB used, kernel ${kernel##*/vmlinuz-}"
}

# --- unchanged? The stamp tells of both disks.
stamp=$({ cat "$here/build.sh" "$out/kernel/version" "$out/agent/version" "$work/init" "$work/ledger" "$grub/boot.img"
	grub-mkimage --version; mke2fs -V 2>&1; } | sha256sum)
say "packing the initial RAM file system"
# shellcheck disable=SC2086 # a list of words
pack "$work/initrd" "$work/init" $modules >"$work/root/boot/initrd.img"
cp "$work/ledger" "$work/root/sbin/ledger"
mkdir "$work/root/dev" "$work/root/proc" "$work/root/sys" "$work/root/ledger" "$work/root/run" "$work/root/run/agent" "$work/root/etc"
cp -r "$out/agent/tree/." "$work/root"
mkdir -p "$work/root/bin"
cp -L "$(command -v dash)" "$work/root/bin/sh"
cp -L "$(command -v ip)" "$work/root/sbin/ip"
libraries "$work/root/bin/sh" "$work/root/sbin/ip"
# shellcheck disable=SC2086 # a list of words
number "$work/root/modules" $agent_modules
if [ -e "$out/ledger.raw" ] && [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ]; then
	say "$out/ledger.raw is up to date"
else
	rm -f "$out/stamp"
	disk ledger "$disk_mib" 256
	echo "$stamp" >"$out/stamp"
fi
[ "${2-}" = postgres ] || exit 0

# --- a disk with PostgreSQL on it
pg=/usr/lib/postgresql/15
need "$pg/bin/postgres" postgresql-15
[ -z "$missing" ] || die "missing:$missing (apt-get install them)"
pgstamp=$({ echo "$stamp"; cat "$pg/bin/postgres"; } | sha256sum)
if [ -e "$out/postgres.raw" ] && [ "$pgstamp" = "$(cat "$out/postgres.stamp" 2>/dev/null)" ]; then
	say "$out/postgres.raw is up to date"
	exit 0
fi
root=$work/root
mkdir -p "$root$pg/bin" "$root$pg/lib" "$root/usr/share/postgresql" "$root/usr/share/zoneinfo" "$root/tmp" "$root/data"
cp "$pg/bin/postgres" "$pg/bin/initdb" "$root$pg/bin"
cp "$pg"/lib/dict_snowball.so "$pg"/lib/plpgsql.so "$root$pg/lib"
cp -rL /usr/share/postgresql/15 "$root/usr/share/postgresql/15"
cp -L /usr/share/zoneinfo/UTC "$root/usr/share/zoneinfo/UTC"
printf 'root:x:0:0::/:/bin/sh\npostgres:x:70:70::/data:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\npostgres:x:70:\n' >"$root/etc/group"
libraries "$root$pg"/bin/* "$root$pg"/lib/*.so
rm -f "$out/postgres.stamp"
disk postgres "$pg_mib" 4096
echo "$pgstamp" >"$out/postgres.stamp"
