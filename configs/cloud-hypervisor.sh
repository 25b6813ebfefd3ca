#!/bin/sh
# vnicd on a TAP, and a cloud-hypervisor guest that connects to it. Needs root, or a TAP made for the user.
set -eu
SOCKET=${SOCKET:-/run/vnicd-vm1.sock}
UPLINK=${UPLINK:-tap=vm1}
KERNEL=${KERNEL:?the kernel or firmware of the guest}
IMAGE=${IMAGE:?the disk image of the guest}
MAC=${MAC:-52:54:00:12:34:56}

# cloud-hypervisor asks vnicd for the address.
vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --mac "$MAC" &
trap 'kill $!' EXIT
while [ ! -S "$SOCKET" ]; do sleep 0.1; done

# num_queues counts rings, two a pair; shared=on: vnicd maps the same memory.
cloud-hypervisor --kernel "$KERNEL" --disk path="$IMAGE" --cpus boot=2 --memory size=1G,shared=on \
    --net vhost_user=true,socket="$SOCKET",num_queues=2,mac="$MAC"
