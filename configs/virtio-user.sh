#!/bin/sh
# vnicd, and DPDK's testpmd as the driver, without a VM. Needs root, or a TAP made for the user.
#
#   virtio-user.sh [OPTION...]      options of testpmd's, such as --forward-mode=txonly --auto-start; none: its prompt
set -eu
: "${SOCKET:=/run/vnicd-du.sock}"
: "${UPLINK:=tap=du0}"
: "${MAC:=52:54:00:12:34:56}"
: "${QUEUES:=1}"
# More options of DPDK's. With 128 huge pages of 2 MiB: --in-memory --single-file-segments (virtio-user shares at most eight
# regions).
: "${EAL:=--no-huge --no-shconf}"
[ $# -gt 0 ] || set -- -i

vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --queue-pairs "$QUEUES" &
trap 'kill $!; wait' EXIT
trap exit INT TERM
until [ -S "$SOCKET" ]; do kill -0 $!; sleep 0.1; done

# shellcheck disable=SC2086 # several options
dpdk-testpmd --no-pci -m 256 $EAL \
    --vdev "net_virtio_user0,mac=$MAC,path=$SOCKET,queues=$QUEUES,queue_size=1024" \
    -- --total-num-mbufs=32768 --rxq="$QUEUES" --txq="$QUEUES" "$@"
