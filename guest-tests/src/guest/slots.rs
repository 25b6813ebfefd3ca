//! How many guests one test program runs at a time. Tests are concurrent, processors are few: more guests would only
//! run into each other's time-outs.

use std::sync::{Condvar, Mutex, PoisonError};

/// Guests at a time.
pub const SLOTS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

/// Room for a number of guests, free again when dropped.
#[derive(Debug)]
pub struct Slots(usize);

impl Slots {
    /// Waits until there is room for `count` guests ([`SLOTS`] at most).
    ///
    /// A test that boots several guests must take the room for all at once ([`GuestBuilder::in_slots`]), or two such
    /// tests would wait for each other; a test that measures takes all the room to be alone.
    ///
    /// [`GuestBuilder::in_slots`]: crate::GuestBuilder::in_slots
    pub fn take(count: usize) -> Self {
        let count = count.min(SLOTS);
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        *FREED.wait_while(free, |free| *free < count).unwrap_or_else(PoisonError::into_inner) -= count;
        Self(count)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREED.notify_all();
    }
}
