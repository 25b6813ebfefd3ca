//! What guards a direction of a pair: the filter of what is sent, and the gate of a limit.

use std::sync::Arc;

use super::clock::now;
use super::counters::Counter;
use super::{BURST_BYTES, BURST_PACKETS};
use crate::guard::{Allowance, Filter, Gate, Limits};
use crate::mode::Time;

/// What guards the pairs of a device. Nothing does by default.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// What they may send.
    pub(super) filter: Option<Arc<Filter>>,
    /// How much they may send.
    pub(super) tx_gate: Option<Arc<Gate>>,
    /// How much they get.
    pub(super) rx_gate: Option<Arc<Gate>>,
}

impl Guard {
    /// The guard of a new device.
    #[must_use]
    pub fn new(filter: &Filter, limits: &Limits) -> Self {
        Self {
            filter: filter.is_on().then(|| Arc::new(filter.clone())),
            tx_gate: limits.tx_gate().map(Arc::new),
            rx_gate: limits.rx_gate().map(Arc::new),
        }
    }
}

/// How much a direction may move in a round.
#[derive(Debug, Default)]
pub(super) struct Budget {
    gate: Option<Arc<Gate>>,
    /// When the gate opens, if it was found closed.
    opens_at: Option<Time>,
}

impl Budget {
    const BURST: Allowance = Allowance { packets: BURST_PACKETS, bytes: BURST_BYTES };

    pub(super) fn new(gate: Option<Arc<Gate>>) -> Self {
        Self { gate, opens_at: None }
    }

    /// What may be moved now; none if it has to wait, which `held` counts.
    #[inline]
    pub(super) fn allowance(&mut self, held: &Counter) -> Option<Allowance> {
        let Some(gate) = &self.gate else { return Some(Self::BURST) };
        match gate.allowance(now(), Self::BURST) {
            Ok(allowance) => {
                self.opens_at = None;
                Some(allowance)
            }
            Err(until) => {
                held.add_some(self.opens_at.is_none().into());
                self.opens_at = Some(until);
                None
            }
        }
    }

    /// Waits for the gate no more: there is nothing to be moved.
    pub(super) fn rest(&mut self) {
        self.opens_at = None;
    }

    /// Notes what was moved.
    #[inline]
    pub(super) fn moved(&self, packets: u64, bytes: u64) {
        if let Some(gate) = &self.gate {
            gate.moved(now(), packets, bytes);
        }
    }

    /// When there will be something to move again, if the gate was found closed.
    pub(super) fn opens_at(&self) -> Option<Time> {
        self.opens_at
    }
}
