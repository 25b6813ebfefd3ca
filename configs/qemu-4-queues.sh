#!/bin/sh
# vnicd, and a QEMU guest with four queue pairs, a worker thread each. Needs root, or a TAP made for the user.
#
#   qemu-4-queues.sh [OPTION...]    boots IMAGE, or what these options of QEMU's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${MAC:=52:54:00:12:34:56}"
: "${MEMORY:=1G}"
: "${ACCEL:=kvm}"
: "${IMAGE:=disk.img}"
[ $# -gt 0 ] || set -- "$IMAGE"

vnicd --socket-path "$SOCKET" --uplink "$UPLINK" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# share=on: vnicd maps the same memory. vectors: two a pair, and two more. A Linux guest uses as many pairs as it has
# processors.
qemu-system-x86_64 -accel "$ACCEL" -cpu max -smp 4 -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET" \
    -netdev vhost-user,id=net,chardev=vnic,queues=4 \
    -device virtio-net-pci,netdev=net,mac="$MAC",mq=on,vectors=10 \
    "$@"
