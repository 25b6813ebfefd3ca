//! A time-out that counts only the time in which this program could run.
//!
//! A machine may stand still for a while: suspended, or its programs frozen while somebody measures beside them. What was
//! waited for stood still then, too.

use std::time::{Duration, Instant};

/// No more than this is counted between two looks.
const STEP: Duration = Duration::from_secs(1);

/// How long something is still waited for.
#[derive(Clone, Debug)]
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// Begins to wait. It must be asked more often than once a second.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self { left: time, looked: Instant::now() }
    }

    /// How long it waits still; nothing when the time is over.
    pub fn left(&mut self) -> Duration {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.looked).min(STEP));
        self.looked = now;
        self.left
    }

    /// Whether the time is over.
    pub fn is_over(&mut self) -> bool {
        self.left().is_zero()
    }

    /// How long to sleep at most before it is asked again.
    pub fn nap(&mut self) -> Duration {
        self.left().min(STEP / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_slept_through_is_not_counted() {
        let mut patience =
            Patience { left: Duration::from_secs(10), looked: Instant::now() - Duration::from_secs(500) };
        let left = patience.left();
        assert!(left > Duration::from_secs(8) && left <= Duration::from_secs(9), "{left:?}");
    }

    #[test]
    fn it_ends() {
        let mut patience = Patience::new(Duration::from_millis(20));
        while !patience.is_over() {
            std::thread::sleep(patience.nap());
        }
        assert_eq!(patience.nap(), Duration::ZERO);
    }
}
