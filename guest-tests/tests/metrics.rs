//! Metrics for Prometheus: what a scrape shows, and who may not disturb whom.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::{ended_with, eventually};
use guest_tests::{NetNs, Process, Vnicd, vnicd};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const ASK: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Rig {
    ns: NetNs,
    vnicd: Vnicd,
    address: SocketAddr,
}

fn rig(args: &[&str]) -> Result<Rig> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs=2", "--metrics=127.0.0.1:0"]).args(args).control().start()?;
    let line = vnicd.wait_for_line("metrics on http://", PATIENCE)?;
    let url = line.split("http://").nth(1).context("no address")?;
    let address = url.trim_end_matches("/metrics").parse()?;
    Ok(Rig { ns, vnicd, address })
}

impl Rig {
    fn connect(&self) -> Result<TcpStream> {
        let stream = self.ns.run_in(|| TcpStream::connect(self.address))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The head and body of the answer.
    fn ask(&self, request: &str) -> Result<(String, String)> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        ensure!(head.ends_with("\r\nConnection: close"), "{head}");
        Ok((head.into(), body.into()))
    }

    /// Samples by name and labels.
    fn scrape(&self) -> Result<BTreeMap<String, f64>> {
        let (head, body) = self.ask(ASK)?;
        ensure!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"), "{head}");
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').context("no sample"))
            .map(|s| s.and_then(|(k, v)| Ok((k.into(), v.parse()?))))
            .collect()
    }

    fn nic(&self) -> Result<ScriptedNic> {
        ScriptedNic::start(&self.ns, &self.vnicd, FEATURES, 256, Posting { count: 32, len: 2048 })
    }

    fn pairs(&self) -> Result<Vec<Value>> {
        let status = self.vnicd.status()?;
        Ok(status["devices"][0]["pairs"].as_array().context("no pairs")?.clone())
    }
}

/// Counts that a status calls by the first name, and a scrape by the second.
const COUNTS: &[(&str, &str, &str)] = &[
    ("rx_packets", "rx_packets_total", ""),
    ("rx_segments", "rx_segments_total", ""),
    ("rx_bytes", "rx_bytes_total", ""),
    ("tx_packets", "tx_packets_total", ""),
    ("tx_segments", "tx_segments_total", ""),
    ("tx_bytes", "tx_bytes_total", ""),
    ("rx_dropped_offload", "rx_dropped_total", ",reason=\"offload\""),
    ("rx_dropped_too_large", "rx_dropped_total", ",reason=\"too_large\""),
    ("tx_dropped_header", "tx_dropped_total", ",reason=\"header\""),
    ("tx_dropped_mac", "tx_dropped_total", ",reason=\"mac\""),
    ("tx_dropped_ip", "tx_dropped_total", ",reason=\"ip\""),
    ("tx_dropped_vlan", "tx_dropped_total", ",reason=\"vlan\""),
    ("tx_held", "tx_held_total", ""),
    ("rx_held", "rx_held_total", ""),
    ("tx_dropped_down", "tx_dropped_total", ",reason=\"down\""),
    ("tx_dropped_refused", "tx_dropped_total", ",reason=\"refused\""),
    ("tx_dropped_disabled", "tx_dropped_total", ",reason=\"disabled\""),
    ("calls", "calls_total", ""),
    ("calls_suppressed", "calls_suppressed_total", ""),
    ("kicks", "kicks_total", ""),
    ("kicks_suppressed", "kicks_suppressed_total", ""),
    ("wakeups", "wakeups_total", ""),
    ("rounds", "rounds_total", ""),
    ("polls_empty", "polls_total", ",found=\"nothing\""),
    ("polls_full", "polls_total", ",found=\"packets\""),
    ("rings_broken", "rings_broken_total", ""),
];

