//! The virtio-user client: a testpmd that is the same whoever serves its rings.

use std::path::Path as FilePath;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::NetNs;
use guest_tests::testpmd::{Console, moved_by, total};

use super::cases::{Case, Path};
use super::peer::LIFETIME;
use crate::testpmd::{CLIENT_CPU, Memory, Testpmd};

/// Frames that go round in a loop, in rings that hold twice as many.
const IN_FLIGHT: u16 = 512;
/// So many packets are traffic.
const MANY: u64 = 10_000;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client whose ports are there; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Client {
    console: Console,
    path: Path,
    queues: u16,
}

impl Client {
    /// Connects to a socket. Port 0 is the virtio-user one; `others` are further devices.
    pub fn start(
        ns: &NetNs,
        dir: &FilePath,
        socket: &FilePath,
        case: &Case,
        memory: Memory,
        others: &[String],
    ) -> Result<Self> {
        let Case { path, ring, frame_len, queues, ring_size, burst } = *case;
        let device = format!(
            "net_virtio_user0,mac=02:00:00:00:00:77,path={},queues={queues},queue_size={ring_size},{}",
            socket.display(),
            ring.properties
        );
        let burst = if path == Path::Loopback { IN_FLIGHT.min(ring_size / 2) } else { burst };
        // Both rings of each pair full, and what is on its way.
        let mbufs = 16_384.max(u32::from(queues) * 2 * u32::from(ring_size) + 8192);
        let options = [
            format!("--rxq={queues}"),
            format!("--txq={queues}"),
            format!("--rxd={ring_size}"),
            format!("--txd={ring_size}"),
            format!("--burst={burst}"),
            format!("--txpkts={frame_len}"),
            format!("--total-num-mbufs={mbufs}"),
        ];
        // Packed rings are driven by vectors of 512 bits or not at all.
        let wide = ring.is_vectorized().then(|| "--force-max-simd-bitwidth=512".into());
        let testpmd = Testpmd {
            ns,
            dir,
            name: "client",
            cpu: CLIENT_CPU,
            memory,
            devices: [&[device], others].concat(),
            eal: wide.into_iter().collect(),
            options: options.into(),
            lifetime: LIFETIME,
        };
        let mut console = testpmd.start()?;
        let info = console.run("show port info 0")?;
        let has_port = info.contains("Driver name: net_virtio_user");
        ensure!(has_port, "no virtio-user port\n{}", console.process().tail());
        Ok(Self { console, path, queues })
    }

    /// Starts to send, to receive, or to turn round what it sent first.
    pub fn go(&mut self) -> Result<()> {
        let lines = match self.path {
            Path::GuestToBackend => ["set fwd txonly", "start"],
            Path::BackendToGuest => ["set fwd rxonly", "start"],
            Path::Loopback => ["set fwd io", "start tx_first 1"],
        };
        self.console.run_all(&lines)
    }

    /// Runs a command.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.console.run(line)
    }

    /// Packets that went through its rings, those that came back if they do.
    pub fn packets(&mut self) -> Result<u64> {
        let moved = total(&moved_by(&self.console.run("show port xstats 0")?, self.queues)?);
        Ok(if self.path == Path::GuestToBackend { moved.tx_packets } else { moved.rx_packets })
    }

    /// Waits until packets flow.
    pub fn wait_for_traffic(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.packets()? < MANY {
            ensure!(start.elapsed() < PATIENCE, "packets do not flow\n{}", self.console.process().tail());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Packets a second over a time, as this client counts.
    pub fn pps(&mut self, time: Duration) -> Result<f64> {
        let (start, before) = self.reading()?;
        thread::sleep(time);
        let (end, after) = self.reading()?;
        let packets = after.checked_sub(before).context("the client's count went back")?;
        Ok(packets as f64 / (end - start).as_secs_f64())
    }

    /// The count, and when it was read: in the middle of the command.
    fn reading(&mut self) -> Result<(Instant, u64)> {
        let asked = Instant::now();
        let packets = self.packets()?;
        Ok((asked + asked.elapsed() / 2, packets))
    }
}
