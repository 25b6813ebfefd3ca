//! Log lines that somebody outside can cause as often as they like: many at once, then ten a second, which say how many
//! were left out.

#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may come at once.
const AT_ONCE: u32 = 2000;

/// How often there may be one more.
const EVERY: Duration = Duration::from_millis(100);

/// A limit on lines. Nobody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When there could be as many at once again.
    rested_at: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Has `line` written unless there were too many. It is told how many were left out before it, if any were.
    pub(crate) fn tell(&self, line: impl FnOnce(Option<u64>)) {
        if let Some(left_out) = self.may_tell(Instant::now()) {
            line(Some(left_out).filter(|n| *n > 0));
        }
    }

    /// How many lines were left out, if there may be one now.
    fn may_tell(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rested_at = state.rested_at.map_or(now, |at| at.max(now)) + EVERY;
        if rested_at - now > AT_ONCE * EVERY {
            state.left_out += 1;
            return None;
        }
        state.rested_at = Some(rested_at);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_come_at_once_and_then_ten_a_second() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let told = |after_ms: u64, n: u32| -> Vec<u64> {
            (0..n).filter_map(|_| seldom.may_tell(start + Duration::from_millis(after_ms))).collect()
        };
        assert_eq!(told(0, 2050), vec![0; 2000]);
        assert!(told(99, 7).is_empty());
        assert_eq!(told(100, 5), vec![57]);
        assert_eq!(told(300, 5), vec![4, 0]);
        assert_eq!(told(500_000, 2050).len(), 2000);
    }
}
