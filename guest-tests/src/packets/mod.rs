//! Packets of every kind that a TAP carries, frames that stand for several of them, and the wire behind a TAP.
//!
//! [`Flow`] makes them, [`cut`] undoes what stands for several, [`Tap`] is the kernel's side of the TAP in the raw.
//! Nothing of this is the daemon's code: headers and checksums are made and checked by another crate.

mod cut;
mod flow;
mod tap;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

pub use cut::cut;
pub use flow::{Flow, Kind};
pub use tap::Tap;

/// A virtio-net header (virtio 1.3, 5.1.6), without the number of buffers, as the kernel's sockets have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Flags.
    pub flags: u8,
    /// What the frame is to be cut as.
    pub gso_type: u8,
    /// Bytes of all headers, a hint.
    pub hdr_len: u16,
    /// Bytes of payload of each packet.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where its field is from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// A checksum is to be finished.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was found good.
    pub const DATA_VALID: u8 = 2;
    /// To be cut as TCP over IPv4, over IPv6, and as UDP.
    pub const TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const TCPV6: u8 = 4;
    /// UDP over either.
    pub const UDP_L4: u8 = 5;

    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let Self { flags, gso_type, .. } = self;
        let mut bytes = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        bytes[2..].chunks_mut(2).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// Reads it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 10]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let [hdr_len, gso_size, csum_start, csum_offset] = [2, 4, 6, 8].map(word);
        Self { flags: bytes[0], gso_type: bytes[1], hdr_len, gso_size, csum_start, csum_offset }
    }

    /// Whether the frame stands for several packets.
    #[must_use]
    pub fn is_segmented(&self) -> bool {
        self.gso_type != 0
    }
}

/// A frame and its virtio-net header.
pub type Frame = (VnetHeader, Vec<u8>);

/// Packets by their flow, in their order.
type ByFlow = BTreeMap<[u8; 2], Vec<Vec<u8>>>;

/// How long a frame may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes frames from `receive` until they stand for as many packets as those of `sent`. They must be the same packets,
/// in the order of each flow.
///
/// # Errors
/// With the first difference.
pub fn expect(sent: &[Frame], mut receive: impl FnMut(Duration) -> Result<Option<Frame>>) -> Result<Vec<Frame>> {
    let sent = packets_of(sent)?;
    let mut frames = Vec::new();
    let mut missing = count(&sent);
    while missing > 0 {
        let Some(frame) = receive(PATIENCE)? else { break };
        missing = missing.saturating_sub(cut(&frame.0, &frame.1)?.len());
        frames.push(frame);
    }
    // None that nobody sent.
    frames.extend(receive(Duration::ZERO)?);
    compare(&sent, &packets_of(&frames)?)?;
    Ok(frames)
}

/// The packets that frames stand for.
fn packets_of(frames: &[Frame]) -> Result<ByFlow> {
    let mut flows = ByFlow::new();
    for (header, frame) in frames {
        for packet in cut(header, frame)? {
            flows.entry(flow::of(&packet)).or_default().push(flow::without_free_id(packet)?);
        }
    }
    Ok(flows)
}

fn count(packets: &ByFlow) -> usize {
    packets.values().map(Vec::len).sum()
}

fn compare(sent: &ByFlow, came: &ByFlow) -> Result<()> {
    for (flow, sent) in sent {
        let came = came.get(flow).map(Vec::as_slice).unwrap_or_default();
        for (at, (sent, came)) in sent.iter().zip(came).enumerate() {
            if sent != came {
                let byte = sent.iter().zip(came).position(|(sent, came)| sent != came);
                let lens = [sent.len(), came.len()];
                bail!("packet {at} of flow {flow:?} differs at byte {byte:?}, lengths {lens:?}");
            }
        }
        ensure!(sent.len() == came.len(), "{} of {} packets of flow {flow:?}", came.len(), sent.len());
    }
    ensure!(sent.len() == came.len(), "packets of {} flows, not of {}", came.len(), sent.len());
    Ok(())
}
