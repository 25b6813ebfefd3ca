//! Payload that both ends can tell by a seed, and its hash.

use sha2::{Digest, Sha256};

/// The stream of bytes that belongs to a seed (SplitMix64).
pub(super) struct Payload(u64);

impl Payload {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Writes the next bytes. The stream goes on at whole words: equal sizes of the pieces give equal streams.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
    }
}

/// FNV-1a, to tell a corrupt datagram.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// SHA-256 of pieces that come one after another, in hexadecimal at the end.
#[derive(Default)]
pub(super) struct Hash(Sha256);

impl Hash {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
