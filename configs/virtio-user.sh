#!/bin/sh
# vnicd on a TAP, and DPDK's testpmd as the driver, without a VM. Needs root and 256 huge pages of 2 MiB.
set -eu
SOCKET=${SOCKET:-/run/vnicd-du.sock}
UPLINK=${UPLINK:-tap=du0}
QUEUES=${QUEUES:-1}

vnicd --socket-path "$SOCKET" --uplink "$UPLINK" --queue-pairs "$QUEUES" &
trap 'kill $!' EXIT
while [ ! -S "$SOCKET" ]; do sleep 0.1; done

# --single-file-segments: virtio-user shares at most eight regions.
dpdk-testpmd --no-pci --in-memory -m 512 --single-file-segments \
    --vdev "net_virtio_user0,mac=52:54:00:12:34:56,path=$SOCKET,queues=$QUEUES,queue_size=1024" \
    -- -i --rxq="$QUEUES" --txq="$QUEUES"
