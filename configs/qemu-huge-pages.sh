#!/bin/sh
# vnicd, and a QEMU guest whose memory is huge pages. Needs root, or a TAP made for the user, and as many huge pages as the
# guest has memory: 512 of 2 MiB for 1 GiB (sysctl vm.nr_hugepages=512).
#
#   qemu-huge-pages.sh [OPTION...]      boots IMAGE, or what these options of QEMU's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${MAC:=52:54:00:12:34:56}"
: "${MEMORY:=1G}"
: "${PAGE:=2M}"
: "${ACCEL:=kvm}"
: "${IMAGE:=disk.img}"
[ $# -gt 0 ] || set -- "$IMAGE"

vnicd --socket-path "$SOCKET" --uplink "$UPLINK" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# share=on: vnicd maps the same memory. No file system of huge pages needs to be mounted.
qemu-system-x86_64 -accel "$ACCEL" -cpu max -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on,hugetlb=on,hugetlbsize="$PAGE" -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET" \
    -netdev vhost-user,id=net,chardev=vnic \
    -device virtio-net-pci,netdev=net,mac="$MAC" \
    "$@"
