#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# build.sh BOOT DIR: make what the tests of FreeBSD guests run, from a FreeBSD
# /boot directory: the kernel, modules, and a root file system with an init of
# ours. Needs go and makefs (Debian: makefs).
set -eu
boot=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$dir" "$root/sbin" "$root/dev"
(cd "$here" && GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$root/sbin/init" .)
makefs -B little -t ffs -o version=1 -s 8m "$dir/root.img" "$root" >/dev/null
for f in kernel bridgestp.ko if_bridge.ko; do
	cp "$boot/kernel/$f" "$dir/$f"
done
