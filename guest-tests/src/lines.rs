//! What a program printed, line by line, while it runs and afterwards.
//!
//! One side pushes lines and closes the log, others wait for a line or read what is there.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::patience::Patience;

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; of QEMU: the guest's console.
    Out,
    /// Standard error.
    Err,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(Stream, String)>,
    closed: bool,
}

/// A shared log of lines. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<State>, Condvar)>);

/// Why a wait for a line ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLine {
    /// The time was over.
    TimedOut,
    /// The program ended and will print no more.
    Closed,
}

impl Lines {
    /// Adds a line (without its end).
    pub fn push(&self, stream: Stream, line: impl Into<String>) {
        self.state().lines.push((stream, line.into()));
        self.0.1.notify_all();
    }

    /// Says that no line will follow.
    pub fn close(&self) {
        self.state().closed = true;
        self.0.1.notify_all();
    }

    /// Waits for the first line that contains `text`, those printed before the call included.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<String, NoLine> {
        let mut seen = 0;
        self.wait_until(timeout, |state| {
            let found = state.lines[seen..].iter().find(|(_, line)| line.contains(text)).map(|(_, line)| line.clone());
            seen = state.lines.len();
            found
        })
    }

    /// Waits until the log is closed.
    pub fn wait_closed(&self, timeout: Duration) -> Result<(), NoLine> {
        self.wait_until(timeout, |state| state.closed.then_some(()))
    }

    /// All lines so far, in the order in which they came.
    pub fn all(&self) -> Vec<String> {
        self.state().lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// What one stream carried so far, each line ended by a newline.
    pub fn text(&self, stream: Stream) -> String {
        let state = self.state();
        state.lines.iter().filter(|(from, _)| *from == stream).flat_map(|(_, line)| [line, "\n"]).collect()
    }

    /// The last `count` lines of one stream, for a failure message.
    pub fn tail(&self, stream: Stream, count: usize) -> String {
        let state = self.state();
        let mut last: Vec<&str> =
            state.lines.iter().rev().filter(|(from, _)| *from == stream).take(count).map(|(_, l)| l.as_str()).collect();
        last.reverse();
        if last.is_empty() { "(nothing)".into() } else { last.join("\n") }
    }

    /// Whether a line that contains `text` is there.
    pub fn contains(&self, text: &str) -> bool {
        self.state().lines.iter().any(|(_, line)| line.contains(text))
    }

    fn wait_until<T>(&self, timeout: Duration, mut probe: impl FnMut(&State) -> Option<T>) -> Result<T, NoLine> {
        let mut patience = Patience::new(timeout);
        let mut state = self.state();
        loop {
            if let Some(found) = probe(&state) {
                return Ok(found);
            }
            if state.closed {
                return Err(NoLine::Closed);
            }
            let nap = patience.nap();
            if nap.is_zero() {
                return Err(NoLine::TimedOut);
            }
            state = self.0.1.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_before_and_after_it_was_asked_for() {
        let lines = Lines::default();
        lines.push(Stream::Out, "one");
        assert_eq!(lines.wait_for("one", Duration::ZERO), Ok("one".into()));
        let writer = lines.clone();
        let thread = std::thread::spawn(move || writer.push(Stream::Err, "and two"));
        assert_eq!(lines.wait_for("two", Duration::from_secs(5)), Ok("and two".into()));
        thread.join().unwrap();
        assert_eq!(lines.text(Stream::Err), "and two\n");
    }

    #[test]
    fn a_wait_ends_by_time_or_by_the_end_of_the_log() {
        let lines = Lines::default();
        assert_eq!(lines.wait_for("x", Duration::from_millis(1)), Err(NoLine::TimedOut));
        lines.close();
        assert_eq!(lines.wait_for("x", Duration::from_secs(5)), Err(NoLine::Closed));
    }
}
