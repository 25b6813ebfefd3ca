//! A daemon for testpmd, with what both of them count brought together.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{DataPath, Frames, Moved, Testpmd, TestpmdBuilder};
use crate::lab::eventually;
use crate::vnicd::binary;
use crate::{NetNs, Vnicd};

/// How many frames each queue shall have moved before traffic counts as traffic.
const MANY: u64 = 10_000;
/// How often a single frame shall have gone round.
const OFTEN: u64 = 100;
/// How long nothing must move before it counts as rest.
const QUIET: Duration = Duration::from_millis(150);

/// A daemon; one at a time, since testpmd never leaves its CPU alone.
#[derive(Debug)]
pub struct Rig {
    /// The daemon.
    pub vnicd: Vnicd,
    /// Its namespace.
    pub ns: NetNs,
    uplink: String,
    client: bool,
    options: Vec<String>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    /// A daemon that listens.
    pub fn new(uplink: &str) -> Result<Self> {
        Self::with(uplink, false, &[])
    }

    /// A daemon that connects, as soon as somebody listens.
    pub fn client(uplink: &str) -> Result<Self> {
        Self::with(uplink, true, &[])
    }

    /// A daemon that listens and has more options.
    pub fn with_options(uplink: &str, options: &[&str]) -> Result<Self> {
        Self::with(uplink, false, options)
    }

    fn with(uplink: &str, client: bool, options: &[&str]) -> Result<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let ns = NetNs::new()?;
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let dir = tempfile::tempdir()?;
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let vnicd = start(&ns, dir.path(), uplink, client, &options)?;
        Ok(Self { vnicd, ns, uplink: uplink.into(), client, options, dir, _alone: alone })
    }

    /// Starts another daemon in the place of one that has ended.
    pub fn restart(&mut self) -> Result<()> {
        self.vnicd = start(&self.ns, self.dir.path(), &self.uplink, self.client, &self.options)?;
        Ok(())
    }

    /// A testpmd on this daemon's socket.
    pub fn testpmd(&self) -> TestpmdBuilder {
        Testpmd::builder(self.vnicd.socket())
    }

    /// The daemon's account of its device.
    pub fn device(&self) -> Result<Value> {
        let vnicctl = binary()?.with_file_name("vnicctl");
        let output =
            Command::new(vnicctl).arg("--control").arg(control(self.dir.path())).args(["status", "--json"]).output()?;
        ensure!(output.status.success(), "vnicctl: {}", String::from_utf8_lossy(&output.stderr));
        let mut status: Value = serde_json::from_slice(&output.stdout)?;
        Ok(status["devices"][0].take())
    }

    /// What each of the first `queues` pairs has moved, as the driver would count it: sent frames are `tx`.
    pub fn moved(&self, queues: usize) -> Result<Vec<Moved>> {
        let device = self.device()?;
        let of_pair = |at: usize| {
            let counters = &device["pairs"][at]["counters"];
            let count =
                |name: &str| counters[name].as_u64().with_context(|| format!("no {name} of pair {at}: {device}"));
            Ok(Moved {
                rx_packets: count("rx_packets")?,
                rx_bytes: count("rx_bytes")?,
                tx_packets: count("tx_packets")?,
                tx_bytes: count("tx_bytes")?,
            })
        };
        (0..queues).map(of_pair).collect()
    }

    /// Fails unless the driver and the daemon have agreed on what this way needs, and the driver takes it.
    pub fn takes(&self, path: &DataPath, testpmd: &Testpmd) -> Result<()> {
        let device = self.device()?;
        let features = device["features"].as_str().context("no features were negotiated")?;
        for (feature, wanted) in path.features() {
            let not = if wanted { "not " } else { "" };
            ensure!(features.split(' ').any(|f| f == feature) == wanted, "{feature} was {not}negotiated: {features}");
        }
        let mut expected = [path.rx, path.tx];
        if testpmd.lacks_avx512() {
            eprintln!("this CPU has no AVX-512, DPDK uses a packed ring without it: {path:?}");
            expected = expected.map(|way| if way == "packed ring vectorized" { "packed ring standard" } else { way });
        }
        let taken = testpmd.data_path()?;
        ensure!(taken == expected, "the driver receives and sends by {taken:?}, not by {expected:?}");
        Ok(())
    }

    /// Lets frames of this length (as `set txpkts` takes it) go round until every queue has moved many of them; then
    /// takes all of them back, and compares what testpmd has sent, what it has got back and what the daemon has moved.
    /// Nothing may be on its way before.
    pub fn goes_round(&self, testpmd: &mut Testpmd, lengths: &str) -> Result<()> {
        self.round(testpmd, lengths, 32, MANY)
    }

    /// The same with a single frame in each queue.
    pub fn one_goes_round(&self, testpmd: &mut Testpmd, lengths: &str) -> Result<()> {
        self.round(testpmd, lengths, 1, OFTEN)
    }

    /// So many bursts of so many frames.
    fn round(&self, testpmd: &mut Testpmd, lengths: &str, burst: u32, times: u64) -> Result<()> {
        let before = testpmd.moved()?;
        let daemon_before = self.moved(before.len())?;
        let [burst, start] = [format!("set burst {burst}"), format!("start tx_first {burst}")];
        testpmd.run_all(&[&burst, &format!("set txpkts {lengths}"), "set fwd io", &start])?;
        // A driver with vector instructions receives nothing if less than eight frames are asked for.
        testpmd.run("set burst 32")?;
        each_moves_by(times, &before, || testpmd.moved(), |queue| queue.rx_packets)?;
        testpmd.run_all(&["stop", "set fwd rxonly", "start"])?;
        let mut moved = Vec::new();
        eventually("all comes back", || {
            moved = since(&before, &testpmd.moved()?);
            Ok(moved.iter().all(|queue| queue.rx_packets >= queue.tx_packets))
        })
        .with_context(|| format!("{moved:?}"))?;
        testpmd.run("stop")?;
        let daemon = since(&daemon_before, &self.moved(before.len())?);
        ensure!(moved == daemon, "testpmd has moved {moved:?}, vnicd {daemon:?}");
        let len = lengths.split(',').map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        for queue in moved {
            let Moved { rx_packets, rx_bytes, tx_packets, tx_bytes } = queue;
            ensure!((rx_packets, rx_bytes) == (tx_packets, tx_bytes), "not all has come back: {queue:?}");
            ensure!(tx_bytes == tx_packets * len, "not of {len} bytes each: {queue:?}");
        }
        Ok(())
    }

    /// Stops what testpmd forwards and takes what is still on its way, until nothing more comes.
    pub fn empties(&self, testpmd: &mut Testpmd) -> Result<()> {
        testpmd.run_all(&["stop", "set fwd rxonly", "start"])?;
        self.comes_to_rest(testpmd)?;
        testpmd.run("stop").map(drop)
    }

    /// Waits until neither side moves anything for a while, in which a busy machine lets each of them run.
    pub fn comes_to_rest(&self, testpmd: &mut Testpmd) -> Result<()> {
        let queues = testpmd.moved()?.len();
        eventually("nothing moves any more", || {
            let before = (testpmd.moved()?, self.moved(queues)?);
            thread::sleep(QUIET);
            Ok(before == (testpmd.moved()?, self.moved(queues)?))
        })
    }

    /// Sends frames with random bytes on every queue and has them come back, byte for byte and in order, with only
    /// their addresses swapped. Nothing may be on its way before.
    pub fn comes_back_intact(&self, testpmd: &mut Testpmd, max_len: usize) -> Result<()> {
        let before = testpmd.moved()?;
        let sent = random_frames(before.len(), max_len);
        testpmd.send(&sent)?;
        let came = testpmd.receive(&before, sent.iter().map(Vec::len).sum())?;
        for (queue, (sent, came)) in sent.iter().zip(&came).enumerate() {
            ensure!(sent.len() == came.len(), "queue {queue}: {} frames sent, {} came back", sent.len(), came.len());
            for (at, (sent, came)) in sent.iter().zip(came).enumerate() {
                let swapped = [&sent[6..12], &sent[..6], &sent[12..]].concat();
                ensure!(*came == swapped, "queue {queue}: frame {at} of {} bytes came back changed", sent.len());
            }
        }
        Ok(())
    }
}

