//! A driver that breaks its rings in every way is nobody else's affair: the other pair of its device and another device
//! carry every packet as it was, and each broken ring is counted and told of once, under its own name.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::desc::{INDIRECT, NEXT, WRITE};
use guest_tests::driver::nic::FORMATS;
use guest_tests::driver::target::{FEATURES, SIZE, STOPPED};
use guest_tests::driver::{Client, Desc, GUEST_BASE, Queue, is_signalled};
use guest_tests::lab::eventually;
use guest_tests::{Configured, NetNs};
use serde_json::{Value, json};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const PATIENCE: Duration = Duration::from_secs(10);
/// Two devices on uplinks that return what is sent.
const CONFIG: &str = "control = 'DIR/control'\n\n\
    [[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'loopback'\nqueue-pairs = 2\n\n\
    [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\nqueue-pairs = 1\n";
/// Bytes of the virtio-net header.
const HEADER_LEN: usize = 12;
/// Frames that are under way at a time.
const BURST: u64 = 8;
/// Bytes of a buffer.
const ROOM: u64 = 2048;
/// Behind the shared memory.
const END: u64 = GUEST_BASE + (16 << 20);
/// Pages of shared memory that no test looks into: for buffers, and for tables.
const SCRAP: u64 = GUEST_BASE + (15 << 20);
const TABLE: u64 = SCRAP + 4096;

/// A pair of rings on a loopback, and what goes round it.
struct Pair {
    memory: GuestMemoryMmap,
    rx: Queue,
    tx: Queue,
    /// Buffers to send from and to receive into.
    from: u64,
    into: u64,
    posted: HashMap<u16, u64>,
    /// What must come back.
    under_way: VecDeque<Vec<u8>>,
    sent: u32,
}

impl Pair {
    fn start(client: &mut Client, pair: usize) -> Result<Self> {
        let (rx, tx) = (client.running_queue(2 * pair, SIZE)?, client.running_queue(2 * pair + 1, SIZE)?);
        let [from, into] = [client.memory.allocate(BURST * ROOM), client.memory.allocate(BURST * ROOM)];
        let memory = client.memory.map.clone();
        let (posted, under_way) = (HashMap::new(), VecDeque::new());
        let mut pair = Self { memory, rx, tx, from, into, posted, under_way, sent: 0 };
        pair.post_all()?;
        Ok(pair)
    }

    fn post_all(&mut self) -> Result<()> {
        self.posted.clear();
        (0..BURST).try_for_each(|n| self.post(self.into + n * ROOM))
    }

    fn post(&mut self, at: u64) -> Result<()> {
        let id = self.rx.add(&[(at, ROOM as u32)], true).context("the receive ring is full")?;
        self.posted.insert(id, at);
        self.rx.kick().map(drop)
    }

    /// Sends one frame after the other, no two of which are the same.
    fn depart(&mut self, frames: u64) -> Result<()> {
        for n in 0..frames {
            self.sent += 1;
            let len = 60 + self.sent * 131 % 1400;
            let pattern = (0..len).map(|i| (i ^ i >> 8).wrapping_mul(self.sent + self.from as u32) as u8);
            let frame = [&self.sent.to_le_bytes()[..], &self.from.to_le_bytes(), &pattern.collect::<Vec<_>>()].concat();
            let at = self.from + n * ROOM;
            self.memory.write_slice(&[&[0; HEADER_LEN], &frame[..]].concat(), GuestAddress(at))?;
            self.tx.add(&[(at, (HEADER_LEN + frame.len()) as u32)], false).context("the transmit ring is full")?;
            // The uplink swaps the two addresses that open a frame.
            self.under_way.push_back([&frame[6..12], &frame[..6], &frame[12..]].concat());
        }
        self.tx.kick().map(drop)
    }

    /// The device is done with so many frames.
    fn are_sent(&mut self, frames: u64) -> Result<()> {
        (0..frames).try_for_each(|_| self.tx.wait_used(PATIENCE).map(drop)).context("a frame was not sent")
    }

    /// All that was sent comes back, byte by byte.
    fn come_back(&mut self) -> Result<()> {
        while let Some(expected) = self.under_way.pop_front() {
            let (id, len) = self.rx.wait_used(PATIENCE).context("a frame did not come back")?;
            let at = self.posted.remove(&id).context("the device used a buffer that was not posted")?;
            let mut got = vec![0; len as usize];
            self.memory.read_slice(&mut got, GuestAddress(at))?;
            ensure!(got.get(HEADER_LEN..) == Some(&expected), "another frame of {len} bytes came back");
            self.post(at)?;
        }
        Ok(())
    }

