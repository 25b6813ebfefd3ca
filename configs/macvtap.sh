#!/bin/sh
# A QEMU guest on a macvtap interface: it shares an interface of the host's without a bridge. Needs root.
#
#   macvtap.sh [OPTION...]      as qemu.sh
#
# Guest and host do not see each other; the network sees both. The macvtap interface stays: ip link del macvtap1
set -eu
# The interface of the host's.
: "${IFNAME:=eth0}"
: "${MACVTAP:=macvtap1}"
# The guest's: frames to no other address come.
: "${MAC:=52:54:00:12:34:56}"

[ -e "/sys/class/net/$MACVTAP" ] ||
    ip link add link "$IFNAME" name "$MACVTAP" address "$MAC" type macvtap mode bridge
ip link set "$MACVTAP" up

export MAC
UPLINK=macvtap=$MACVTAP exec "$(dirname "$0")/qemu.sh" "$@"
