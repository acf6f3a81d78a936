#!/bin/bash
# The conformance suite of the namespaces provider on Debian's kernel 6.1, whose tmpfs has no user.* attributes, in a
# virtual machine: as root, as a user with a range in /etc/subuid, and as a user with one id.
#
# usage: old-kernel.sh DIRECTORY [pytest arguments]
#
# Needs root, a Debian 12 with its package lists (apt-get update), mke2fs and python3 with pip. What it downloads and builds
# is below DIRECTORY and is used again; nothing is installed. Emulated, so it needs no /dev/kvm, and minutes. Ends with 0 if
# every user's run did and left nothing.
set -euo pipefail
[[ $# -ge 1 && -n $1 ]] || { sed -n '2,10s/^# \?//p' "$0"; exit 2; }
mkdir -p "$1"
here=$(realpath "$1")
checkout=$(realpath "$(dirname "$0")/../..")
shift
PYTHON=${PYTHON:-python3}
PACKAGES="base-files base-passwd dash gzip hostname bash coreutils mount util-linux python3 uidmap procps sed grep findutils
tar login passwd libc-bin dpkg busybox-static"

unpack() { # DIRECTORY PACKAGE...: the packages with what they depend on and, unless FROM_NOTHING is set, this machine lacks
    local into=$1 status=() names; shift
    [[ -z ${FROM_NOTHING:-} ]] || status=(-o "Dir::State::status=$here/nothing")
    names=$(apt-get "${status[@]}" -s install --no-install-recommends "$@" | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    mkdir "$here/debs"
    # shellcheck disable=SC2086
    (cd "$here/debs" && apt-get -qq -o APT::Sandbox::User=root download ${names:-"$@"} &&
        for deb in *.deb; do dpkg-deb -x "$deb" "$into"; done)
    rm -r "$here/debs"
}

if [[ ! -e $here/tools.done ]]; then
    : > "$here/nothing"
    mkdir -p "$here/tools" "$here/kernel"
    unpack "$here/tools" qemu-system-x86
    kernel=$(apt-cache search --names-only '^linux-image-6\.1\..*-cloud-amd64-unsigned$' | sort -V | tail -1)
    (cd "$here" && apt-get -qq -o APT::Sandbox::User=root download "${kernel%% *}" && dpkg-deb -x linux-image-*.deb kernel)
    touch "$here/tools.done"
fi

if [[ ! -e $here/root.done ]]; then
    root=$here/root
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{proc,sys,dev,tmp,run,root,opt,srv,mnt,home,var/tmp}
    for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$root/$name"; done
    # shellcheck disable=SC2086
    FROM_NOTHING=1 unpack "$root" $PACKAGES
    "$PYTHON" -m pip install -q --target "$root/opt/site" --python-version 3.11 --only-binary=:all: \
        pytest pluggy pydantic PyYAML filelock pytest-xdist platformdirs
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    for user in 1001:ranged 1002:single; do
        echo "${user#*:}:x:${user%:*}:${user%:*}::/home/${user#*:}:/bin/bash" >> "$root/etc/passwd"
        echo "${user#*:}:x:${user%:*}:" >> "$root/etc/group"
        install -d -o "${user%:*}" -g "${user%:*}" "$root/home/${user#*:}"
    done
    echo ranged:100000:65536 | tee "$root/etc/subuid" > "$root/etc/subgid"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    chroot "$root" ldconfig
    touch "$here/root.done"
fi

early=$here/early
drivers="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk"
mkdir -p "$early"/{bin,proc,sys,dev,new}
cp "$here/root/bin/busybox" "$early/bin/"
for name in $drivers overlay; do find "$here/kernel/lib/modules" -name "$name.ko" -exec cp {} "$early/" \; ; done
mv "$early/overlay.ko" "$here/root/opt/"
cat > "$early/init" <<EARLY
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for name in $drivers; do /bin/busybox insmod /\$name.ko; done
/bin/busybox mount -t ext4 /dev/vda /new && exec /bin/busybox switch_root /new /opt/init
EARLY
chmod 755 "$early/init"
(cd "$early" && find . | bin/busybox cpio -o -H newc 2> /dev/null) > "$here/early.cpio"

rm -rf "${here:?}/root/opt/airlock"
"$PYTHON" -m pip install -q --no-deps --target "$here/root/opt/airlock" "$checkout"
printf '%q ' "$@" > "$here/root/opt/arguments"
cat > "$here/root/opt/init" <<'INIT'
#!/bin/bash
export PATH=/usr/bin:/usr/sbin:/bin:/sbin PYTHONPATH=/opt/airlock:/opt/site PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp; mount -t tmpfs run /run; mount -t cgroup2 cgroup /sys/fs/cgroup
busybox insmod /opt/overlay.ko; busybox ip link set lo up; hostname vm
eval "arguments=($(cat /opt/arguments))"
suite() { # NAME COMMAND...: one user's run
    local name=$1; shift
    echo "== $name on $(uname -r)"
    (cd "$HOME" && "$@" python3 -m pytest -q -p no:cacheprovider -rs \
        --pyargs pytest_airlock.conformance --airlock-provider=namespaces "${arguments[@]}")
    echo "airlock-vm $name status $? left $(find "$HOME"/.cache/pytest-airlock/uppers -mindepth 1 | wc -l)"
}
HOME=/root suite root
for user in ranged single; do
    HOME=/home/$user suite $user setpriv --reuid=$user --regid=$user --clear-groups
done
echo airlock-vm done
busybox poweroff -f
INIT
chmod 755 "$here/root/opt/init"
rm -f "$here/disk"
mke2fs -q -t ext4 -d "$here/root" "$here/disk" 2G

libraries=lib/x86_64-linux-gnu
LD_LIBRARY_PATH=$here/tools/usr/$libraries:$here/tools/$libraries "$here/tools/usr/bin/qemu-system-x86_64" \
    -L "$here/tools/usr/share/qemu" -L "$here/tools/usr/share/seabios" -nodefaults -no-reboot -nographic -serial stdio \
    -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
    -drive "file=$here/disk,format=raw,if=virtio,cache=unsafe" \
    -kernel "$here"/kernel/boot/vmlinuz-* -initrd "$here/early.cpio" \
    -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on" < /dev/null | tee "$here/log"

grep -q '^airlock-vm done' "$here/log"
[[ $(grep -c '^airlock-vm .* status 0 left 0' "$here/log") == 3 ]]
