//! The rings alone, against DPDK's vhost PMD: packets a second and cycles a packet by way, kind of ring, size of frames
//! and number of queues, under the same virtio-user client. `make bench-ring` runs it; see `benches::ring`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::distance::Distance;
use benches::instructions::Captured;
use benches::report::{Better, Report};
use benches::ring::cases::Selection;
use benches::ring::flatness::{self, Knob, PEERS, Point};
use benches::ring::{Case, Efficiency, Lab, Path, Peer, RingKind, Sample, payload};
use benches::supervise::supervised;
use benches::testpmd::{BACK_END_CPU, CLIENT_CPU};
use benches::{curves, instructions, machine, plot};
use clap::Parser;
use etherparse::PacketBuilder;

/// Compare vnicd's rings with those of DPDK's vhost PMD.
///
/// What is chosen by --path, --ring, --size and --queues is combined and measured alone. When nothing is chosen, the
/// main cases are measured (all ways, split and packed rings, 64 bytes, one queue), then each other value for itself in
/// a third of the runs, then what a packet costs by the size of things, then its instructions.
#[derive(Debug, Parser)]
struct Options {
    /// Ways through the rings
    #[arg(long, value_enum, value_delimiter = ',')]
    path: Vec<Path>,

    /// Kinds of rings, such as split, packed, split-vectorized
    #[arg(long, value_parser = RingKind::named, value_delimiter = ',')]
    ring: Vec<&'static RingKind>,

    /// Bytes of a frame
    #[arg(long, value_parser = clap::value_parser!(u32).range(60..=1518), value_delimiter = ',')]
    size: Vec<u32>,

    /// Queue pairs, all on the one core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16), value_delimiter = ',')]
    queues: Vec<u16>,

    /// How many pairs of runs
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Just try: the main cases or what is chosen, one pair of one second
    #[arg(long)]
    quick: bool,

    /// What a packet costs by the size of things, though cases were chosen or --quick
    #[arg(long)]
    curves: bool,

    /// Instructions a packet, too; needs valgrind
    #[arg(long)]
    instructions: bool,

    /// Where the tables, the JSON files and the plots are written [default: bench-ring in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const NAME: &str = "bench-ring";
const COST: &str = "bench-ring-cost";
const CYCLES: &str = "cycles a packet";

/// Filters and limits that let all of [`datagram`] pass.
const GUARDS: [(&str, &[&str]); 5] = [
    ("no filter, no limit", &[]),
    ("allowed-macs", &["--allowed-macs=52:54:00:12:34:56"]),
    ("allowed-macs, allowed-ips", &["--allowed-macs=52:54:00:12:34:56", "--allowed-ips=10.0.0.2"]),
    (
        "allowed-macs, allowed-ips, allowed-vlans",
        &["--allowed-macs=52:54:00:12:34:56", "--allowed-ips=10.0.0.2", "--allowed-vlans=0"],
    ),
    ("max-tx-pps, max-tx-bps", &["--max-tx-pps=1G", "--max-tx-bps=1000G"]),
];

/// A frame of 64 bytes from the address that they allow.
fn datagram() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([0x52, 0x54, 0, 0x12, 0x34, 0x56], [2, 0, 0, 0, 0, 1]);
    let builder = builder.ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).udp(9000, 9000);
    let (payload, mut frame) = ([0; 64 - 14 - 20 - 8], Vec::new());
    // It fails for a payload that is too long, or a writer that does.
    let _ = builder.write(&mut frame, &payload);
    frame
}

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

/// A bench on its way.
struct Bench {
    lab: Lab,
    /// Between the two CPUs.
    distance: Distance,
    /// Rates, and cycles a packet.
    report: Report,
    /// How many quantities of it are drawn run by run.
    drawn: usize,
    /// What a packet costs by the size of things, as quantities and as points of curves.
    cost: Report,
    points: Vec<Point>,
    start: Instant,
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    ensure!(std::thread::available_parallelism()?.get() > 1, "two CPUs are needed, one for each side");
    let (pairs, seconds) = if options.quick { (1, 1) } else { (options.pairs, options.seconds) };
    let mut bench = Bench::new(seconds)?;
    bench.condition("runs", format!("{pairs} in turn on each, fewer of others; {seconds} s a measurement"));
    let measured = bench.measure(options, pairs);
    if let Err(error) = &measured {
        // What was found in half an hour is worth something.
        bench.condition("cut short", in_a_line(error));
    }
    bench.save(&output)?;
    measured
}

