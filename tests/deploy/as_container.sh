#!/bin/sh
# Run a command as a container runtime would: as PID 1, as user 10001 without rights, in a root that holds the system's
# libraries, Python, one prefix and the packages, all of it read-only. For root, in namespaces that end with the command.
#
#   unshare --mount --pid --fork sh as_container.sh ROOT PREFIX MODELS PYTHON [NAME=VALUE ...] COMMAND ...
set -eu
root=$1 prefix=$2 models=$3 python=$4
shift 4
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
chmod 755 "$root"

put() {  # SOURCE TARGET: at TARGET inside, read-only
    mkdir -p "$root/$2"
    mount --bind "$1" "$root/$2"
    mount -o remount,bind,ro "$root/$2"
}
for folder in bin lib lib64; do
    if [ -L "/$folder" ]; then ln -s "$(readlink "/$folder")" "$root/$folder"; elif [ -d "/$folder" ]; then put "/$folder" "$folder"; fi
done
put /usr usr
case $python in /usr | /usr/*) ;; *) put "$python" "$python" ;; esac
put "$prefix" "$prefix"
put "$models" models
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,ro "$root"
exec chroot "$root" /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all /usr/bin/env -i --chdir=/models "$@"
