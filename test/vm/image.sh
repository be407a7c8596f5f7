#!/bin/sh
# Builds the root image that the machine of test/vm boots, and caches it.
#
#	image.sh CACHEDIR [RELEASE]
#
# prints the folder with the finished image:
#
#	root.img    ext4 with Debian, systemd and the programs the cases use
#	vmlinuz     Debian's stock kernel
#	modules/    the kernel's modules, for the first-stage init
#	packages    what is in the image, one "name version" a line
#
# The packages come from the apt sources of this machine: its own release, or the
# one that is named, such as "trixie". The image is made from a folder by mke2fs -d: no loop device, no mount, and no
# root where user namespaces work (mmdebstrap chooses). It is cached under a
# key of this script and the versions apt would install.
set -eu

cache=${1:?usage: image.sh CACHEDIR [RELEASE]}
here=$(cd "$(dirname "$0")" && pwd)

# What the cases run in the guest. No recommends, no documentation, no locales.
packages="
systemd systemd-sysv udev dbus dbus-user-session libpam-systemd kmod procps
libusb-1.0-0 usbutils
pcscd libccid libpcsclite1 pcsc-tools
opensc opensc-pkcs11 p11-kit openssl
gpg gpg-agent scdaemon
openssh-server openssh-client
strace
socat ser2net usbip
busybox-static openrc runit
"
kernel=linux-image-amd64
if . /etc/os-release && [ "${ID:-}" = ubuntu ]; then
	kernel=linux-image-generic
fi

fail() {
	echo "image.sh: $*" >&2
	exit 1
}

for tool in apt-get mmdebstrap mke2fs sha256sum; do
	command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
	command -v "$tool" >/dev/null ||
		fail "$tool is missing (apt-get install mmdebstrap e2fsprogs)"
done

work=$(mktemp -d "${TMPDIR:-/var/tmp}/openct-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
codename=${2:-$own}

# The distribution's own archives among this machine's sources, as apt has
# resolved them; third-party archives stay out of the image. (Another release
# has its own updates where this one's are.)
apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' \
	'Identifier: Packages' | sort -u | while IFS='|' read -r origin uri release component; do
	case $origin in Debian | Ubuntu) echo "deb $uri $codename${release#"$own"} $component" ;; esac
done >"$work/sources.list"
[ -s "$work/sources.list" ] || fail "apt has no package lists of the distribution (run apt-get update)"

# How this machine reaches them: proxies, and dates if it turned those off.
apt-config dump | grep -E '^Acquire::(http|https|Check-[A-Za-z-]*|Retries)[: ]' >"$work/apt.conf" || true

lists=
if [ "$codename" != "$own" ]; then
	mkdir -p "$work/lists/partial" "$work/apt"
	lists="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State::lists=$work/lists -o Dir::Cache=$work/apt -o APT::Sandbox::User=root"
	apt-get $lists -qq update >&2 || fail "no package lists of $codename"
fi

# The versions that would be installed on an empty system decide whether a
# cached image is still the right one.
: >"$work/status"
apt-get $lists -o Dir::State::status="$work/status" -o APT::Install-Recommends=false \
	-o Debug::NoLocking=true --simulate install $packages $kernel |
	sed -n 's/^Inst \([^ ]*\) (\([^ ]*\).*/\1 \2/p' | sort >"$work/packages"
[ -s "$work/packages" ] || fail "apt cannot resolve the image's packages"
key=$(cat "$here/image.sh" "$here/guest/e2e-agent.service" "$work/packages" | sha256sum | cut -c1-16)

image=$cache/$key
if [ -f "$image/root.img" ]; then
	echo "$image"
	exit 0
fi

# The hooks may run as another user (in a user namespace): they write here, and
# no folders, which this user could not remove.
out=$work/out
mkdir "$out"
chmod 755 "$work"
chmod 777 "$out"
cp "$here/guest/e2e-agent.service" "$work/"

# Runs in a mount namespace of its own, where the /proc, /sys and /dev that
# mmdebstrap has mounted in the tree can be taken away.
cat >"$work/mkimage" <<'END'
#!/bin/sh -e
# Services start here, other than while mmdebstrap is at work.
rm -f "$1/usr/sbin/policy-rc.d"
for dir in "$1"/sbin "$1"/usr/sbin; do
	[ ! -e "$dir/start-stop-daemon.REAL" ] || mv "$dir/start-stop-daemon.REAL" "$dir/start-stop-daemon"
