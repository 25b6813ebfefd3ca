//! What both directions of a pair share.

use std::io;
use std::sync::Arc;

use super::{PairCounters, QueueId};
use crate::capture::Recorder;
use crate::mode::Uplink;
use crate::offload::Offloads;

/// What the driver acknowledged, as far as it matters to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Bytes of the guest's virtio-net header: 12, or 10 for a legacy guest without mergeable buffers.
    pub header_len: usize,
    /// A frame may fill several receive buffers.
    pub mergeable: bool,
    /// Largest frame that the guest takes unsegmented, in bytes, if it was told.
    pub max_frame: Option<usize>,
    /// What the guest takes.
    pub guest: Offloads,
    /// What the guest may ask for.
    pub host: Offloads,
}

/// What the uplink was like when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// No frames come to this pair.
    Detached,
    /// Frames come and go.
    Up,
    /// It refused a frame because it is down; tried again with the next.
    Down,
    /// It will not come back.
    Gone,
}

/// The state of a pair that both of its directions read.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: QueueId,
    pub(super) features: Features,
    pub(super) link: Link,
    /// The uplink's interface carries frames, as far as the kernel tells.
    pub(super) has_carrier: bool,
    pub(super) counters: Arc<PairCounters>,
    /// Who copies what is moved, if anybody does.
    pub(super) recorder: Option<Box<Recorder>>,
}

impl Shared {
    /// Whether frames may come from the uplink.
    pub(super) fn is_attached(&self) -> bool {
        matches!(self.link, Link::Up | Link::Down)
    }

    /// Whether the uplink works.
    pub(super) fn uplink(&self) -> Uplink {
        match self.link {
            Link::Down | Link::Gone => Uplink::Down,
            _ if !self.has_carrier => Uplink::Down,
            Link::Detached | Link::Up => Uplink::Up,
        }
    }

    /// Notes whether the uplink's interface carries frames. One that does so again is no longer down.
    pub(super) fn set_carrier(&mut self, carries: bool) {
        self.has_carrier = carries;
        if carries && self.link == Link::Down {
            self.link_is(Link::Up);
        }
    }

    /// Notes what the uplink just showed itself to be, with a line when that is news.
    pub(super) fn link_is(&mut self, link: Link) {
        if self.link != link {
            match link {
                Link::Down => tracing::warn!(queue = %self.id, "uplink is down; frames of the guest are dropped"),
                _ => tracing::info!(queue = %self.id, "uplink is up again"),
            }
            self.link = link;
        }
    }

    /// The uplink does not work any more.
    pub(super) fn lose_link(&mut self, error: &io::Error) {
        self.link = Link::Gone;
        tracing::error!(queue = %self.id, "the uplink has gone: {error}; frames of the guest are dropped");
    }
}
