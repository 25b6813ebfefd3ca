//! Who looks at every frame on its way to the guest, if anybody does.

use crate::capture::Recorder;

use super::moderation::{Priorities, URGENT_LEN};

/// What is looked for.
#[derive(Debug, Default)]
pub(super) struct Observers {
    /// Which packets are urgent, while that matters.
    urgent: Option<Priorities>,
    /// One was among those that were looked at.
    found_urgent: bool,
    /// They are copied.
    is_captured: bool,
    /// Either.
    any: bool,
}

impl Observers {
    /// Looks for packets that are urgent from now on, or no more.
    pub(super) fn look_for_urgent(&mut self, urgent: Option<Priorities>) {
        self.urgent = urgent;
        self.any = urgent.is_some() || self.is_captured;
    }

    /// Has frames copied from now on, or no more.
    pub(super) fn set_captured(&mut self, on: bool) {
        self.is_captured = on;
        self.any = on || self.urgent.is_some();
    }

    /// Whether there is anybody.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Whether an urgent packet was seen since this was asked last.
    #[inline]
    pub(super) fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.found_urgent)
    }

    /// Looks at a frame of `len` bytes, of which `copy` puts the first where it is told, as many as there are.
    #[cold]
    pub(super) fn look(&mut self, recorder: Option<&mut Box<Recorder>>, len: usize, copy: impl Fn(&mut [u8]) -> usize) {
        if let Some(urgent) = self.urgent {
            let mut bytes = [0; URGENT_LEN];
            let copied = copy(&mut bytes[..len.min(URGENT_LEN)]);
            self.found_urgent |= urgent.are_urgent(&bytes[..copied]);
        }
        if let Some(recorder) = recorder {
            recorder.record(true, len, copy);
        }
    }
}
