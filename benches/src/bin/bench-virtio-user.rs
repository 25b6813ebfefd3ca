//! DPDK's testpmd as the driver of a virtio-user port, without a VM, sending 64-byte packets into a TAP: through vnicd,
//! and through testpmd's own net_vhost and net_tap, in turn. `make bench-virtio-user` runs it.
//!
//! What counts is what the TAP's interface counted: packets that the kernel has.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::machine;
use benches::report::{Better, Report};
use benches::supervise::supervised;
use benches::testpmd::{BACK_END_CPU, CLIENT_CPU, Memory, Testpmd, wait_for};
use clap::Parser;
use guest_tests::{NetNs, Vnicd};

/// Compare vnicd with testpmd's net_vhost and net_tap, packets of 64 bytes from virtio-user into a TAP.
#[derive(Debug, Parser)]
struct Options {
    /// How many pairs of runs
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Where the table, the JSON file and the plot are written [default: bench-virtio-user in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const NAME: &str = "bench-virtio-user";
const LIFETIME: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_secs(1);

/// What stands between the driver's rings and the TAP.
#[derive(Clone, Copy)]
enum Peer {
    Vnicd,
    Testpmd,
}

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    let mut report = Report {
        title: "virtio-user, 64-byte packets into a TAP".into(),
        subjects: ["vnicd".into(), "net_vhost to net_tap".into()],
        conditions: machine::conditions()?,
        ..Report::default()
    };
    report.conditions.push(("testpmd's memory".into(), Memory::available().describe()));
    let start = Instant::now();
    for pair in 1..=options.pairs {
        for (subject, peer) in [Peer::Vnicd, Peer::Testpmd].into_iter().enumerate() {
            let mpps = measure(peer, options.seconds)?;
            println!(
                "[{:>4.0} s] pair {pair} of {}: {}: {mpps:.3} Mpps",
                start.elapsed().as_secs_f64(),
                options.pairs,
                report.subjects[subject]
            );
            report.add(subject, "64-byte packets into a TAP", "Mpps", Better::Higher, mpps);
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save(&output, NAME)?;
    println!("\n{}", report.table());
    Ok(())
}

fn measure(peer: Peer, seconds: u64) -> Result<f64> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vhost.sock");
    let testpmd = |name, cpu, devices: &[String], mode: &str| {
        let options = ["--total-num-mbufs=16384", "--txd=1024", "--rxd=1024"].map(Into::into).into();
        let (memory, devices, eal) = (Memory::available(), devices.into(), Vec::new());
        let mut console =
            Testpmd { ns: &ns, dir: dir.path(), name, cpu, memory, devices, eal, options, lifetime: LIFETIME }
                .start()?;
        console.run_all(&[&format!("set fwd {mode}"), "start"])?;
        anyhow::Ok(console)
    };
    let (_vnicd, _testpmd) = match peer {
        Peer::Vnicd => {
            let cpu = BACK_END_CPU.to_string();
            let vnicd = Vnicd::builder(&ns).socket_path(&socket).args(["--queue-pairs", "1", "--cpus", &cpu]);
            (Some(vnicd.lifetime(LIFETIME).start()?), None)
        }
        Peer::Testpmd => {
            let devices = [format!("net_vhost0,iface={},queues=1", socket.display()), "net_tap0,iface=tap0".into()];
            let testpmd = testpmd("back-end", BACK_END_CPU, &devices, "io")?;
            wait_for(&socket)?;
            (None, Some(testpmd))
        }
    };
    let device = format!("net_virtio_user0,mac=02:00:00:00:00:77,path={},queues=1,queue_size=1024", socket.display());
    let _client = testpmd("client", CLIENT_CPU, &[device], "txonly")?;
    let begun = Instant::now();
    while ns.counters("tap0")?.rx_packets == 0 {
        ensure!(begun.elapsed() < PATIENCE, "no packet reached the TAP");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), ns.counters("tap0")?.rx_packets);
    thread::sleep(Duration::from_secs(seconds));
    let packets = ns.counters("tap0")?.rx_packets - before;
    Ok(packets as f64 / start.elapsed().as_secs_f64() / 1e6)
}
