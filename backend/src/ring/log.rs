//! What a ring marks while a live migration is under way.

use std::sync::Arc;

use crate::memory::DirtyLog;

/// The log of dirty pages, as one ring uses it.
#[derive(Clone, Debug)]
pub struct RingLog {
    pages: Arc<DirtyLog>,
    /// Guest address under which writes to the used ring (packed: the device event area) are marked, if the front end
    /// wants them marked (vhost-user, `VHOST_VRING_F_LOG`).
    used: Option<u64>,
}

impl RingLog {
    /// Marks in `pages`; what is written to the used ring under the guest address `used`.
    #[must_use]
    pub fn new(pages: Arc<DirtyLog>, used: Option<u64>) -> Self {
        Self { pages, used }
    }

    pub(super) fn pages(&self) -> &DirtyLog {
        &self.pages
    }

    /// Marks `len` bytes at `offset` of the used ring.
    pub(super) fn mark_used(&self, offset: usize, len: usize) {
        if let Some(used) = self.used {
            self.pages.mark(used.wrapping_add(offset as u64), len as u64);
        }
    }
}
