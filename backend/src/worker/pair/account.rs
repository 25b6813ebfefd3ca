//! What a pair shows: its mode and the changes of it, and what it counts after each round.

use super::Pair;
use crate::mode::{Mode, Time};
use crate::worker::cycles::cycles;
use crate::worker::moved::Moved;
use crate::worker::{BURST_PACKETS, ModeEvent};

impl Pair {
    /// Shows the mode, and tells of its changes.
    pub(super) fn show(&mut self, now: Time) {
        // First: whoever hears of a change finds it shown.
        self.gauges.show(&self.governor.state(now));
        while let Some(switch) = self.governor.take_switch() {
            tracing::debug!(queue = %self.id(), mode = %switch.to, reason = %switch.reason, "mode");
            self.events.tell(ModeEvent { id: self.id(), switch });
        }
    }

    pub(super) fn count(&mut self, tx: Moved, rx: Moved, start: u64, now: Time) {
        let counters = &self.shared.counters;
        counters.rounds.add(1);
        let is_polling = self.governor.mode() == Mode::Polling;
        if tx.packets + rx.packets == 0 {
            counters.polls_empty.add_some(is_polling.into());
            return;
        }
        counters.polls_full.add_some(is_polling.into());
        for moved in [tx, rx].iter().filter(|moved| moved.packets > 0) {
            counters.burst_packets.count(moved.packets);
        }
        counters.service_ns.count(now.duration_since(self.looked).as_nanos() as u64);
        counters.kicks_suppressed.add_some((tx.packets > 0 && !std::mem::take(&mut self.is_kicked)).into());
        if tx.packets.max(rx.packets) >= BURST_PACKETS as u64 {
            counters.full_burst_packets.add(tx.packets + rx.packets);
            counters.full_burst_cycles.add(cycles().wrapping_sub(start));
        }
        if let Some(sum) = self.tx.uplink().discarded_bytes_sum() {
            counters.discarded_bytes_sum.set(sum);
        }
    }
}