/// Fails unless what a status says lies between what the scrapes before and after it say.
fn agrees(before: &BTreeMap<String, f64>, pairs: &[Value], after: &BTreeMap<String, f64>) -> Result<()> {
    ensure!(!pairs.is_empty());
    for pair in pairs {
        let id = pair["id"].as_str().context("no id")?;
        let mut parts = id.split('/');
        let mut labels = format!("device=\"{}\",pair=\"{}\"", parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        labels += &parts.next().map(|direction| format!(",direction=\"{direction}\"")).unwrap_or_default();
        let between = |series: &str, value: f64| {
            let (low, high) = (before.get(series).context("not before")?, after.get(series).context("not after")?);
            ensure!(*low <= value && value <= *high, "{series}: {low}, then {value}, then {high}");
            Ok(())
        };
        for (counter, name, label) in COUNTS {
            let count = pair["counters"][counter].as_f64().with_context(|| format!("no {counter}"))?;
            between(&format!("vnicd_{name}{{{labels}{label}}}"), count)?;
        }
        for (counter, name) in [("burst_packets", "burst_packets"), ("service_ns", "service_seconds")] {
            let counts = pair["counters"][counter].as_array().with_context(|| format!("no {counter}"))?;
            between(&format!("vnicd_{name}_count{{{labels}}}"), counts.iter().filter_map(Value::as_f64).sum())?;
        }
        for (reason, switches) in pair["mode"]["switches"].as_object().context("no switches")? {
            let switches = switches.as_f64().context("no number")?;
            between(&format!("vnicd_mode_switches_total{{{labels},reason=\"{reason}\"}}"), switches)?;
        }
        let modes = ["interrupt", "polling"].map(|mode| after[&format!("vnicd_mode{{{labels},mode=\"{mode}\"}}")]);
        ensure!(modes.iter().sum::<f64>() == 1.0, "{modes:?}");
    }
    Ok(())
}

fn only_grows(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Result<()> {
    let grows = |series: &str| ["_total", "_bucket", "_count"].iter().any(|end| series.contains(&format!("{end}{{")));
    for (series, value) in before.iter().filter(|(series, _)| grows(series)) {
        let now = after.get(series).with_context(|| format!("{series} has gone"))?;
        ensure!(now >= value, "{series} fell from {value} to {now}");
    }
    Ok(())
}

#[test]
fn a_scrape_agrees_with_the_status_and_only_grows() -> Result<()> {
    for (args, sender) in
        [(&[][..], ""), (&["--threads=per-direction"], ",direction=\"tx\""), (&["--mode=polling"], "")]
    {
        let rig = rig(args)?;
        let idle = rig.scrape()?;
        ensure!(idle["vnicd_front_end_connected{device=\"nic0\"}"] == 0.0 && !idle.keys().any(|k| k.contains("pair=")));
        let mut nic = rig.nic()?;
        let mut last = rig.scrape()?;
        for round in 1..=20u8 {
            nic.send(&[round; 100], 2)?;
            nic.exchange(&[round; 58])?;
            let (before, pairs, after) = (rig.scrape()?, rig.pairs()?, rig.scrape()?);
            agrees(&before, &pairs, &after)?;
            only_grows(&last, &before)?;
            only_grows(&before, &after)?;
            last = after;
        }
        let sent = format!("vnicd_tx_packets_total{{device=\"nic0\",pair=\"0\"{sender}}}");
        ensure!(last[&sent] == 20.0 && last["vnicd_front_end_connected{device=\"nic0\"}"] == 1.0, "{last:?}");
        // The worker sleeps or polls, but its time goes on.
        let spent = |samples: &BTreeMap<String, f64>| -> f64 {
            samples.iter().filter(|(series, _)| series.starts_with("vnicd_activity_seconds")).map(|(_, s)| s).sum()
        };
        std::thread::sleep(Duration::from_millis(300));
        ensure!(spent(&rig.scrape()?) > spent(&last) + 0.2, "time stands still");
    }
    Ok(())
}

#[test]
fn only_metrics_are_given_and_only_to_a_get() -> Result<()> {
    let rig = rig(&[])?;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (head, _) = rig.ask(request)?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {head}");
    }
    // A request in pieces, from one that says at once that it will send no more.
    let mut stream = rig.connect()?;
    for piece in ASK.as_bytes().chunks(7) {
        stream.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    Ok(())
}

/// Clients that are silent, slow, deaf, too many or talk without end: packets, commands and scrapes go on.
#[test]
fn hostile_clients_disturb_nobody_and_are_dropped() -> Result<()> {
    let rig = rig(&[])?;
    let mut nic = rig.nic()?;
    let mut goes_on = || -> Result<()> {
        nic.send(b"out", 1)?;
        nic.exchange(b"in")?;
        rig.pairs()?;
        rig.scrape().map(drop)
    };
    goes_on()?;
    let fds = rig.vnicd.usage()?.fds;

    let mut silent = rig.connect()?;
    let mut slow = rig.connect()?;
    let start = Instant::now();
    let mut is_dropped = false;
    while !is_dropped {
        ensure!(start.elapsed() < 3 * PATIENCE, "a slow client is kept for ever");
        is_dropped = slow.write_all(b"G").is_err();
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(matches!(silent.read(&mut [0; 64]), Ok(0) | Err(_)), "a silent client got an answer");
    goes_on()?;

    // Too long a request is refused, though more of it comes.
    let mut endless = rig.connect()?;
    let sent = endless.write_all(format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(4 << 20)).as_bytes());
    let mut answer = String::new();
    let read = endless.read_to_string(&mut answer);
    ensure!(sent.is_err() || read.is_err() || answer.contains(" 431 "), "{answer}");
    goes_on()?;

    let mut crowd = (0..200).map(|_| rig.connect()).collect::<Result<Vec<_>>>()?;
    goes_on()?;
    ensure!(rig.vnicd.usage()?.fds <= fds + 32, "{} descriptors", rig.vnicd.usage()?.fds);
    for client in &mut crowd {
        let _ = client.write_all(ASK.repeat(50).as_bytes());
    }
    goes_on()?;
    drop(crowd);
    eventually("all clients are let go of", || Ok(rig.vnicd.usage()?.fds <= fds))?;
    // Without clients nothing wakes the control thread.
    let spent = rig.vnicd.spends_in(Duration::from_secs(2))?;
    ensure!(spent.voluntary_switches < 20, "{spent:?}");
    goes_on()
}

#[test]
fn a_port_that_cannot_be_had_is_said_so_at_the_start() -> Result<()> {
    let rig = rig(&[])?;
    let start = |args: &[&str]| -> Result<String> {
        let dir = tempfile::tempdir()?;
        let mut command = rig.ns.command(vnicd::binary()?);
        command.arg("--socket-path").arg(dir.path().join("socket")).args(["--uplink=discard"]).args(args);
        let process = Process::spawn(command)?;
        ended_with(process.wait(PATIENCE)?, 2)?;
        ensure!(process.lines().all().len() == 1, "{}", process.tail());
        Ok(process.lines().all().concat())
    };
    let taken = start(&["--metrics", &rig.address.to_string()])?;
    ensure!(taken.contains(&format!("cannot serve metrics on {}", rig.address)), "{taken}");
    let public = start(&["--metrics=0.0.0.0:9477"])?;
    ensure!(public.contains("use 127.0.0.1:9477, or add --metrics-public"), "{public}");
    let mut open = rig.ns.command(vnicd::binary()?);
    let socket = rig.vnicd.dir().join("second");
    open.arg("--socket-path").arg(&socket).args(["--uplink=discard", "--metrics=0.0.0.0:0", "--metrics-public"]);
    Process::spawn(open)?.wait_for_line("metrics on http://0.0.0.0:", PATIENCE).map(drop)
}
