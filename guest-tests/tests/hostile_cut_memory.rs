//! Memory that goes away under load: the file behind it is cut, so that what is left has the rings and not the packets.
//! The kernel meets the gap or the daemon itself. The ring breaks, and is named; another device of the same daemon loses
//! nothing; and the device works again for a front end that has all of its memory.
//!
//! What the guest sends, the kernel reads under a TAP and a macvtap, and says that it cannot. What the guest receives, it
//! writes there too, but only a macvtap says that it cannot: of a TAP's frame all is lost but the header, with which the
//! daemon meets the gap. Over AF_XDP the daemon copies both.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use guest_tests::driver::target::STOPPED;
use guest_tests::driver::{Client, Going, Numbered, NumberedPair, Posting, Queue, ScriptedNic, frames, is_signalled};
use guest_tests::lab::beside;
use guest_tests::{Configured, NetNs};
use vm_memory::{Bytes, GuestAddress};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
/// `VIRTIO_NET_F_GUEST_CSUM`: the kernel writes frames straight into the guest's buffers.
const GUEST_CSUM: u64 = 1 << 1;
const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 256;
const POSTING: Posting = Posting { count: 64, len: 2048 };
/// Bytes that are left of the file.
const LEFT: u64 = 8 << 20;
/// Chains that are under way in each ring.
const CHAINS: u64 = 64;
/// Bytes of the virtio-net header, and with those of a datagram.
const HEADER: u32 = 12;
const HEADERS: u32 = HEADER + 42;
/// What makes a load: frames each way.
const LOAD: u64 = 500;

/// Whose packets lie in the part that goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gone {
    Sent,
    Received,
    Both,
}

/// Who meets the gap in memory. The kernel breaks one ring; if it is the daemon, both are stopped.
#[derive(Clone, Copy, Debug)]
struct Meets {
    /// The kernel, where it reads what the guest sends.
    kernel_reads: bool,
    /// The kernel, where it writes what the guest receives.
    kernel_writes: bool,
}

impl Meets {
    /// Whether the transmit ring breaks, and whether the receive ring does.
    fn broken(self, gone: Gone) -> (bool, bool) {
        (gone != Gone::Received || !self.kernel_writes, gone != Gone::Sent || !self.kernel_reads)
    }
}

/// Frames of one way, each in two pieces. They are never looked into: they may have gone.
struct Way {
    queue: Queue,
    is_rx: bool,
    free: Vec<[(u64, u32); 2]>,
    offered: HashMap<u16, [(u64, u32); 2]>,
    moved: u64,
}

impl Way {
    /// Offers all chains that the device does not have.
    fn turn(&mut self) -> Result<()> {
        while let Some((id, _)) = self.queue.take_used() {
            self.free.push(self.offered.remove(&id).context("a chain came back that was not offered")?);
            self.moved += 1;
        }
        while let Some(chain) = self.free.pop() {
            let id = self.queue.add(&chain, self.is_rx).context("the ring is full")?;
            self.offered.insert(id, chain);
        }
        self.queue.kick().map(drop)
    }
}

/// A driver that keeps both rings busy.
struct Driver {
    client: Client,
    tx: Way,
    rx: Way,
    host: UdpSocket,
}

impl Driver {
    /// With those packets in the part that goes away, or all but their virtio-net headers if the kernel is to meet it.
    fn start(ns: &NetNs, socket: &Path, features: u64, gone: Gone, meets: Meets) -> Result<Self> {
        let none = Posting { count: 0, len: 0 };
        let mut nic = nic(ns, socket, features, none)?;
        let frame = [&[0; HEADER as usize][..], &nic.frame(&[7; 1000])?].concat();
        let host = nic.host().try_clone()?;
        let (first, rest) = frame.split_at(HEADERS as usize);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for _ in 0..CHAINS {
            let mut page = |is_gone| {
                let whole = nic.client.memory.allocate(4096);
                if is_gone { whole + LEFT } else { whole }
            };
            let [head, body] = [page(false), page(gone != Gone::Received)];
            let into_body = page(gone != Gone::Sent);
            let into_head = page(gone != Gone::Sent && !meets.kernel_writes);
            let map = &nic.client.memory.map;
            map.write_slice(first, GuestAddress(head))?;
            map.write_slice(rest, GuestAddress(body))?;
            sent.push([(head, HEADERS), (body, rest.len() as u32)]);
            received.push([(into_head, HEADER), (into_body, 2036)]);
        }
        let ScriptedNic { client, rx, tx, .. } = nic;
        let way = |queue, is_rx, free| Way { queue, is_rx, free, offered: HashMap::new(), moved: 0 };
        Ok(Self { client, tx: way(tx, false, sent), rx: way(rx, true, received), host })
    }