/// Waits until `count` has grown by many in every queue.
pub fn each_moves(
    before: &[Moved],
    now: impl FnMut() -> Result<Vec<Moved>>,
    count: impl Fn(&Moved) -> u64,
) -> Result<()> {
    each_moves_by(MANY, before, now, count)
}

fn each_moves_by(
    least: u64,
    before: &[Moved],
    mut now: impl FnMut() -> Result<Vec<Moved>>,
    count: impl Fn(&Moved) -> u64,
) -> Result<()> {
    let mut last = Vec::new();
    eventually("every queue moves packets", || {
        last = now()?;
        Ok(before.iter().zip(&last).all(|(before, now)| count(now) - count(before) >= least))
    })
    .with_context(|| format!("before {before:?}, now {last:?}"))
}

/// What each queue has moved since `before`.
pub fn since(before: &[Moved], now: &[Moved]) -> Vec<Moved> {
    let difference = |(before, now): (&Moved, &Moved)| Moved {
        rx_packets: now.rx_packets - before.rx_packets,
        rx_bytes: now.rx_bytes - before.rx_bytes,
        tx_packets: now.tx_packets - before.tx_packets,
        tx_bytes: now.tx_bytes - before.tx_bytes,
    };
    before.iter().zip(now).map(difference).collect()
}

/// For each queue, frames of 60 to `max_len` bytes that no other queue has.
fn random_frames(queues: usize, max_len: usize) -> Frames {
    /// Descriptors that all frames together need if each has one for 2000 bytes: with one more a frame, fewer than the
    /// smallest ring holds. testpmd drops what the ring does not take.
    const DESCRIPTORS: usize = 200;
    // Xorshift (Marsaglia 2003), for other bytes in every frame.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut frame = || {
        let len = 60 + random() as usize % (max_len - 59);
        let mut frame: Vec<u8> = std::iter::repeat_with(|| random().to_le_bytes()).flatten().take(len).collect();
        // Two unicast addresses and an EtherType for experiments (IEEE 802).
        frame[0] &= 0xfe;
        frame[6] &= 0xfe;
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame
    };
    (0..queues).map(|_| (0..DESCRIPTORS / max_len.div_ceil(2000)).map(|_| frame()).collect()).collect()
}

fn control(dir: &Path) -> PathBuf {
    dir.join("control")
}

fn start(ns: &NetNs, dir: &Path, uplink: &str, client: bool, options: &[String]) -> Result<Vnicd> {
    let builder = Vnicd::builder(ns).uplink(uplink).socket_path(dir.join("socket")).args(options);
    let builder = builder.arg("--control").arg(control(dir));
    if client { builder.client().start() } else { builder.start() }
}