done
for dir in dev/pts dev/shm dev sys proc; do
	while mountpoint -q "$1/$dir"; do umount --lazy "$1/$dir"; done
done
size=$(($(du -sk "$1" | cut -f1) * 5 / 4 + 400000))
exec mke2fs -q -t ext4 -O ^has_journal -L root -d "$1" "$2" "${size}k"
END
chmod 755 "$work/mkimage"

# Nobody reads these in the guest, and they are half of the bytes.
set --
without="
/usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/share/info/*
/usr/share/gtk-doc/* /usr/share/bug/* /usr/share/lintian/*
/lib/modules/*/kernel/drivers/gpu/* /lib/modules/*/kernel/drivers/net/*
/lib/modules/*/kernel/drivers/media/* /lib/modules/*/kernel/drivers/infiniband/*
/lib/modules/*/kernel/drivers/scsi/* /lib/modules/*/kernel/drivers/staging/*
/lib/modules/*/kernel/drivers/iio/* /lib/modules/*/kernel/drivers/md/*
/lib/modules/*/kernel/drivers/hwmon/* /lib/modules/*/kernel/drivers/ata/*
/lib/modules/*/kernel/drivers/platform/* /lib/modules/*/kernel/drivers/edac/*
/lib/modules/*/kernel/drivers/isdn/* /lib/modules/*/kernel/drivers/bluetooth/*
/lib/modules/*/kernel/net/* /lib/modules/*/kernel/sound/*
/lib/modules/*/kernel/fs/btrfs/* /lib/modules/*/kernel/fs/xfs/*
/lib/modules/*/kernel/fs/ocfs2/* /lib/modules/*/kernel/fs/smb/*
/lib/modules/*/kernel/fs/nfs/* /lib/modules/*/kernel/fs/nfsd/*
/lib/modules/*/kernel/fs/f2fs/* /lib/modules/*/kernel/fs/ceph/*
"
set -f
for path in $without; do
	set -- "$@" --dpkgopt="path-exclude=$path"
done
set -- "$@" --dpkgopt="path-include=/lib/modules/*/kernel/drivers/net/veth.ko*" # case remote
set +f

# The kernel package wants an initramfs; the harness brings its own first
# stage (guest/), so update-initramfs is diverted and does nothing.
mmdebstrap --quiet --variant=minbase --mode=auto --format=null "$@" \
	--aptopt="$work/apt.conf" --keyring=/usr/share/keyrings \
	--include="$(echo $packages $kernel | tr ' ' ',')" \
	--essential-hook='chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs' \
	--essential-hook='mkdir -p "$1/usr/sbin" && ln -sf /bin/true "$1/usr/sbin/update-initramfs"' \
	--customize-hook="copy-in $work/e2e-agent.service /etc/systemd/system" \
	--customize-hook='ln -s ../e2e-agent.service "$1/etc/systemd/system/multi-user.target.wants/"' \
	--customize-hook='for u in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer \
		fstrim.timer getty@tty1.service systemd-timesyncd.service systemd-networkd.service \
		e2scrub_reap.service ssh.service ser2net.service console-getty.service; do
			ln -sf /dev/null "$1/etc/systemd/system/$u"; done' \
	--customize-hook='printf "e2e\n" >"$1/etc/hostname"; printf "/dev/vda / ext4 rw,noatime 0 0\n" >"$1/etc/fstab"' \
	--customize-hook='mkdir -p "$1/var/log/journal" "$1/etc/systemd/journald.conf.d" "$1/etc/systemd/system.conf.d" &&
		printf "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n" >"$1/etc/systemd/journald.conf.d/e2e.conf"' \
	--customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*.log "$1"/var/log/apt/*' \
	--customize-hook='cat "$1"/boot/vmlinuz-* >'"$out"'/vmlinuz && tar -C "$1"/lib/modules/* -cf '"$out"'/modules.tar .' \
	--customize-hook='unshare --mount "'"$work/mkimage"'" "$1" '"$out"'/root.img' \
	"$codename" /dev/null "$work/sources.list" >&2

mkdir -p "$image.new"
cp --sparse=always "$out/root.img" "$image.new/"
cp "$out/vmlinuz" "$work/packages" "$image.new/"
mkdir "$image.new/modules"
tar -C "$image.new/modules" --no-same-owner -xf "$out/modules.tar"
rm -rf "$image"
mv "$image.new" "$image"
echo "$image"
