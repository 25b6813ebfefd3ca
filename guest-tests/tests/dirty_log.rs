//! What a live migration needs of the device: whatever it writes into guest memory is marked, and little else.
//!
//! A copy of guest memory is made while packets move, by the marks alone, as a migration makes it. In the end it has
//! every byte that the device wrote. What the driver writes is left out: a hypervisor tracks that by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_tests::driver::dirty_log::{LOG_ALL, PAGE};
use guest_tests::driver::frames::{self, Mac};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, INDIRECT_DESC, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, DirtyLog, GUEST_BASE, Queue};
use guest_tests::lab::beside;
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const PATIENCE: Duration = Duration::from_secs(10);
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX | INDIRECT_DESC;
const GUEST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x77];
const GUEST: [u8; 4] = [10, 77, 0, 2];
const HOST: ([u8; 4], u16) = ([10, 77, 0, 1], 7);
/// Entries of a ring: a split one's used index and what is used last lie in different pages, and so do the first and the
/// last descriptors of a packed one.
const SPLIT_SIZE: u16 = 2048;
const PACKED_SIZE: u16 = 350;
/// Buffers of a receive ring.
const BUFFERS: u64 = 20;

/// The pieces of a buffer: where each lies, and its bytes.
type Pieces = Vec<(u64, u32)>;

/// A queue pair of the guest's.
struct Pair {
    rx: Queue,
    tx: Queue,
    posted: BTreeMap<u16, Pieces>,
    tx_buffer: u64,
    /// Descriptors of a chain.
    chain: usize,
}

/// A guest on a TAP whose host sends back each datagram.
struct Guest {
    client: Client,
    pairs: Vec<Pair>,
    buffers: Vec<Pieces>,
    host_mac: Mac,
    sent: u64,
}

impl Guest {
    fn start(ns: &NetNs, vnicd: &Vnicd, pairs: usize, chain: usize, format: u64) -> Result<Self> {
        ns.sh("ip addr replace 10.77.0.1/24 dev tap0 && ip link set tap0 mtu 9000 up")?;
        ns.sh("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
        let host_mac = frames::mac(&ns.sh("cat /sys/class/net/tap0/address")?).context("tap0 has no MAC address")?;
        let mut client = Client::start(vnicd.socket(), FEATURES | format)?;
        let (mut all, mut buffers) = (Vec::new(), Vec::new());
        let size = if format & PACKED != 0 { PACKED_SIZE } else { SPLIT_SIZE };
        for pair in 0..pairs {
            let (rx, tx) = (client.running_queue(2 * pair, size)?, client.running_queue(2 * pair + 1, size)?);
            let tx_buffer = client.memory.allocate(64 << 10);
            let mut pair = Pair { rx, tx, posted: BTreeMap::new(), tx_buffer, chain };
            for _ in 0..BUFFERS {
                let pieces = pieces(client.memory.allocate((chain as u64 + 1) * PAGE), chain);
                buffers.push(pieces.clone());
                pair.post(pieces)?;
            }
            all.push(pair);
        }
        Ok(Self { client, pairs: all, buffers, host_mac, sent: 0 })
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.pairs.iter().flat_map(|pair| [&pair.rx, &pair.tx])
    }

    /// Each pair sends a few datagrams; all of them come back, over whichever pairs.
    fn traffic(&mut self) -> Result<()> {
        let mut missing = BTreeSet::new();
        let memory = self.client.memory.map.clone();
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            for n in 0..3 {
                self.sent += 1;
                let fill = self.sent as u8;
                let payload = [&self.sent.to_le_bytes()[..], &vec![fill; [30, 700, 5000][n as usize]]].concat();
                let frame = frames::udp(GUEST_MAC, self.host_mac, (GUEST, 9000 + index as u16), HOST, &payload);
                let at = pair.tx_buffer + n * 2 * PAGE;
                memory.write_slice(&[&[0; 12], &frame[..]].concat(), GuestAddress(at))?;
                // The last piece has all behind the first 60 bytes, which the others share.
                let step = 60 / (pair.chain as u32 - 1);
                let mut chain: Pieces = (0..60).step_by(step as usize).map(|from| (at + from, step)).collect();
                chain.push((at + 60, 12 + frame.len() as u32 - 60));
                pair.tx.add(&chain, false).context("the ring is full")?;
                missing.insert(payload);
            }
            pair.tx.kick()?;
        }
        let end = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            ensure!(Instant::now() < end, "{} datagrams do not come back", missing.len());
            for pair in &mut self.pairs {
                while pair.tx.take_used().is_some() {}
                if let Some(frame) = pair.receive(&memory)? {
                    let (_, payload) = frames::udp_payload(&frame).context("another frame came")?;
                    ensure!(missing.remove(payload), "a datagram of {} bytes is not as it was sent", payload.len());
                }
            }
            thread::yield_now();
        }
        Ok(())
    }
}