/// An error without what programs printed.
fn in_a_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().into()
}

impl Bench {
    fn new(seconds: u64) -> Result<Self> {
        let lab = Lab::new(Duration::from_secs(seconds))?;
        let subjects = PEERS.map(|(_, name)| name.into());
        let title = "vnicd and DPDK's net_vhost under the same virtio-user client, one core each".into();
        let mut report =
            Report { title, subjects: subjects.clone(), conditions: machine::conditions()?, ..Report::default() };
        let title = "What a packet of 64 bytes costs from guest to back end, split ring".into();
        let cost = Report { title, subjects, ..Report::default() };
        report.conditions.push(("testpmd's memory".into(), lab.memory.describe()));
        report.conditions.push((
            CYCLES.into(),
            "vnicd: in full bursts; net_vhost: in rounds that found packets, left out where it counts waiting, too"
                .into(),
        ));
        let lacks = lab.daemon.lacks().join("; ");
        if !lacks.is_empty() {
            report.conditions.push(("this vnicd has no".into(), lacks));
        }
        let distance = Distance::between([CLIENT_CPU, BACK_END_CPU])?;
        Ok(Self { lab, distance, report, drawn: 0, cost, points: Vec::new(), start: Instant::now() })
    }

    fn measure(&mut self, options: &Options, pairs: u32) -> Result<()> {
        let selection = Selection {
            paths: options.path.clone(),
            rings: options.ring.clone(),
            frame_lens: options.size.clone(),
            queues: options.queues.clone(),
        };
        let all = !options.quick && !selection.is_made();
        let checked = payload::check(&self.lab)?;
        self.condition("bytes", checked);
        let main = selection.cases();
        self.compare(&main, pairs)?;
        self.drawn = self.report.comparisons.len();
        if all {
            self.compare(&Selection::others(), pairs.div_ceil(3))?;
        }
        if all || options.curves {
            self.costs(pairs.div_ceil(3), options.quick)?;
        }
        if all || options.instructions {
            self.instructions()?;
        }
        Ok(())
    }

    fn condition(&mut self, name: &str, value: String) {
        println!("{name}: {value}");
        self.report.conditions.push((name.into(), value));
    }

