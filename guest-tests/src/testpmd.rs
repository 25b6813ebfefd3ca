//! DPDK's testpmd with a virtio-user port: a front end without a virtual machine, and the driver that uses its rings.
//!
//! Port 0 is the virtio-user port. Port 1 reads and writes capture files, one of each a queue: forwarding between the
//! two sends given frames into the rings and keeps what comes out of them. A test drives the command line; each command
//! is waited for.
//!
//! No huge pages are needed: with `--no-huge`, DPDK's memory is one memfd, which the back end can map. Nothing is left
//! behind: DPDK's runtime directory is a temporary one.

mod console;
mod moved;
mod path;
mod pcap;
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity};
use tempfile::TempDir;

use crate::lab::eventually;
use crate::process::LIFETIME;

pub use console::Console;
pub use moved::{Moved, moved_by, total};
pub use path::DataPath;
pub use pcap::write as write_capture;
pub use rig::{Rig, each_moves, since};

/// Packet buffers for each entry of a pair of rings: one to receive into, and four for a long frame to be sent.
const MBUFS_PER_ENTRY: u32 = 5;
/// Packet buffers for what forwarding holds.
const MBUFS: u32 = 8192;
/// The memory of DPDK, of which the packet buffers of eight pairs of large rings take half.
const MEMORY_MIB: u32 = 256;

/// Frames by queue.
pub type Frames = Vec<Vec<Vec<u8>>>;

/// How to start testpmd; see [`Testpmd::builder`].
#[derive(Clone, Debug)]
pub struct TestpmdBuilder {
    socket: PathBuf,
    queues: u16,
    device: String,
    rx_offloads: &'static [&'static str],
    ring_size: u16,
    server: bool,
    lifetime: Duration,
}

/// A running testpmd that forwards nothing yet; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Testpmd {
    console: Console,
    queues: u16,
    dir: TempDir,
}

impl TestpmdBuilder {
    /// So many queue pairs.
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    /// Entries of each ring, 256 unless said.
    pub fn ring_size(mut self, entries: u16) -> Self {
        self.ring_size = entries;
        self
    }

    /// Adds properties of the virtio-user device, such as `mrg_rxbuf=0,vectorized=1`.
    pub fn device(mut self, properties: &str) -> Self {
        self.device.push(',');
        self.device.push_str(properties);
        self
    }

    /// Makes the driver take this way; what it takes is another matter, see [`Rig::takes`].
    pub fn path(mut self, path: &DataPath) -> Self {
        self.rx_offloads = path.rx_offloads;
        self.ring_size(path.ring_size).device(path.device)
    }

    /// Listens at the socket path instead of connecting to it. Starting waits for the back end then.
    pub fn server(mut self) -> Self {
        self.server = true;
        self.device("server=1")
    }

    /// How long it may run at most.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Starts it and waits for its prompt: both ports are started, nothing is forwarded.
    pub fn start(&self) -> Result<Testpmd> {
        if self.server && self.socket.exists() {
            // One that was killed has left its socket, which DPDK does not replace.
            fs::remove_file(&self.socket)?;
        }
        let dir = tempfile::Builder::new().prefix("testpmd-").tempdir()?;
        let queues = self.queues;
        let mut device = format!("net_virtio_user0,mac=02:00:00:00:00:77,path={}", self.socket.display());
        device.push_str(&format!(",queues={queues},queue_size={}{}", self.ring_size, self.device));
        let mut capture = String::from("net_pcap0");
        for queue in 0..queues {
            let [from, to] = ["in", "out"].map(|name| capture_file(dir.path(), name, queue));
            pcap::write(&from, &[])?;
            capture.push_str(&format!(",rx_pcap={},tx_pcap={}", from.display(), to.display()));
        }
        // Two threads, one to forward and one for commands, on any CPU that this program may use.
        let allowed = sched_getaffinity(None)?;
        let cpus: Vec<String> = (0..CpuSet::MAX_CPU).filter(|c| allowed.is_set(*c)).map(|c| c.to_string()).collect();
        let lcores = format!("0@({0}),1@({0})", cpus.join(","));

        let mut command = Console::begin(Command::new("stdbuf"));
        command.args(["--lcores", &lcores, "--main-lcore=0", "--no-pci", "--no-telemetry"]);
        command.args(["--no-huge", "--no-shconf", "-m", &MEMORY_MIB.to_string()]);
        // The driver says which way it takes; AVX-512 is not used unless that is asked for.
        command.args(["--log-level=pmd.net.virtio.*:info", "--force-max-simd-bitwidth=512"]);
        command.arg("--file-prefix").arg(dir.path().file_name().context("a directory without a name")?);
        command.args(["--vdev", &device, "--vdev", &capture, "--", "--interactive", "--nb-cores=1", "--no-flush-rx"]);
        let mbufs = MBUFS + MBUFS_PER_ENTRY * u32::from(queues) * u32::from(self.ring_size);
        command.args([format!("--rxq={queues}"), format!("--txq={queues}"), format!("--total-num-mbufs={mbufs}")]);
        command.args([format!("--rxd={}", self.ring_size), format!("--txd={}", self.ring_size)]);
        command.arg("--disable-device-start");
        command.env("RUNTIME_DIRECTORY", dir.path());
        let mut testpmd = Testpmd { console: Console::spawn(command, self.lifetime)?, queues, dir };
        // Without it, testpmd goes on with the other port.
        let info = testpmd.run("show port info 0")?;
        let driver = "Driver name: net_virtio_user";
        ensure!(info.contains(driver), "no virtio-user port\n{}", testpmd.console.process().tail());
        // The other port could not do them, as arguments would have it.
        for offload in self.rx_offloads {
            testpmd.run(&format!("port config 0 rx_offload {offload} on"))?;
        }
        testpmd.run_all(&["port start all", "set portlist 0"])?;
        Ok(testpmd)
    }
}

