//! What a port's queues have moved, as testpmd counts.

use std::collections::HashMap;

use anyhow::{Context, Result};

/// What one queue of port 0 has moved, as its driver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Frames that came.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames put into the ring.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

/// What each queue has moved, by what `show port xstats` printed of a virtio-user port.
pub fn moved_by(xstats: &str, queues: u16) -> Result<Vec<Moved>> {
    let counts: HashMap<&str, u64> = xstats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, count)| Some((name, count.trim().parse().ok()?)))
        .collect();
    let count = |direction: &str, queue: u16, unit: &str| {
        let name = format!("{direction}_q{queue}_good_{unit}");
        counts.get(&*name).copied().with_context(|| format!("no {name} in: {xstats}"))
    };
    let of_queue = |queue| {
        Ok(Moved {
            rx_packets: count("rx", queue, "packets")?,
            rx_bytes: count("rx", queue, "bytes")?,
            tx_packets: count("tx", queue, "packets")?,
            tx_bytes: count("tx", queue, "bytes")?,
        })
    };
    (0..queues).map(of_queue).collect()
}

/// What all queues have moved together.
pub fn total(queues: &[Moved]) -> Moved {
    queues.iter().fold(Moved::default(), |sum, queue| Moved {
        rx_packets: sum.rx_packets + queue.rx_packets,
        rx_bytes: sum.rx_bytes + queue.rx_bytes,
        tx_packets: sum.tx_packets + queue.tx_packets,
        tx_bytes: sum.tx_bytes + queue.tx_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_has_its_counts() {
        let xstats = "###### NIC extended statistics for port 0 \nrx_good_packets: 7\nrx_q0_good_packets: 3\n\
                      rx_q0_good_bytes: 180\ntx_q0_good_packets: 4\ntx_q0_good_bytes: 256\nrx_q1_good_packets: 4\n\
                      rx_q1_good_bytes: 240\ntx_q1_good_packets: 0\ntx_q1_good_bytes: 0\ntestpmd> #2.\n";
        let moved = moved_by(xstats, 2).unwrap();
        assert_eq!(moved[0], Moved { rx_packets: 3, rx_bytes: 180, tx_packets: 4, tx_bytes: 256 });
        assert_eq!(total(&moved).rx_packets, 7);
        assert!(moved_by(xstats, 3).unwrap_err().to_string().contains("no rx_q2_good_packets"));
    }
}
