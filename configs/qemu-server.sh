#!/bin/sh
# A QEMU guest that listens, and vnicd that connects to it; either may be started again. Needs root, or a TAP made for the user.
set -eu
SOCKET=${SOCKET:-/run/vnicd-vm1.sock}
UPLINK=${UPLINK:-tap=vm1}
IMAGE=${IMAGE:?the disk image of the guest}
MEMORY=${MEMORY:-1G}

vnicd --client --socket-path "$SOCKET" --uplink "$UPLINK" &
trap 'kill $!' EXIT

# share=on: vnicd maps the same memory.
qemu-system-x86_64 -machine accel=kvm -cpu host -m "$MEMORY" \
    -object memory-backend-memfd,id=mem,size="$MEMORY",share=on -numa node,memdev=mem \
    -chardev socket,id=vnic,path="$SOCKET",server=on \
    -netdev vhost-user,id=net,chardev=vnic \
    -device virtio-net-pci,netdev=net,mac=52:54:00:12:34:56 \
    "$IMAGE"