    /// Goes on until it is enough.
    fn work_until(&mut self, what: &str, is_enough: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !is_enough(self)? {
            ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            for _ in 0..100 {
                self.tx.turn()?;
                self.rx.turn()?;
                thread::yield_now();
            }
        }
        Ok(())
    }
}

fn nic(ns: &NetNs, socket: &Path, features: u64, posting: Posting) -> Result<ScriptedNic> {
    let mut client = Client::start(socket, features)?;
    let (rx, tx) = (client.running_queue(0, SIZE)?, client.running_queue(1, SIZE)?);
    ScriptedNic::with_queues(ns, client, rx, tx, features, posting)
}

/// Frames cross both ways. What is left of the flood may come first.
fn works(nic: &mut ScriptedNic) -> Result<()> {
    const LAST: &[u8] = b"the last of them";
    nic.host_sends(LAST)?;
    while frames::udp_payload(&nic.receive()?.0).is_none_or(|(_, payload)| payload != LAST) {
        nic.post_fresh(POSTING.len)?;
    }
    for n in 0..40u8 {
        nic.send(&[n; 700], 2)?;
        nic.exchange(&[n; 700])?;
        nic.post_fresh(POSTING.len)?;
    }
    Ok(())
}

/// Sends datagrams to the guest until it is told to stop; there are more of them than it takes.
fn flood(host: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    // Those that nobody takes any more are not waited for.
    host.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..16 {
            let _ = host.send_to(&[9; 900], "10.77.0.2:9000");
        }
        thread::yield_now();
    }
    Ok(())
}

/// A daemon with two devices: `a`, whose memory goes, and `b`.
struct Rig {
    ns: NetNs,
    vnicd: Configured,
    /// What the driver of `a` acknowledges.
    features: u64,
    meets: Meets,
}

impl Rig {
    fn new(ns: NetNs, uplink: &str, features: u64, meets: Meets) -> Result<Self> {
        // Packets that are not to be joined are not looked into.
        let file = format!(
            "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = '{uplink}'\nqueue-pairs = 1\nno-coalesce = true\n\n\
             [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\nqueue-pairs = 1\n"
        );
        let vnicd = Configured::start(&ns, &file, &["a", "b"])?;
        Ok(Self { ns, vnicd, features, meets })
    }

    /// Lines of broken rings.
    fn stopped(&self) -> Vec<String> {
        self.vnicd.process().lines().all().into_iter().filter(|line| line.contains(STOPPED)).collect()
    }

