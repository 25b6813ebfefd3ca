//! A session with whatever a front end sends, against a NIC with test uplinks, over a socket as in the daemon.
//!
//! What must hold: no panic; the connection ends when the front end ends it, or else the fuzzer's own limit tells; then
//! no ring runs, no guest memory is mapped and no file descriptor is left over.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use vnicd::frontend::{Outcome, Server};
use vnicd::nic::{Nic, NicSetup, Placement};
use vnicd::offload::Offloads;
use vnicd::uplink::{DiscardTx, GenerateRx, Rx, Tx, loopback_pair};
use vnicd::record::Records;
use vnicd::worker::{Message as ToWorker, QueueId, mode_events};

use crate::guest::memfd;
use crate::message::{Body, Fd, MEMORY, Message, Region};

/// A front end and its guest.
#[derive(Arbitrary, Debug)]
pub struct Case {
    /// It begins as a good one does.
    prelude: Option<Prelude>,
    messages: Vec<Message>,
    /// What the guest wrote to its memory: 16 bytes at a sixteenth of an address.
    memory: Vec<(u16, [u8; 16])>,
}

/// What a good front end says first.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Prelude {
    features: u64,
    rings: u8,
    log_size: u8,
    base: u32,
    avail_idx: u8,
}

/// All protocol features that are offered to a front end that claims the device first.
const PROTOCOL_FEATURES: u64 = 0x1_823f;

/// Of every ring in the guest's memory: its parts, and where they stand in it.
const RING: u16 = 0x2000;
const AVAIL: u16 = 0x1000;
const USED: u16 = 0x1800;

impl Prelude {
    fn messages(self, offered: u64) -> Vec<Message> {
        // Protocol features and VERSION_1 always, or little would be reached.
        let features = offered & (self.features | 1 << 30 | 1 << 32);
        let mut messages = vec![
            Message::good(3, Body::Empty, vec![]),
            Message::good(16, Body::Number(PROTOCOL_FEATURES), vec![]),
            Message::good(2, Body::Number(features), vec![]),
            Message::good(5, Body::Regions(vec![Region(0, (MEMORY >> 12) as u8, 0)]), vec![Fd::Guest]),
        ];
        for ring in 0..self.rings % 5 {
            let at = u16::from(ring) * RING / 2;
            let number = u64::from(ring);
            messages.extend([
                Message::good(8, Body::State(ring, 1 << (self.log_size % 9)), vec![]),
                Message::good(9, Body::Addresses(ring, 0, [at, at + USED / 2, at + AVAIL / 2], 0), vec![]),
                Message::good(10, Body::State(ring, self.base), vec![]),
                Message::good(13, Body::Number(number), vec![Fd::Event(0)]),
                Message::good(12, Body::Number(number), vec![Fd::Event(1)]),
                Message::good(18, Body::State(ring, 1), vec![]),
            ]);
        }
        messages
    }

    /// What its guest's drivers have written: rings whose descriptors are buffers behind the rings.
    fn write_to(self, memory: &File) {
        let packed = self.features >> 34 & 1 != 0;
        for ring in 0..u64::from(self.rings % 5) {
            let at = ring * u64::from(RING);
            let device_writes = ring % 2 == 0;
            for n in 0..64u64 {
                let mut flags = if device_writes { 2u64 } else { 0 };
                if packed && n < u64::from(self.avail_idx) {
                    flags |= 1 << 7;
                }
                let rest = if packed { 1600 | n << 32 | flags << 48 } else { 1600 | flags << 32 };
                let desc = [(0xa000 + n * 0x400).to_le_bytes(), rest.to_le_bytes()].concat();
                memory.write_all_at(&desc, at + n * 16).unwrap();
                memory.write_all_at(&(n as u16).to_le_bytes(), at + u64::from(AVAIL) + 4 + n * 2).unwrap();
            }
            if !packed {
                let idx = u16::from(self.avail_idx).to_le_bytes();
                memory.write_all_at(&idx, at + u64::from(AVAIL) + 2).unwrap();
            }
        }
    }
}

fn loopback() -> (Tx, Rx) {
    let (tx, rx) = loopback_pair();
    (Tx::Wire(tx), Rx::Wire(rx))
}

/// The NIC that all cases meet: one pair that discards and generates, one that sends back.
fn nic() -> &'static Arc<Nic> {
    static NIC: OnceLock<Arc<Nic>> = OnceLock::new();
    NIC.get_or_init(|| {
        let nic = Nic::new(NicSetup {
            name: "fuzz".parse().unwrap(),
            uplinks: vec![(Tx::Discard(DiscardTx::new(true)), Rx::Generate(GenerateRx::new(100))), loopback()],
            switches: Vec::new(),
            uplink: "test uplinks".into(),
            interface: None,
            is_hosts: false,
            uplink_mac: None,
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: None,
            offloads: Offloads::ALL,
            max_queue_size: 1024,
            placement: Placement { cpus: Vec::new(), nodes: None },
            realtime: None,
            threads: Default::default(),
            workers: Default::default(),
            policy: Default::default(),
            guard: Default::default(),
            moderation: Default::default(),
            // Nobody listens.
            events: mode_events().unwrap().0,
            records: Records::in_memory().unwrap(),
            opener: Default::default(),
        });
        for pair in 0..nic.rings() / 2 {
            nic.start_worker(QueueId::pair(nic.name(), pair)).unwrap();
        }
        Arc::new(nic)
    })
}

/// Runs a case.
pub fn run(case: Case) {
    let nic = nic();
    let fds = open_fds();
    let memory = memfd(MEMORY);
    if let Some(prelude) = case.prelude {
        prelude.write_to(&memory);
    }
    for (at, bytes) in &case.memory {
        memory.write_all_at(bytes, u64::from(*at) * 2 % (MEMORY - 16)).unwrap();
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Server::new(nic.clone()).unwrap();
    assert_eq!(server.offer(theirs).unwrap(), Outcome::Served);
    let prelude = case.prelude.map(|prelude| prelude.messages(nic.offered())).unwrap_or_default();
    for message in prelude.iter().chain(&case.messages) {
        if !message.send(&ours, memory.as_fd()) {
            break;
        }
    }
    let _ = ours.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    match ours.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the connection does not end: {e}"),
    }
    drop((server, ours, memory));
    nothing_is_left(nic);
    // The fuzzer opens some of its own, but only between the cases.
    let left = open_fds();
    assert!(left.len() <= fds.len(), "{fds:?} were open, and now {left:?}");
}

fn nothing_is_left(nic: &Nic) {
    assert!(nic.front_end().is_none());
    for index in 0..nic.rings() {
        let id = QueueId::of_ring(nic.name(), index);
        let worker = nic.worker(id).expect("the worker was given up");
        let base = worker.ask(id, ToWorker::RingDown).unwrap();
        assert_eq!(base, None, "{id} still runs");
        let memory = worker.ask(id, |answer| ToWorker::MemoryTable(Arc::default(), answer)).unwrap();
        assert!(memory.is_empty(), "{id} still has guest memory");
    }
}

/// What the fds of this process stand for.
fn open_fds() -> Vec<PathBuf> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap_or_default()).collect()
}
