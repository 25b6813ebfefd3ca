#!/bin/sh
# A QEMU guest on a Linux bridge, which is made if need be. Needs root.
#
#   bridge.sh [OPTION...]     as qemu.sh
#
# The bridge stays: ip link del br0
set -eu
: "${BRIDGE:=br0}"
# An interface of the host's that the guest is to reach the network by, such as eth1. It becomes a port of the bridge, and
# its addresses are to be moved to the bridge. None: the guest reaches the host and the other guests on the bridge.
: "${PORT:=}"
: "${TAP:=vm1}"

[ -e "/sys/class/net/$BRIDGE" ] || ip link add "$BRIDGE" type bridge
ip link set "$BRIDGE" up
[ -z "$PORT" ] || ip link set "$PORT" master "$BRIDGE" up

UPLINK=tap=$TAP,bridge=$BRIDGE exec "$(dirname "$0")/qemu.sh" "$@"
