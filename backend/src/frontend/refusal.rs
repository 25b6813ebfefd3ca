//! Why a message is refused, in words that name the value and the mend.

use std::error::Error as StdError;
use std::io;

use vhost::vhost_user::Error;

use crate::memory::MemoryError;
use crate::nic::{FeatureNames, StartError};
use crate::worker::{MailboxError, QueueId};

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("ring {index} does not exist: this device has {rings}; start vnicd with --queue-pairs for more")]
    NoSuchRing { index: u32, rings: u16 },
    #[error("ring {id} cannot have {size} entries: a power of two up to {max} is possible")]
    RingSize { id: QueueId, size: u32, max: u16 },
    #[error("packed ring {id} cannot have {size} entries: 1 to {max} are possible")]
    PackedRingSize { id: QueueId, size: u32, max: u16 },
    #[error("ring {id} is running: it must be stopped before its size is changed")]
    Running { id: QueueId },
    #[error("the {which} fd of ring {id} is no eventfd")]
    NotEventfd { id: QueueId, which: &'static str },
    #[error("ring {id} was started before its size and addresses were set")]
    NotSetUp { id: QueueId },
    #[error(
        "ring {id} lies at {address:#x} of the front end, which is not in the memory that it shares: is the guest's memory shared (share=on)?"
    )]
    NotShared { id: QueueId, address: u64 },
    #[error("features {} were acknowledged but not offered", FeatureNames(*.0))]
    NotOffered(u64),
    #[error("protocol features {0:#x} were acknowledged but not offered")]
    ProtocolNotOffered(u64),
    #[error("{size} bytes at {offset} are not in the configuration space")]
    OutsideConfig { offset: u32, size: u32 },
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("the front end shares more than the {0} memory regions that were offered")]
    TooManyRegions(u64),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Worker(#[from] MailboxError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::ReqHandlerError(io::Error::other(refusal))
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers of other crates repeat their cause; once is enough.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
