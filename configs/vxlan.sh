#!/bin/sh
# Guests of two hosts on one network, by a VXLAN between the hosts. Needs root. Runs on each host: on the other one with
# LOCAL and REMOTE exchanged, and another MAC.
#
#   vxlan.sh [OPTION...]      as qemu.sh
#
# Bridge and VXLAN stay: ip link del vxlan42; ip link del br42
set -eu
# The addresses of this host and of the other one.
: "${LOCAL:=192.0.2.1}"
: "${REMOTE:=192.0.2.2}"
# The same on both hosts.
: "${VNI:=42}"
: "${UDP_PORT:=4789}"
# What the hosts' network carries, less 50 bytes for IPv4, UDP, VXLAN and Ethernet headers (70 for IPv6). The guest is told.
: "${MTU:=1450}"
: "${TAP:=vm1}"

bridge=br$VNI vxlan=vxlan$VNI
[ -e "/sys/class/net/$bridge" ] || ip link add "$bridge" type bridge
[ -e "/sys/class/net/$vxlan" ] ||
    ip link add "$vxlan" type vxlan id "$VNI" local "$LOCAL" remote "$REMOTE" dstport "$UDP_PORT"
ip link set "$vxlan" mtu "$MTU" master "$bridge" up
ip link set "$bridge" up

export MTU
UPLINK=tap=$TAP,bridge=$bridge exec "$(dirname "$0")/qemu.sh" "$@"
