//! What is measured: a way through the rings, a kind of ring, a size of frames, a number of queues.

use std::fmt;

/// A way through the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// The client sends, the back end takes and drops.
    GuestToBackend,
    /// The back end makes frames, the client takes and drops.
    BackendToGuest,
    /// A fixed number of frames goes round.
    Loopback,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::GuestToBackend, Self::BackendToGuest, Self::Loopback];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestToBackend => "guest to back end",
            Self::BackendToGuest => "back end to guest",
            Self::Loopback => "loopback",
        })
    }
}

/// What the client asks of its rings; it gets of it what the back end offers.
#[derive(Debug, PartialEq, Eq)]
pub struct RingKind {
    /// What `--ring` calls it.
    pub name: &'static str,
    /// Properties of the virtio-user device.
    pub properties: &'static str,
}

/// The paths through virtio-user's driver. The first and the sixth are what it takes when it is told nothing else.
pub const RINGS: [RingKind; 10] = [
    ring("split", "in_order=1,mrg_rxbuf=1"),
    ring("split-non-mergeable", "in_order=1,mrg_rxbuf=0"),
    ring("split-any-order", "in_order=0,mrg_rxbuf=1"),
    ring("split-any-order-non-mergeable", "in_order=0,mrg_rxbuf=0"),
    ring("split-vectorized", "in_order=0,mrg_rxbuf=0,vectorized=1"),
    ring("packed", "packed_vq=1,in_order=1,mrg_rxbuf=1"),
    ring("packed-non-mergeable", "packed_vq=1,in_order=1,mrg_rxbuf=0"),
    ring("packed-any-order", "packed_vq=1,in_order=0,mrg_rxbuf=1"),
    ring("packed-any-order-non-mergeable", "packed_vq=1,in_order=0,mrg_rxbuf=0"),
    ring("packed-vectorized", "packed_vq=1,in_order=0,mrg_rxbuf=0,vectorized=1"),
];

const fn ring(name: &'static str, properties: &'static str) -> RingKind {
    RingKind { name, properties }
}

impl RingKind {
    /// The one of that name.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        let known = || RINGS.map(|ring| ring.name).join(", ");
        RINGS.iter().find(|ring| ring.name == name).ok_or_else(|| format!("'{name}' is no ring; known: {}", known()))
    }

    /// What virtio-user takes when it is told nothing else, split and packed.
    #[must_use]
    pub fn main() -> [&'static Self; 2] {
        [&RINGS[0], &RINGS[5]]
    }

    /// The layout is the packed one.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.properties.contains("packed_vq=1")
    }

    /// Driven by vector instructions, if the processor has them.
    #[must_use]
    pub fn is_vectorized(&self) -> bool {
        self.properties.contains("vectorized=1")
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The way.
    pub path: Path,
    /// The kind of rings.
    pub ring: &'static RingKind,
    /// Bytes of a frame, checksum of the wire not counted.
    pub frame_len: u32,
    /// Queue pairs, all on the one core.
    pub queues: u16,
    /// Entries of each ring.
    pub ring_size: u16,
    /// Packets that the client handles at a time, but for loopback.
    pub burst: u16,
}

impl Case {
    /// 64 bytes, one queue, 1024 entries, bursts of 32 (what testpmd takes unless told).
    #[must_use]
    pub fn new(path: Path, ring: &'static RingKind) -> Self {
        Self { path, ring, frame_len: 64, queues: 1, ring_size: 1024, burst: 32 }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {} bytes", self.path, self.ring.name, self.frame_len)?;
        if self.queues > 1 {
            write!(f, ", {} queues", self.queues)?;
        }
        Ok(())
    }
}

/// Which cases; what nothing is said about takes its main values.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Ways.
    pub paths: Vec<Path>,
    /// Kinds of rings.
    pub rings: Vec<&'static RingKind>,
    /// Bytes of a frame.
    pub frame_lens: Vec<u32>,
    /// Queue pairs.
    pub queues: Vec<u16>,
}

impl Selection {
    /// Something was chosen.
    #[must_use]
    pub fn is_made(&self) -> bool {
        !(self.paths.is_empty() && self.rings.is_empty() && self.frame_lens.is_empty() && self.queues.is_empty())
    }

    /// All combinations of what was chosen.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let paths = or(&self.paths, &Path::ALL);
        let rings = or(&self.rings, &RingKind::main());
        let mut cases = Vec::new();
        for frame_len in or(&self.frame_lens, &[64]) {
            for queues in or(&self.queues, &[1]) {
                for path in &paths {
                    cases.extend(rings.iter().map(|ring| Case { frame_len, queues, ..Case::new(*path, ring) }));
                }
            }
        }
        cases
    }

    /// What is measured beside the main cases when nothing was chosen: each other value for itself.
    #[must_use]
    pub fn others() -> Vec<Case> {
        let main = RingKind::main();
        let rings = RINGS.iter().filter(|ring| !main.contains(ring)).collect();
        let other_rings = Self { rings, ..Self::default() };
        let other_lens = Self { frame_lens: vec![512, 1518], ..Self::default() };
        let other_queues = Self { queues: vec![2], ..Self::default() };
        [other_rings, other_lens, other_queues].iter().flat_map(Self::cases).collect()
    }
}

fn or<T: Clone>(chosen: &[T], main: &[T]) -> Vec<T> {
    if chosen.is_empty() { main.to_vec() } else { chosen.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_combined_with_main_values() {
        assert!(!Selection::default().is_made());
        assert_eq!(Selection::default().cases().len(), 3 * 2);
        let chosen = Selection { frame_lens: vec![64, 512], paths: vec![Path::Loopback], ..Selection::default() };
        assert!(chosen.is_made());
        let cases: Vec<_> = chosen.cases().iter().map(Case::to_string).collect();
        assert_eq!(cases[0], "loopback, split, 64 bytes");
        assert_eq!(cases[3], "loopback, packed, 512 bytes");
        assert_eq!(cases.len(), 4);
    }

    #[test]
    fn nothing_is_measured_twice() {
        let mut names: Vec<_> =
            Selection::default().cases().iter().chain(&Selection::others()).map(Case::to_string).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(count, 6 + 8 * 3 + 2 * 6 + 6);
        assert!(names.iter().any(|name| name == "back end to guest, packed, 64 bytes, 2 queues"));
    }

    #[test]
    fn rings_are_found_by_name() {
        assert!(RingKind::named("packed-vectorized").unwrap().is_packed());
        assert!(!RingKind::named("split-vectorized").unwrap().is_packed());
        assert!(RingKind::named("spilt").unwrap_err().contains("split-any-order"));
        assert_eq!(RingKind::main().map(|ring| ring.name), ["split", "packed"]);
    }
}