impl Testpmd {
    /// One queue pair on a back end that listens at `socket`.
    pub fn builder(socket: &Path) -> TestpmdBuilder {
        let device = String::new();
        TestpmdBuilder {
            socket: socket.into(),
            queues: 1,
            device,
            rx_offloads: &[],
            ring_size: 256,
            server: false,
            lifetime: LIFETIME,
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.console.process().pid()
    }

    /// Runs a command and returns what it printed to standard output.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.console.run(line)
    }

    /// Runs several commands.
    pub fn run_all(&mut self, lines: &[&str]) -> Result<()> {
        self.console.run_all(lines)
    }

    /// What each queue of port 0 has moved so far.
    pub fn moved(&mut self) -> Result<Vec<Moved>> {
        moved_by(&self.run("show port xstats 0")?, self.queues)
    }

    /// How the driver says that it receives and sends, since it was configured last.
    pub fn data_path(&self) -> Result<[String; 2]> {
        let way = |direction: &str| {
            let end = format!(" {direction} path on port 0");
            let printed = || {
                let log = self.console.process().lines().all();
                log.iter()
                    .rev()
                    .find_map(|line| line.split_once("virtio: using ")?.1.strip_suffix(&end).map(String::from))
            };
            // It stands on the other stream than answers to commands, and may be read later.
            eventually(&format!("testpmd tells its {direction} path"), || Ok(printed().is_some()))
                .with_context(|| self.console.process().tail())?;
            printed().context("it was there")
        };
        Ok([way("Rx")?, way("Tx")?])
    }

    /// Whether the driver would have used vector instructions on a packed ring, and cannot.
    pub fn lacks_avx512(&self) -> bool {
        self.console.process().lines().contains("disabled packed ring vectorized path for requirements not met")
    }

    /// Whether port 0 sees its link up.
    pub fn link_is_up(&mut self) -> Result<bool> {
        let info = self.run("show port info 0")?;
        match info.lines().find_map(|line| line.strip_prefix("Link status: ")) {
            Some("up") => Ok(true),
            Some("down") => Ok(false),
            _ => bail!("no link status in: {info}"),
        }
    }

    /// Sends the frames of each list on its queue, and keeps from now on what comes.
    pub fn send(&mut self, frames: &[Vec<Vec<u8>>]) -> Result<()> {
        ensure!(frames.len() == usize::from(self.queues), "frames for {} queues", frames.len());
        for (queue, frames) in (0..).zip(frames) {
            pcap::write(&capture_file(self.dir.path(), "in", queue), frames)?;
        }
        self.run_all(&["port stop 1", "port start 1", "set portlist 0,1", "set fwd io", "start"])
    }

    /// Waits until `count` frames in all have come since `before`; ends what [`Testpmd::send`] began.
    pub fn receive(&mut self, before: &[Moved], count: usize) -> Result<Frames> {
        let before = total(before).rx_packets;
        eventually(&format!("{count} frames"), || Ok(total(&self.moved()?).rx_packets - before >= count as u64))?;
        // A stopped capture port has written its files.
        self.run_all(&["stop", "port stop 1"])?;
        let mut came = Frames::new();
        for queue in 0..self.queues {
            came.push(pcap::read(&capture_file(self.dir.path(), "out", queue))?);
            pcap::write(&capture_file(self.dir.path(), "in", queue), &[])?;
        }
        self.run_all(&["port start 1", "set portlist 0"])?;
        Ok(came)
    }

    /// Ends it in order.
    pub fn quit(self) -> Result<()> {
        self.console.quit()
    }

    /// SIGKILL; how it ended.
    pub fn kill(self) -> Result<ExitStatus> {
        self.console.kill()
    }
}

fn capture_file(dir: &Path, name: &str, queue: u16) -> PathBuf {
    dir.join(format!("{name}{queue}.pcap"))
}
