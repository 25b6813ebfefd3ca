//! The driver: sends numbered chains and takes them back, now as many as there is room for, now waiting for each batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vnicd::memory::MemoryTable;

use crate::device::written;
use crate::shared::{Dice, Format, SIZE, Wake};

/// Most chains of a batch.
const BATCH: u64 = 8;

/// A driver's side of one ring format. Chains come back in the order in which they were sent.
pub(crate) trait Driver: Send {
    /// The driver's side of a ring that nobody has used.
    fn new(table: &Arc<MemoryTable>, format: Format) -> Self;

    /// Sends a chain that holds `number`; seen by the device after [`Driver::publish`]. There is room.
    fn send(&mut self, number: u64);

    /// Shows the device what was sent, at least one chain; whether it wants a kick.
    fn publish(&mut self) -> bool;

    /// Takes the oldest chain back, if the device has returned it: its answer and how much it says it wrote.
    fn take(&mut self) -> Option<(u64, u32)>;

    /// Asks for a call at the next chain that comes back; whether it is there already.
    fn arm_calls(&mut self) -> bool;

    /// Tells the device that it need not call.
    fn suppress_calls(&mut self);
}

#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) chains: u64,
    pub(crate) sleeps: u64,
}

/// Sends until the device has `enough` and all chains are back.
pub(crate) fn run(mut driver: impl Driver, kick: &Wake, call: &Wake, enough: &AtomicBool) -> Sent {
    let mut dice = Dice::new(0xfedc_ba98_7654_3217);
    let mut sent = Sent::default();
    let mut returned = 0;
    let mut hasty = true;
    loop {
        driver.suppress_calls();
        while let Some(answer) = driver.take() {
            assert_eq!(answer, (!returned, written(returned)), "chain {returned} of {sent:?}");
            returned += 1;
        }
        let room = u64::from(SIZE) - (sent.chains - returned);
        let end = enough.load(Ordering::Relaxed);
        if !end && room > 0 && (hasty || room == u64::from(SIZE)) {
            for _ in 0..dice.roll(BATCH.min(room)) {
                driver.send(sent.chains);
                sent.chains += 1;
            }
            dice.pause(64);
            if driver.publish() {
                kick.wake();
            }
            hasty ^= dice.roll(256) == 1;
        } else if returned == sent.chains {
            return sent;
        } else if !driver.arm_calls() && dice.roll(4) != 1 {
            sent.sleeps += 1;
            assert!(call.sleep(&mut dice), "the driver sleeps for ever, {returned} chains returned: {sent:?}");
        }
    }
}