impl Pair {
    fn post(&mut self, pieces: Pieces) -> Result<()> {
        let id = self.rx.add(&pieces, true).context("the ring is full")?;
        self.posted.insert(id, pieces);
        self.rx.kick().map(drop)
    }

    /// A frame, if one is there; its buffers are posted again.
    fn receive(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Vec<u8>>> {
        let Some(mut used) = self.rx.take_used() else { return Ok(None) };
        let (mut bytes, mut left) = (Vec::new(), 1);
        while left > 0 {
            let pieces = self.posted.remove(&used.0).context("the device used a buffer that was not posted")?;
            let mut buffer = Vec::new();
            for (at, len) in &pieces {
                let mut piece = vec![0; *len as usize];
                memory.read_slice(&mut piece, GuestAddress(*at))?;
                buffer.extend(piece);
            }
            buffer.truncate(used.1 as usize);
            self.post(pieces)?;
            left -= 1;
            if bytes.is_empty() {
                left = u16::from_le_bytes([buffer[10], buffer[11]]) - 1;
            }
            bytes.extend(buffer);
            if left > 0 {
                used = self.rx.wait_used(PATIENCE)?;
            }
        }
        Ok(Some(bytes.split_off(12)))
    }
}

/// A buffer in memory from `at` on, in so many pieces: two meet where a page ends; of more, each starts in the midst of a
/// page and ends in the next.
fn pieces(at: u64, chain: usize) -> Pieces {
    if chain == 2 {
        return vec![(at + 3000, 1096), (at + PAGE, 1004)];
    }
    (0..chain as u64).map(|n| (at + n * PAGE + 4000, 2112 / chain as u32)).collect()
}

/// Sends back what comes, until it is told to stop.
fn echo(ns: &NetNs, stop: &AtomicBool) -> Result<()> {
    let socket = ns.run_in(|| UdpSocket::bind("10.77.0.1:7"))??;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut bytes = vec![0; 10_000];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..n], from)?;
        }
    }
    Ok(())
}

/// The memory on the other host.
struct Copy {
    bytes: Vec<u8>,
    marked: BTreeSet<u64>,
}

impl Copy {
    fn of(memory: &GuestMemoryMmap, size: u64) -> Result<Self> {
        let mut bytes = vec![0; size as usize];
        memory.read_slice(&mut bytes, GuestAddress(GUEST_BASE))?;
        Ok(Self { bytes, marked: BTreeSet::new() })
    }

    /// Copies the pages that are marked.
    fn catch_up(&mut self, memory: &GuestMemoryMmap, log: &DirtyLog) -> Result<()> {
        let pages = log.take();
        for page in &pages {
            let Some(at) = page.checked_sub(GUEST_BASE).map(|at| at as usize) else { bail!("{page:#x} is no memory") };
            let copy = self.bytes.get_mut(at..at + PAGE as usize).with_context(|| format!("{page:#x} is no memory"))?;
            memory.read_slice(copy, GuestAddress(*page))?;
        }
        self.marked.extend(pages);
        Ok(())
    }

    fn has(&self, memory: &GuestMemoryMmap, at: u64, len: u64) -> Result<()> {
        let mut bytes = vec![0; len as usize];
        memory.read_slice(&mut bytes, GuestAddress(at))?;
        let copy = &self.bytes[(at - GUEST_BASE) as usize..][..len as usize];
        if let Some(wrong) = bytes.iter().zip(copy).position(|(a, b)| a != b) {
            bail!("the copy lacks what was written at {:#x}", at + wrong as u64);
        }
        Ok(())
    }
}

fn pages(at: u64, len: u64) -> impl Iterator<Item = u64> {
    (at / PAGE..(at + len).div_ceil(PAGE)).map(|page| page * PAGE)
}

