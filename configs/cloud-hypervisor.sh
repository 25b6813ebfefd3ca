#!/bin/sh
# vnicd, and a cloud-hypervisor guest that connects to it. Needs root, or a TAP made for the user.
#
#   cloud-hypervisor.sh [OPTION...]     boots KERNEL and IMAGE, or what these options of cloud-hypervisor's say
set -eu
: "${SOCKET:=/run/vnicd-vm1.sock}"
: "${UPLINK:=tap=vm1}"
: "${MAC:=52:54:00:12:34:56}"
: "${MTU:=1500}"
: "${MEMORY:=1G}"
# The kernel or firmware of the guest, and its disk.
: "${KERNEL:=hypervisor-fw}"
: "${IMAGE:=disk.raw}"
[ $# -gt 0 ] || set -- --kernel "$KERNEL" --disk path="$IMAGE"

# cloud-hypervisor asks vnicd for address and MTU.
vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --mac "$MAC" --mtu "$MTU" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# num_queues counts rings, two a pair; shared=on: vnicd maps the same memory.
cloud-hypervisor --cpus boot=2 --memory size="$MEMORY",shared=on \
    --net vhost_user=true,socket="$SOCKET",num_queues=2,mac="$MAC" \
    "$@"
