#!/bin/sh
# vnicd, and a QEMU guest that connects to it. Needs root, or a TAP made for the user.
#
#   qemu.sh [OPTION...]     boots IMAGE, or what these options of QEMU's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${MAC:=52:54:00:12:34:56}"
: "${MTU:=1500}"
: "${MEMORY:=1G}"
: "${ACCEL:=kvm}"
: "${IMAGE:=disk.img}"
[ $# -gt 0 ] || set -- "$IMAGE"

vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --mtu "$MTU" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# share=on: vnicd maps the same memory.
qemu-system-x86_64 -accel "$ACCEL" -cpu max -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET" \
    -netdev vhost-user,id=net,chardev=vnic \
    -device virtio-net-pci,netdev=net,mac="$MAC",host_mtu="$MTU" \
    "$@"