/// Migrates a running guest.
fn migrate(ns: &NetNs, vnicd: &Vnicd, pairs: usize, chain: usize, format: u64) -> Result<()> {
    let mut guest = Guest::start(ns, vnicd, pairs, chain, format)?;
    let (memory, size) = (guest.client.memory.map.clone(), guest.client.memory.size);
    // The second half of a file, where an offset is heeded.
    let log = DirtyLog::new(GUEST_BASE + size, if pairs == 1 { 0 } else { 2 * PAGE })?;
    guest.traffic()?;
    log.share(&guest.client)?;
    guest.traffic()?;
    ensure!(log.take().is_empty(), "pages are marked before that is asked for");

    // The features and the used rings, as QEMU starts it or the other way around. Then all of memory is copied, and again
    // what is marked.
    let log_used = |guest: &Guest, on| guest.queues().try_for_each(|queue| guest.client.set_addresses(queue, on));
    let features_first = pairs == 1;
    if !features_first {
        log_used(&guest, true)?;
    }
    guest.client.set_features(FEATURES | format | LOG_ALL)?;
    if features_first {
        log_used(&guest, true)?;
    }
    let mut copy = Copy::of(&memory, size)?;
    let copying = |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            copy.catch_up(&memory, &log)?;
            thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    };
    // Not a number that ends where the copy began.
    beside(copying, || (0..190).try_for_each(|_| guest.traffic()))?;
    // The guest stops, its rings with it; the rest is copied.
    let front = &guest.client.front;
    guest.queues().try_for_each(|queue| front.get_vring_base(queue.index).map(drop))?;
    copy.catch_up(&memory, &log)?;
    for (at, len) in guest.buffers.iter().flatten() {
        copy.has(&memory, *at, (*len).into()).context("a receive buffer")?;
    }
    for (at, len) in guest.queues().flat_map(Queue::device_written) {
        copy.has(&memory, at, len).context("a ring")?;
    }

    // Nothing is marked but what the device may write.
    let buffers = guest.buffers.iter().flatten();
    let mut allowed: BTreeSet<u64> = buffers.flat_map(|(at, len)| pages(*at, (*len).into())).collect();
    for queue in guest.queues() {
        let used = if queue.format().packed { 4 } else { 6 + 8 * u64::from(queue.size) };
        allowed.extend(pages(queue.layout.used, used));
        if queue.format().packed {
            allowed.extend(pages(queue.layout.desc, 16 * u64::from(queue.size)));
        }
    }
    let more: Vec<_> = copy.marked.difference(&allowed).map(|page| format!("{page:#x}")).collect();
    ensure!(more.is_empty(), "pages are marked that the device does not write: {more:?}");

    // The migration is given up: the guest goes on here, and nothing is marked any more.
    for pair in &guest.pairs {
        guest.client.start_queue(&pair.rx)?;
        guest.client.start_queue(&pair.tx)?;
    }
    if features_first {
        log_used(&guest, false)?;
    }
    guest.client.set_features(FEATURES | format)?;
    guest.traffic()?;
    log.take();
    guest.traffic()?;
    ensure!(log.take().is_empty(), "pages are marked after the migration was given up");
    Ok(())
}

fn migrate_with(pairs: usize, chain: usize, mode: &str) -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args([format!("--queue-pairs={pairs}"), format!("--mode={mode}")]).start()?;
    // There for the socket to bind to.
    ns.sh("ip addr replace 10.77.0.1/24 dev tap0")?;
    beside(
        |stop| echo(&ns, stop),
        || {
            let migrate =
                |(name, format)| migrate(&ns, &vnicd, pairs, chain, format).with_context(|| String::from(name));
            FORMATS.into_iter().try_for_each(migrate)
        },
    )
}

#[test]
fn a_copy_made_by_the_marks_has_what_the_device_wrote() -> Result<()> {
    // One that sleeps often writes often when it wants to be kicked, too.
    migrate_with(1, 2, "interrupt")
}

#[test]
fn four_pairs_mark_what_they_write() -> Result<()> {
    migrate_with(4, 2, "auto")
}

#[test]
fn every_piece_of_a_long_chain_is_marked() -> Result<()> {
    migrate_with(1, 16, "auto")?;
    migrate_with(4, 16, "auto")
}
