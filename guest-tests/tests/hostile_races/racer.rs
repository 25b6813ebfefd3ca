//! A driver whose descriptors change while the device reads them, and its neighbours.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::desc::{INDIRECT, NEXT, WRITE};
use guest_tests::driver::nic::FORMATS;
use guest_tests::driver::target::{FEATURES, SIZE, while_changing};
use guest_tests::driver::{Client, Desc, GUEST_BASE, Numbered, NumberedPair, Queue};
use guest_tests::{Configured, NetNs};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long changes are waited for that the device meets.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// Chains that are offered at least.
const ROUNDS: u32 = 100;
/// Two devices on uplinks that return what is sent. Workers sleep between two chains, so that there is time for a change.
const CONFIG: &str = "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'loopback'\nqueue-pairs = 2\n\
    mode = 'interrupt'\n\n[[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\nqueue-pairs = 1\n";

/// Behind the shared memory.
const END: u64 = GUEST_BASE + (16 << 20);
/// Where the first piece lies, and its bytes.
pub(super) const HEAD: u64 = GUEST_BASE + (8 << 20);
pub(super) const HEAD_LEN: usize = 64;
/// Where the second one may lie, and what it may hold.
pub(super) const PLACES: [(u64, u8); 3] =
    [(GUEST_BASE + (9 << 20), 0xaa), (GUEST_BASE + (10 << 20), 0xbb), (END - 300, 0xcc)];
const TABLE: u64 = GUEST_BASE + (11 << 20);
/// What the second piece is changed to. Places and lengths mix.
const CHANGES: [(u64, u32); 6] =
    [GOOD, (END - 300, 600), (PLACES[1].0, 300), BAD, (PLACES[0].0, u32::MAX), (PLACES[1].0, 600)];
const GOOD: (u64, u32) = (PLACES[0].0, 600);
const BAD: (u64, u32) = (u64::MAX, 300);

/// A driver of one pair that is attacked.
pub(super) struct Racer<'a> {
    client: Client,
    pub(super) rx: Queue,
    pub(super) tx: Queue,
    pub(super) memory: GuestMemoryMmap,
    in_table: bool,
    /// The descriptor that is changed now, and how often one was.
    changing: &'a Mutex<Option<u64>>,
    changes: &'a AtomicU64,
}

fn lock(changing: &Mutex<Option<u64>>) -> MutexGuard<'_, Option<u64>> {
    changing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Racer<'_> {
    /// Offers two pieces, the second of which changes from now on, and before that is as given.
    pub(super) fn offer(&mut self, is_rx: bool, (address, len): (u64, u32)) -> Result<()> {
        let queue = if is_rx { &mut self.rx } else { &mut self.tx };
        let write = if is_rx { WRITE } else { 0 };
        let first = Desc { next: 1, ..Desc::new(HEAD, HEAD_LEN as u32, NEXT | write) };
        let pieces = [first, Desc::new(address, len, write)];
        let (ring, packed) = (queue.layout.desc, queue.format().packed);
        let slot = if packed { queue.packed().next_slot().0 } else { 0 };
        let second = if self.in_table {
            queue.write_table(TABLE, &pieces);
            queue.add_descs(&[Desc::new(TABLE, 32, INDIRECT)]).context("the ring is full")?;
            TABLE + Desc::SIZE
        } else {
            let id = queue.add_descs(&pieces).context("the ring is full")?;
            let next = if packed {
                (slot + 1) % SIZE
            } else {
                self.memory.read_obj(GuestAddress(ring + u64::from(id) * Desc::SIZE + 14))?
            };
            ring + u64::from(next) * Desc::SIZE
        };
        // Under way before the device is kicked.
        let before = self.changes.load(Ordering::Relaxed);
        *lock(self.changing) = Some(second);
        while self.changes.load(Ordering::Relaxed) == before {
            thread::yield_now();
        }
        Ok(queue.kick.write(1)?)
    }

    pub(super) fn fill(&self, at: u64, byte: u8, len: usize) -> Result<()> {
        Ok(self.memory.write_slice(&vec![byte; len], GuestAddress(at))?)
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at))?;
        Ok(bytes)
    }

    /// Whether a chain breaks its ring or is used. The ring is mended then.
    pub(super) fn breaks(&mut self, is_rx: bool, mut used: impl FnMut(&mut Self) -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        while !used(self)? {
            let queue = if is_rx { &mut self.rx } else { &mut self.tx };
            if queue.err.read().is_ok() {
                *lock(self.changing) = None;
                self.client.front.get_vring_base(queue.index)?;
                queue.reset();
                self.client.start_queue(queue)?;
                return Ok(true);
            }
            ensure!(start.elapsed() < PATIENCE, "neither used nor broken");
            thread::sleep(Duration::from_micros(50));
        }
        *lock(self.changing) = None;
        Ok(false)
    }
}

