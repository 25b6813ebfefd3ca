#!/bin/sh
# A QEMU guest on a bridge of Open vSwitch, which is made if need be. Needs root, and Open vSwitch to run.
#
#   openvswitch.sh [OPTION...]      as qemu.sh
#
# Bridge and TAP stay: ovs-vsctl del-br br0; ip link del vm1
set -eu
: "${BRIDGE:=br0}"
# An interface of the host's that the guest is to reach the network by, such as eth1. It becomes a port of the bridge.
: "${PORT:=}"
# The VLAN of the guest; none: all of them.
: "${VLAN:=}"
: "${TAP:=vm1}"
# system: the kernel moves packets. netdev: Open vSwitch does, where the kernel has no module for it.
: "${DATAPATH:=system}"

[ -e "/sys/class/net/$TAP" ] || ip tuntap add dev "$TAP" mode tap multi_queue vnet_hdr
ip link set "$TAP" up
# Or it would drop frames that are yet to be cut, and spoil checksums that are yet to be finished. Ports that are there
# already need ovs-vswitchd to be started again.
[ "$DATAPATH" != netdev ] || ovs-vsctl set open_vswitch . other_config:userspace-tso-enable=true
ovs-vsctl --may-exist add-br "$BRIDGE" -- set bridge "$BRIDGE" datapath_type="$DATAPATH" \
    -- --may-exist add-port "$BRIDGE" "$TAP" ${VLAN:+tag="$VLAN"}
[ -z "$PORT" ] || ovs-vsctl --may-exist add-port "$BRIDGE" "$PORT"

UPLINK=tap=$TAP exec "$(dirname "$0")/qemu.sh" "$@"
