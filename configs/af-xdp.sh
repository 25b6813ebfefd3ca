#!/bin/sh
# A QEMU guest on a queue of a network interface (AF_XDP), past the host's network stack. Needs root.
#
#   af-xdp.sh [OPTION...]     as qemu.sh
set -eu
# The interface; it must not be the host's way to the network.
: "${IFNAME:=eth1}"
: "${QUEUE:=0}"

ip link set "$IFNAME" up

# The guest is told the interface's MTU, which vnicd does not change.
MTU=$(cat "/sys/class/net/$IFNAME/mtu")
export MTU
UPLINK=af-xdp=$IFNAME,queue=$QUEUE exec "$(dirname "$0")/qemu.sh" "$@"