/// A descriptor is changed while the device reads it, in each way. `round` offers a chain whose second piece is as given at
/// first, and says whether that broke the ring.
pub(super) fn race(
    is_rx: bool,
    in_table: bool,
    prepare: impl Fn(&mut Racer) -> Result<()>,
    mut round: impl FnMut(&mut Racer, u32, (u64, u32)) -> Result<bool>,
) -> Result<()> {
    let vnicd = Configured::start(&NetNs::new()?, CONFIG, &["a", "b"])?;
    for (name, format) in FORMATS {
        let mut other = Numbered::start(&vnicd.path("b"), FEATURES | format, 1, SIZE)?;
        let mut client = Client::start(&vnicd.path("a"), FEATURES | format)?;
        let (rx, tx) = (client.running_queue(0, SIZE)?, client.running_queue(1, SIZE)?);
        let mut beside = NumberedPair::start(&mut client, 1, SIZE, SIZE / 2)?;
        let (memory, changing, changes) = (client.memory.map.clone(), Mutex::new(None), AtomicU64::new(0));
        let own = memory.clone();
        let mut racer = Racer { client, rx, tx, memory: own, in_table, changing: &changing, changes: &changes };
        prepare(&mut racer)?;
        let change = |n: u32| {
            let (address, len) = CHANGES[n as usize % CHANGES.len()];
            let place = lock(&changing);
            let Some(at) = *place else {
                drop(place);
                return thread::yield_now();
            };
            memory.write_obj(address, GuestAddress(at)).expect("it is shared");
            memory.write_obj(len, GuestAddress(at + 8)).expect("it is shared");
            changes.fetch_add(1, Ordering::Relaxed);
        };
        while_changing(change, || {
            // By what the second piece was at first, good or bad: chains that were used, and that broke the ring.
            let (mut fates, start) = ([[0; 2]; 2], Instant::now());
            for n in 0.. {
                let is_bad = n % 2 == 1;
                let broke = round(&mut racer, n, if is_bad { BAD } else { GOOD })
                    .with_context(|| format!("{name}, round {n}, {fates:?} before"))?;
                fates[usize::from(is_bad)][usize::from(broke)] += 1;
                for pair in [&mut beside, &mut other.pairs[0]] {
                    pair.exchange(8, 8, PATIENCE).with_context(|| format!("{name}, a neighbour in round {n}"))?;
                }
                let [[_, spoilt], [mended, _]] = fates;
                if n >= ROUNDS && spoilt > 0 && mended > 0 {
                    break;
                }
                ensure!(start.elapsed() < LONG_ENOUGH, "{name}: no change met the device: {fates:?}");
            }
            println!("{name}, rx {is_rx}, in a table {in_table}: {fates:?} used and broken, of good ones and bad ones");
            Ok(())
        })?;
    }
    ensure!(vnicd.process().try_status()?.is_none(), "the daemon ended");
    ensure!(!vnicd.process().lines().contains("panicked"));
    ensure!(vnicd.process().terminate()?.success());
    Ok(())
}
