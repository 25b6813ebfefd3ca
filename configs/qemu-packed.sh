#!/bin/sh
# vnicd, and a QEMU guest with packed rings. Needs root, or a TAP made for the user.
#
#   qemu-packed.sh [OPTION...]      boots IMAGE, or what these options of QEMU's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${STATE:=/run/vnicd-vm1.state}"
: "${MAC:=52:54:00:12:34:56}"
: "${MEMORY:=1G}"
: "${ACCEL:=kvm}"
: "${IMAGE:=disk.img}"
[ $# -gt 0 ] || set -- "$IMAGE"

# --state-dir: a vnicd that was killed and is started again goes on with the rings. Split rings need no such place.
mkdir -p "$STATE"
vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --state-dir "$STATE" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# share=on: vnicd maps the same memory.
qemu-system-x86_64 -accel "$ACCEL" -cpu max -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET" \
    -netdev vhost-user,id=net,chardev=vnic \
    -device virtio-net-pci,netdev=net,mac="$MAC",packed=on \
    "$@"
