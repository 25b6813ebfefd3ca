#!/bin/sh
# A QEMU guest that listens, and vnicd that connects to it; either may be started again. Needs root, or a TAP made for the
# user.
#
#   qemu-server.sh [OPTION...]      boots IMAGE, or what these options of QEMU's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${MAC:=52:54:00:12:34:56}"
: "${MEMORY:=1G}"
: "${ACCEL:=kvm}"
: "${IMAGE:=disk.img}"
[ $# -gt 0 ] || set -- "$IMAGE"

vnicd --client --socket-path "$SOCKET" --uplink "$UPLINK" &
trap 'kill $!; wait' EXIT
trap exit INT TERM

# share=on: vnicd maps the same memory. server=on: QEMU listens, and boots the guest when vnicd is there.
qemu-system-x86_64 -accel "$ACCEL" -cpu max -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET",server=on \
    -netdev vhost-user,id=net,chardev=vnic \
    -device virtio-net-pci,netdev=net,mac="$MAC" \
    "$@"