    /// Cuts the memory of `a` while frames move on both devices.
    fn cut(&self, format: u64, gone: Gone, neighbour: &mut NumberedPair) -> Result<()> {
        let mut driver = Driver::start(&self.ns, &self.vnicd.path("a"), self.features | format, gone, self.meets)?;
        let (tx_breaks, rx_breaks) = self.meets.broken(gone);
        let broken: Vec<_> = [("a/0/tx", tx_breaks), ("a/0/rx", rx_breaks)].into_iter().filter(|(_, is)| *is).collect();
        let (host, going, before) = (driver.host.try_clone()?, Going::default(), self.stopped().len());
        let beside_it = || going.frames.load(Ordering::Relaxed);
        let under_load = || {
            driver.work_until("a load", |driver| Ok(driver.tx.moved.min(driver.rx.moved).min(beside_it()) > LOAD))?;
            driver.client.memory.file.set_len(LEFT)?;
            driver.work_until("the rings break", |_| Ok(self.stopped().len() >= before + broken.len()))?;
            for (way, breaks) in [(&driver.tx, tx_breaks), (&driver.rx, rx_breaks)] {
                ensure!(!breaks || is_signalled(&way.queue.err, PATIENCE), "the err eventfd was not written");
            }
            // What is whole goes on, and the neighbour does.
            let goals = (driver.tx.moved + LOAD, driver.rx.moved + LOAD, beside_it() + LOAD);
            driver.work_until("what is whole goes on", |driver| {
                let (tx, rx) = (tx_breaks || driver.tx.moved > goals.0, rx_breaks || driver.rx.moved > goals.1);
                Ok(tx && rx && beside_it() > goals.2)
            })
        };
        let flooded = || beside(|stop| flood(&host, stop), under_load);
        beside(|stop| neighbour.keep_going(CHAINS, &going, stop), flooded)?;
        neighbour.exchange(1, u64::MAX, PATIENCE).context("the other device")?;

        let lines = self.stopped().split_off(before);
        ensure!(lines.len() == broken.len(), "{} rings were to break: {lines:#?}", broken.len());
        // What is left of a ring's own memory, once the daemon has met the gap, may break it before the reason does.
        ensure!(lines.iter().any(|line| line.contains("truncated")), "no word of the memory: {lines:#?}");
        for (name, _) in broken {
            ensure!(lines.iter().any(|line| line.contains(name)), "no word of {name}: {lines:#?}");
        }
        drop(driver);
        works(&mut nic(&self.ns, &self.vnicd.path("a"), self.features | format, POSTING)?)
    }

    fn cut_again_and_again(&self) -> Result<()> {
        let mut neighbour = Numbered::start(&self.vnicd.path("b"), FEATURES, 1, SIZE)?;
        for (name, format) in FORMATS {
            for gone in [Gone::Sent, Gone::Received, Gone::Both] {
                self.cut(format, gone, &mut neighbour.pairs[0]).with_context(|| format!("{name}, {gone:?}"))?;
            }
        }
        let NumberedPair { lost, repeated, .. } = &neighbour.pairs[0];
        ensure!((*lost, *repeated) == (0, 0), "the other device lost {lost} and repeated {repeated}");
        ensure!(self.vnicd.process().terminate()?.success(), "{}", self.vnicd.process().tail());
        Ok(())
    }
}

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// A namespace with a pair: `up0` for the daemon, and `tap0`, where the scripted NIC has its host.
fn namespace_with_a_pair() -> Result<NetNs> {
    let ns = namespace()?;
    ns.sh("ip link add up0 type veth peer name tap0 && ethtool -K tap0 tx off")?;
    ns.sh("ip link set tap0 up && ip link set up0 up")?;
    Ok(ns)
}

#[test]
fn memory_is_cut_under_a_tap() -> Result<()> {
    let meets = Meets { kernel_reads: true, kernel_writes: false };
    Rig::new(namespace()?, "tap=tap0", FEATURES | GUEST_CSUM, meets)?.cut_again_and_again()
}

#[test]
fn memory_is_cut_under_a_macvtap() -> Result<()> {
    let ns = namespace_with_a_pair()?;
    ns.sh("ip link add link up0 name mv0 address 02:00:00:00:00:77 type macvtap mode bridge")?;
    let meets = Meets { kernel_reads: true, kernel_writes: true };
    Rig::new(ns, "macvtap=mv0", FEATURES | GUEST_CSUM, meets)?.cut_again_and_again()
}

#[test]
fn memory_is_cut_under_af_xdp() -> Result<()> {
    let meets = Meets { kernel_reads: false, kernel_writes: false };
    Rig::new(namespace_with_a_pair()?, "af-xdp=up0", FEATURES, meets)?.cut_again_and_again()
}