    fn say(&self, what: &str) {
        println!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// Measures cases on both peers in turn.
    fn compare(&mut self, cases: &[Case], pairs: u32) -> Result<()> {
        for case in cases {
            for pair in 1..=pairs {
                let ours = self.sample(case, Peer::Vnicd)?;
                let unread = self.sample(case, Peer::VnicdUnread)?;
                if ours.is_none() && unread.is_none() {
                    self.say(&format!("{case}: this vnicd cannot"));
                    break;
                }
                let theirs = self.sample(case, Peer::Testpmd)?;
                self.note(&case.to_string(), [ours, theirs]);
                self.note(&format!("{case}, bytes unread"), [unread, theirs]);
                let mpps = |sample: Option<Sample>| sample.map_or("-".into(), |s| format!("{:.2}", s.mpps));
                let [ours, unread, theirs] = [ours, unread, theirs].map(mpps);
                self.say(&format!("{case}, {pair} of {pairs}: {ours} (unread {unread}) : {theirs} Mpps"));
            }
        }
        Ok(())
    }

    fn sample(&mut self, case: &Case, peer: Peer) -> Result<Option<Sample>> {
        self.twice(|lab| lab.measure(case, peer))
    }

    /// Measures while the two CPUs are near each other; once more what failed, which a busy machine makes happen in an
    /// hour.
    fn twice<T>(&mut self, measure: impl Fn(&mut Lab) -> Result<T>) -> Result<T> {
        self.distance.near(|| measure(&mut self.lab)).or_else(|error| {
            self.condition("failed and measured again", in_a_line(&error));
            self.distance.near(|| measure(&mut self.lab))
        })
    }

    fn note(&mut self, name: &str, samples: [Option<Sample>; 2]) {
        self.report.add_pair(name, "Mpps", Better::Higher, samples.map(|sample| Some(sample?.mpps)));
        let efficiency = samples.map(|sample| sample?.efficiency);
        let cycles = efficiency.map(|efficiency| Some(efficiency?.cycles));
        self.report.add_pair(&format!("{name}: {CYCLES}"), "cycles", Better::Lower, cycles);
        if let [Some(Efficiency { share, .. }), _] = efficiency {
            self.report.add_figure(&format!("{name}: in full bursts"), "% of packets", 100.0 * share);
        }
    }

    /// Turns each knob on both peers in turn.
    fn costs(&mut self, pairs: u32, quick: bool) -> Result<()> {
        for knob in Knob::ALL {
            let ends = |(at, _): &(usize, &u16)| !quick || *at == 0 || *at == knob.values().len() - 1;
            for (_, value) in knob.values().iter().enumerate().filter(ends) {
                for _ in 0..pairs {
                    self.cost(knob, *value)?;
                }
            }
        }
        Ok(())
    }

    fn cost(&mut self, knob: Knob, value: u16) -> Result<()> {
        let name = format!("{value} {knob}");
        let mut costs = [None; 2];
        for (subject, (peer, peer_name)) in PEERS.into_iter().enumerate() {
            let Some(cost) = self.twice(|lab| knob.measure(lab, value, peer))? else { continue };
            let cycles = cost.cycles.map_or(String::new(), |cycles| format!(", {cycles:.1} cycles"));
            self.say(&format!("{name}, {peer_name}: {:.1} ns{cycles}", cost.ns));
            self.points.push(Point { knob, value, subject, cost });
            costs[subject] = Some(cost);
        }
        self.cost.add_pair(&name, "ns a packet", Better::Lower, costs.map(|cost| Some(cost?.ns)));
        let cycles = costs.map(|cost| cost?.cycles);
        self.cost.add_pair(&format!("{name}: {CYCLES}"), "cycles", Better::Lower, cycles);
        Ok(())
    }

    fn instructions(&mut self) -> Result<()> {
        if !instructions::is_possible() {
            self.condition("instructions", "not counted: valgrind is missing".into());
            return Ok(());
        }
        for uplink in ["discard", "discard,unread"] {
            if uplink == "discard" || self.lab.daemon.unread {
                let args = [&["--uplink", uplink], self.lab.daemon.interrupt()].concat();
                for (captured, how) in [(Captured::No, ""), (Captured::Yes, ", captured")] {
                    let count = instructions::per_packet(&self.lab.ns, &args, &[vec![0; 64]], captured)?;
                    self.say(&format!("{uplink}{how}: {count:.0} instructions a packet"));
                    let name = format!("{uplink}, split, 64 bytes{how}");
                    self.report.add_figure(&name, "instructions a packet", count);
                }
            }
        }
        self.guarded()
    }

    /// What filters and limits cost a packet that they let pass.
    fn guarded(&mut self) -> Result<()> {
        let frame = datagram();
        for (how, options) in GUARDS {
            let args = [&["--uplink", "discard"], options, self.lab.daemon.interrupt()].concat();
            let frames = std::slice::from_ref(&frame);
            let count = instructions::per_packet(&self.lab.ns, &args, frames, Captured::No)?;
            self.say(&format!("{how}: {count:.0} instructions a packet"));
            self.report.add_figure(&format!("UDP of 64 bytes, {how}"), "instructions a packet", count);
        }
        Ok(())
    }

    /// Writes what there is.
    fn save(mut self, output: &FilePath) -> Result<()> {
        let not_offered: Vec<_> = std::mem::take(&mut self.lab.not_offered).into_iter().collect();
        if !not_offered.is_empty() {
            self.condition("not offered by this vnicd", not_offered.join(", "));
        }
        self.report.conditions.push(("from CPU to CPU".into(), self.distance.describe()));
        self.report.conditions.push(("load average at the end".into(), machine::load()?));
        self.report.save_text(output, NAME)?;
        let mut drawn = self.report.clone();
        drawn.comparisons.truncate(self.drawn);
        drawn.comparisons.retain(|comparison| comparison.unit == "Mpps");
        if !drawn.comparisons.is_empty() {
            plot::runs(&drawn, &output.join(format!("{NAME}.svg")))?;
        }
        let mut markdown = self.report.markdown();
        println!("\n{}", self.report.table());
        if !self.points.is_empty() {
            self.cost.save_text(output, COST)?;
            curves::draw(&self.cost.title, &flatness::panels(&self.points), &output.join(format!("{COST}.svg")))?;
            markdown += &format!("\n{}", self.cost.markdown());
            println!("{}", self.cost.table());
        }
        let file = output.join(format!("{NAME}.md"));
        fs::write(&file, markdown).with_context(|| format!("cannot write {}", file.display()))?;
        println!("tables, values and plots: {}", output.display());
        Ok(())
    }
}