    fn round_trip(&mut self) -> Result<()> {
        self.depart(BURST)?;
        self.arrive()
    }

    fn arrive(&mut self) -> Result<()> {
        self.are_sent(BURST)?;
        self.come_back()
    }

    /// Starts a ring anew, as a driver reset does; a receive ring has no buffers then.
    fn restart(&mut self, client: &mut Client, is_rx: bool) -> Result<()> {
        let queue = if is_rx { &mut self.rx } else { &mut self.tx };
        client.front.get_vring_base(queue.index)?;
        queue.reset();
        client.start_queue(queue)
    }
}

/// What the log must say, and what breaks the ring; buffers of the ring's own direction have the flags given.
type Break = (&'static str, fn(&mut Queue, u16));

fn add(queue: &mut Queue, chain: &[Desc]) {
    queue.add_descs(chain).expect("the ring has room");
}

/// For both formats.
const BREAKS: [Break; 13] = [
    ("guest address 0xdead00000000 + ", |q, flags| add(q, &[Desc::new(0xdead_0000_0000, 64, flags)])),
    ("guest address 0x1010000 + ", |q, flags| add(q, &[Desc::new(END - 20, 64, flags)])),
    ("guest address 0xffffffffffffffe0 + ", |q, flags| add(q, &[Desc::new(u64::MAX - 31, 64, flags)])),
    ("guest address 0x1010000 + ", |q, flags| {
        add(q, &[Desc::new(SCRAP, 64, flags | NEXT), Desc::new(END, 64, flags)]);
    }),
    ("holds 11 bytes, fewer than the 12 of the header", |q, flags| add(q, &[Desc::new(SCRAP, 11, flags)])),
    ("holds 0 bytes, fewer than the 12 of the header", |q, flags| add(q, &[Desc::new(SCRAP, 0, flags)])),
    ("for the other direction", |q, flags| add(q, &[Desc::new(SCRAP, 64, flags ^ WRITE)])),
    ("for the other direction", |q, flags| {
        add(q, &[Desc::new(SCRAP, 64, flags | NEXT), Desc::new(SCRAP, 64, flags ^ WRITE)]);
    }),
    ("indirect table of 24 bytes", |q, _| add(q, &[Desc::new(TABLE, 24, INDIRECT)])),
    ("indirect table of 0 bytes", |q, _| add(q, &[Desc::new(TABLE, 0, INDIRECT)])),
    ("indirect table of 1040 bytes", |q, _| add(q, &[Desc::new(TABLE, 16 * (u32::from(SIZE) + 1), INDIRECT)])),
    ("indirect table that is not allowed", |q, flags| {
        add(q, &[Desc::new(TABLE, 16, INDIRECT | NEXT), Desc::new(SCRAP, 64, flags)]);
    }),
    ("guest address 0xdead00000000 + ", |q, flags| {
        q.write_table(TABLE, &[Desc::new(0xdead_0000_0000, 64, flags)]);
        add(q, &[Desc::new(TABLE, 16, INDIRECT)]);
    }),
];

const SPLIT_BREAKS: [Break; 5] = [
    ("the available index jumped", |q, _| {
        let jumped = q.split().avail_idx.wrapping_add(SIZE + 1);
        q.split().set_avail_idx(jumped);
    }),
    ("descriptor 999 in a table of 64", |q, _| q.split().offer(999)),
    ("descriptor 64 in a table of 64", |q, flags| {
        q.write_desc(5, Desc { next: SIZE, ..Desc::new(SCRAP, 64, flags | NEXT) });
        q.split().offer(5);
    }),
    ("a loop?", |q, flags| {
        q.write_desc(5, Desc { next: 5, ..Desc::new(SCRAP, 64, flags | NEXT) });
        q.split().offer(5);
    }),
    ("indirect table that is not allowed", |q, _| {
        q.write_table(TABLE, &[Desc::new(TABLE + 2048, 16, INDIRECT)]);
        add(q, &[Desc::new(TABLE, 16, INDIRECT)]);
    }),
];

const PACKED_BREAKS: [Break; 3] = [
    ("a loop?", |q, flags| add(q, &[Desc::new(SCRAP, 64, flags | NEXT); SIZE as usize])),
    ("indirect table that is not allowed", |q, flags| {
        add(q, &[Desc::new(SCRAP, 64, flags | NEXT), Desc::new(TABLE, 16, INDIRECT)]);
    }),
    // With the id of a buffer that no ring of this size has, offered outside of the driver's own account.
    ("for the other direction", |q, flags| {
        q.packed().offer(Desc { next: 0xffff, ..Desc::new(SCRAP, 64, flags ^ WRITE) })
    }),
];

/// How many rings were broken, by pair of each device.
fn rings_broken(status: &Value) -> Option<Value> {
    let of = |device: &Value| -> Option<Value> {
        Some(device["pairs"].as_array()?.iter().map(|pair| pair["counters"]["rings_broken"].clone()).collect())
    };
    status["devices"].as_array()?.iter().map(of).collect()
}

/// Breaks a ring of the hostile pair, and mends it; `broken` rings were before.
fn broken_beside(
    vnicd: &Configured,
    client: &mut Client,
    hostile: &mut Pair,
    neighbours: &mut [&mut Pair],
    is_rx: bool,
    broken: usize,
    (why, break_ring): Break,
) -> Result<()> {
    if is_rx {
        // The bad chain is the first that the device meets; the frame for it waits until the ring is mended.
        hostile.restart(client, is_rx)?;
    }
    neighbours.iter_mut().try_for_each(|pair| pair.depart(BURST))?;
    let ring = if is_rx { &mut hostile.rx } else { &mut hostile.tx };
    break_ring(ring, if is_rx { WRITE } else { 0 });
    ring.kick.write(1)?;
    if is_rx {
        hostile.depart(1)?;
        hostile.are_sent(1).context("beside the broken receive ring")?;
    }
    neighbours.iter_mut().try_for_each(|pair| pair.arrive()).context("while the ring was broken")?;
    let ring = if is_rx { &hostile.rx } else { &hostile.tx };
    ensure!(is_signalled(&ring.err, PATIENCE), "the err eventfd was not written");
    // More kicks change nothing.
    ring.kick.write(1)?;
    for _ in 0..4 {
        neighbours.iter_mut().try_for_each(|pair| pair.round_trip()).context("beside the broken ring")?;
    }

    let lines = || vnicd.process().lines().all().into_iter().filter(|line| line.contains(STOPPED)).collect::<Vec<_>>();
    eventually("a line for the broken ring", || Ok(lines().len() > broken))?;
    let name = if is_rx { "a/0/rx" } else { "a/0/tx" };
    let line = &lines()[broken];
    ensure!(line.contains(name) && line.contains(why), "neither {name} nor why: {line}");

    hostile.restart(client, is_rx)?;
    if is_rx {
        hostile.post_all()?;
    }
    hostile.round_trip().context("the mended ring")
}

#[test]
fn the_neighbours_of_a_hostile_driver_notice_nothing() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, CONFIG, &["a", "b"])?;
    let mut broken = 0;
    for (format_name, format) in FORMATS {
        let mut client_a = Client::start(&vnicd.path("a"), FEATURES | format)?;
        let mut client_b = Client::start(&vnicd.path("b"), FEATURES | format)?;
        let (mut hostile, mut beside) = (Pair::start(&mut client_a, 0)?, Pair::start(&mut client_a, 1)?);
        let mut other = Pair::start(&mut client_b, 0)?;
        hostile.round_trip()?;
        let own = if hostile.tx.format().packed { &PACKED_BREAKS[..] } else { &SPLIT_BREAKS };
        for is_rx in [false, true] {
            for each in BREAKS.iter().chain(own) {
                let neighbours = &mut [&mut beside, &mut other];
                broken_beside(&vnicd, &mut client_a, &mut hostile, neighbours, is_rx, broken, *each)
                    .with_context(|| format!("{format_name}, {}, {:?}", if is_rx { "rx" } else { "tx" }, each.0))?;
                broken += 1;
            }
        }
        let counted = rings_broken(&vnicd.status()?);
        ensure!(counted == Some(json!([[broken, 0], [0]])), "{format_name}: {broken} were broken: {counted:?}");
    }
    ensure!(vnicd.process().terminate()?.success());
    // All that it printed is read by now.
    let log = vnicd.process().lines().all();
    let stopped: Vec<_> = log.iter().filter(|line| line.contains(STOPPED)).collect();
    ensure!(stopped.len() == broken, "{} lines for {broken} broken rings", stopped.len());
    ensure!(stopped.iter().all(|line| line.contains("a/0/")), "another ring was stopped: {stopped:#?}");
    Ok(())
}
