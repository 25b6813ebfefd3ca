//! Daemons that read a configuration file, with one device and with two.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Posting, Queue, ScriptedNic};
use guest_tests::{Configured, NetNs};
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
/// For experiments (IEEE 802): nobody else sends it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// A driver on a device whose other end is a bridge.
struct Driver {
    client: Client,
    rx: Queue,
    tx: Queue,
    buffer: u64,
}

impl Driver {
    fn start(socket: &Path) -> Result<Self> {
        let mut client = Client::start(socket, FEATURES)?;
        let (mut rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        for _ in 0..128 {
            rx.add(&[(client.memory.allocate(2048), 2048)], true).context("the ring is full")?;
        }
        rx.kick()?;
        let buffer = client.memory.allocate(4096);
        Ok(Self { client, rx, tx, buffer })
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.client.memory.map.write_slice(&[&[0; 12], frame].concat(), GuestAddress(self.buffer))?;
        self.tx.add(&[(self.buffer, 12 + frame.len() as u32)], false).context("the ring is full")?;
        self.tx.kick()?;
        self.tx.wait_used(PATIENCE).map(drop)
    }

    /// The next frame of the other guest; the host's own, such as IGMP reports, are none of its.
    fn receive(&mut self) -> Result<Vec<u8>> {
        loop {
            let (head, len) = self.rx.wait_used(PATIENCE)?;
            let memory = &self.client.memory.map;
            let mut address = [0; 8];
            memory.read_slice(&mut address, GuestAddress(self.rx.layout.desc + u64::from(head) * 16))?;
            let mut bytes = vec![0; len as usize];
            memory.read_slice(&mut bytes, GuestAddress(u64::from_le_bytes(address)))?;
            if bytes.get(24..26) == Some(&ETHERTYPE[..]) {
                return Ok(bytes.split_off(12));
            }
        }
    }
}

#[test]
fn one_device() -> Result<()> {
    let ns = namespace()?;
    let file = "control = 'DIR/control'\nlog-format = 'json'\n\n[[device]]\nname = 'vm1'\nsocket-path = 'DIR/vm1'\n\
                socket-mode = '600'\nuplink = 'tap=tap0'\nqueue-pairs = 2\nqueue-size = 512\nmtu = 2000\n";
    let vnicd = Configured::start(&ns, file, &["vm1"])?;
    ensure!(ns.sh("cat /sys/class/net/tap0/mtu")?.trim() == "2000");
    let mut client = Client::start(&vnicd.path("vm1"), FEATURES)?;
    let (rx, tx) = (client.running_queue(0, 512)?, client.running_queue(1, 512)?);
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in")?;
    let status = vnicd.status()?;
    let device = &status["devices"][0];
    ensure!(device["name"] == "vm1" && device["queue_pairs"] == 2 && device["pairs"][0]["id"] == "vm1/0", "{status}");
    ensure!(vnicd.process().lines().contains(r#""queue":"vm1/0/rx""#), "the log does not name the ring of vm1");
    ensure!(vnicd.process().terminate()?.success());
    let left = fs::read_dir(vnicd.dir())?.count();
    ensure!(left == 1, "{left} files are left, the configuration among them");
    Ok(())
}

/// Two guests on one bridge, and neither disturbs the other when it goes.
#[test]
fn two_devices() -> Result<()> {
    let ns = namespace()?;
    ns.sh("ip link add br0 type bridge && ip link set br0 up")?;
    let file = "control = 'DIR/control'\n\n\
                [[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'tap=tapa,bridge=br0'\nqueue-pairs = 2\n\n\
                [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'tap=tapb,bridge=br0'\nqueue-pairs = 1\n";
    let vnicd = Configured::start(&ns, file, &["a", "b"])?;
    let mut a = Driver::start(&vnicd.path("a"))?;
    for round in 0..3 {
        let mut b = Driver::start(&vnicd.path("b"))?;
        for n in 0..20u8 {
            // The bridge learns on the way.
            let frame = |dst: u8, src: u8| {
                let addresses = [[2, 0, 0, 0, 0, dst], [2, 0, 0, 0, 0, src]].concat();
                [&addresses, &ETHERTYPE[..], &vec![n; 60 + usize::from(n) * 50]].concat()
            };
            a.send(&frame(0xb, 0xa))?;
            ensure!(b.receive()? == frame(0xb, 0xa), "another frame came to b");
            b.send(&frame(0xa, 0xb))?;
            ensure!(a.receive()? == frame(0xa, 0xb), "another frame came to a");
        }
        let status = vnicd.status()?;
        let sent = |at: usize| status["devices"][at]["pairs"][0]["counters"]["tx_packets"].as_u64();
        ensure!(sent(0) == Some(20 * (round + 1)) && sent(0) == sent(1), "{status}");
    }
    // While the first one is still connected.
    let second = UnixStream::connect(vnicd.path("a"))?;
    vnicd.process().wait_for_line("turned away", PATIENCE)?;
    drop(second);
    ensure!(vnicd.process().terminate()?.success());
    a.client.wait_closed()?;
    ensure!(fs::read_dir(vnicd.dir())?.count() == 1, "sockets are left");
    ensure!(ns.sh("ls /sys/class/net")? == "br0\nlo\n", "TAPs are left");
    Ok(())
}
