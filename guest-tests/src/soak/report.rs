//! What a soak did, what moved, and what was wrong.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::{Event, Kind};
use crate::tools::FlowReport;

/// Events that are shown with a fault.
const SHOWN: usize = 20;

/// The report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    seed: u64,
    /// How long events came.
    pub lasted: Duration,
    events: BTreeMap<Kind, u64>,
    history: Vec<String>,
    /// Modes that vnicctl has changed.
    pub(super) modes: u64,
    /// Guests that did not let go of memory when they were asked to.
    pub(super) kept: u64,
    pub(super) downtimes: Vec<Duration>,
    /// How long all traffic took to move after an event.
    pub(super) settled: BTreeMap<Kind, Duration>,
    lines: Vec<(String, String)>,
    zeroes: Vec<(&'static str, u64)>,
    faults: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn begins(&mut self, at: Duration, event: &Event) {
        *self.events.entry(event.kind()).or_default() += 1;
        self.history.push(format!("{:8.1} s  {event}", at.as_secs_f64()));
    }

    /// The kind of the event that came last.
    pub(super) fn settled_after(&mut self, kind: Kind, time: Duration) {
        let longest = self.settled.entry(kind).or_default();
        *longest = time.max(*longest);
    }

    /// Something that may not be.
    pub(super) fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// A count that must be zero.
    pub(super) fn zero(&mut self, what: &'static str, count: u64) {
        match self.zeroes.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum += count,
            None => self.zeroes.push((what, count)),
        }
    }

    /// A line of what moved.
    pub(super) fn moved(&mut self, name: impl Into<String>, what: impl Into<String>) {
        self.lines.push((name.into(), what.into()));
    }

    /// Datagrams: sent, and come.
    pub(super) fn datagrams(&mut self, name: &str, [sent, came]: &[FlowReport; 2]) {
        let lost = sent.moved.saturating_sub(came.moved + came.corrupt);
        let what = format!("{} sent, {} came, {lost} lost, {} came twice", sent.moved, came.moved, came.repeated);
        self.moved(name, what);
        self.zero("datagrams changed", came.corrupt);
    }

    /// A stream: sent, and come.
    pub(super) fn stream(&mut self, name: &str, [sent, came]: &[FlowReport; 2]) {
        self.moved(name, format!("{} bytes sent, {} came", sent.moved, came.moved));
        self.zero("bytes of TCP changed", came.corrupt);
        self.zero("bytes of TCP missing", sent.moved.abs_diff(came.moved));
        let whole = |end: &FlowReport| end.ended && end.failed.is_none();
        self.zero("streams broken", u64::from(!(whole(sent) && whole(came))));
        for why in [sent, came].into_iter().filter_map(|end| end.failed.as_ref()) {
            self.fault(format!("{name}: {why}"));
        }
    }

    /// A line for somebody who waits.
    pub(super) fn progress(&self, at: Duration, moved: &str) -> String {
        let events: u64 = self.events.values().sum();
        format!("{:.1} min, {events} events, {moved}, {} faults", at.as_secs_f64() / 60.0, self.faults.len())
    }

    /// Whether every zero is zero, and nothing else was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.zeroes.iter().all(|(_, count)| *count == 0)
    }

    /// How often each kind of event came.
    #[must_use]
    pub fn events(&self) -> &BTreeMap<Kind, u64> {
        &self.events
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "soak of {:.1} minutes, seed {}", self.lasted.as_secs_f64() / 60.0, self.seed)?;
        writeln!(f, "\nWhat happened")?;
        for (kind, count) in &self.events {
            let after = self.settled.get(kind).map_or_else(String::new, |time| {
                format!("; all traffic moved again after {:.1} s at most", time.as_secs_f64())
            });
            writeln!(f, "  {:32} {count:>7}{after}", kind.to_string())?;
        }
        writeln!(f, "  {:32} {:>7}", "modes changed by vnicctl", self.modes)?;
        let mut times = self.downtimes.clone();
        times.sort();
        if let (Some(median), Some(longest)) = (times.get(times.len() / 2), times.last()) {
            writeln!(f, "  {:32} {median:?} (median), {longest:?} (longest)", "a migrating guest stood still")?;
        }
        if self.kept > 0 {
            writeln!(f, "  {:32} {:>7}", "memory that Linux kept", self.kept)?;
        }
        writeln!(f, "\nWhat moved (datagrams, frames and echoes may be lost when something ends)")?;
        for (name, what) in &self.lines {
            writeln!(f, "  {name:32} {what}")?;
        }
        writeln!(f, "\nWhat must be zero")?;
        for (what, count) in &self.zeroes {
            writeln!(f, "  {what:32} {count:>7}")?;
        }
        writeln!(f, "  {:32} {:>7}", "other faults", self.faults.len())?;
        for fault in &self.faults {
            writeln!(f, "\nFAULT: {fault}")?;
        }
        if !self.is_clean() {
            let mut last = String::new();
            for event in &self.history[self.history.len().saturating_sub(SHOWN)..] {
                writeln!(last, "  {event}")?;
            }
            writeln!(f, "\nThe last events\n{last}")?;
        }
        Ok(())
    }
}
