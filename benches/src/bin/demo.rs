//! A first look at vnicd: a guest with a network device that vnicd serves. `make demo` runs it.

#![forbid(unsafe_code)]

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::iperf::Server;
use benches::rig::{GUEST, HOST};
use benches::supervise::supervised;
use guest_tests::guest::Accel;
use guest_tests::lines::Lines;
use guest_tests::process::exit_code;
use guest_tests::{Guest, NetNs, Nic, Process, Vnicd};

const LIFETIME: Duration = Duration::from_secs(170);
const SECONDS: u64 = 4;
const QUIET: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    supervised("vnicd-demo", demo)
}

fn demo() -> Result<()> {
    let start = Instant::now();
    println!(
        "vnicd is a network device for virtual machines, in a process of its own. In the next minute a guest boots"
    );
    println!("that has such a device, and packets go through it. Nothing that this machine has is changed.");

    heading("1. A network namespace");
    say("The interfaces of this demo live in a network of their own, apart from this machine's.");
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    say("While the demo runs you can look inside from another terminal (as root):");
    command(&format!("nsenter --net={} ip addr", ns.path()));

    heading("2. vnicd: a socket for QEMU on one side, a TAP interface on the other");
    let socket = std::env::temp_dir().join("vnicd.sock");
    let vnicd = Vnicd::builder(&ns).socket_path(&socket).control().lifetime(LIFETIME).start()?;
    say("It was started with this command:");
    command(&quoted(&arguments(vnicd.pid())?));
    ns.sh(&format!("ip addr add {HOST}/24 dev tap0 && ip link set tap0 up"))?;
    say(&format!("Its TAP got an address: {HOST} is the host's end of the wire."));
    command(&format!("ip addr add {HOST}/24 dev tap0"));

    let result = in_guest(&ns, &vnicd);
    let summary = result.with_context(|| format!("vnicd said:\n{}\nThe demo failed", vnicd.log().join("\n")))?;

    heading("8. The end");
    let status = vnicd.terminate()?;
    say("vnicd was told to end (SIGTERM). This is its log:");
    vnicd.log().iter().for_each(|line| println!("    {line}"));
    ensure!(exit_code(status) == 0, "vnicd ended with status {}", exit_code(status));
    ensure!(!socket.exists(), "vnicd left its socket behind");
    drop((vnicd, ns));
    say("Guest, daemon, TAP, namespace and socket are gone.");

    heading("What was measured");
    for (name, value) in summary {
        println!("    {name:<28} {value}");
    }
    heading("On your own machine");
    say("With a disk image of yours, in three terminals (as root):");
    command(&format!("{} --socket-path /tmp/vnicd.sock --uplink tap=tap0", quoted(&[vnicd_path()?])));
    command(&format!("ip addr add {HOST}/24 dev tap0"));
    command(&format!(
        "qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\\n      \
         -chardev socket,id=vu0,path=/tmp/vnicd.sock -netdev vhost-user,id=n0,chardev=vu0 \\\n      \
         -device virtio-net-pci,netdev=n0{} -drive file=YOUR-DISK.qcow2,if=virtio",
        if guest_tests::guest::accel()? == Accel::Kvm { " -accel kvm -cpu host" } else { ",vectors=0" },
    ));
    println!("\nThe demo took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

/// Boots a guest and shows its traffic; returns names and values of what was measured.
fn in_guest(ns: &NetNs, vnicd: &Vnicd) -> Result<Vec<(&'static str, String)>> {
    heading("3. A guest whose network device is served by vnicd");
    let accel = guest_tests::guest::accel()?;
    let booting = Instant::now();
    let nic = Nic::vhost_user(vnicd.socket());
    let guest = Guest::builder().ns(ns).nic(nic).cmdline("ipv6.disable=1").lifetime(LIFETIME).start()?;
    say("QEMU was started with this command:");
    let arguments = arguments(guest.qemu().pid())?;
    command(&quoted(&arguments));
    say("The part of it that concerns vnicd: memory that both processes share, the socket, the device.");
    arguments.windows(2).filter(|pair| concerns_vnicd(pair)).for_each(|pair| command(&pair.join(" ")));
    guest.wait_boots(1)?;
    let how = match accel {
        Accel::Kvm => "under KVM",
        Accel::Tcg => "without KVM: QEMU translates every instruction (TCG), which is slow",
    };
    say(&format!("The guest has booted in {:.1} s {how}.", booting.elapsed().as_secs_f64()));
    guest.run_ok(&format!("ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"))?;
    say("In the guest, its device got an address:");
    command(&format!("ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"));

    heading("4. Ping, both ways");
    let pings = "ping -c 4 -i 0.25 -W 5";
    say("The guest asks the host:");
    show("guest", &format!("{pings} {HOST}"), guest.spawn(&format!("{pings} {HOST}"))?)?;
    say("\nThe host asks the guest:");
    let printed = show("host", &format!("{pings} {GUEST}"), ns.spawn(&format!("exec {pings} {GUEST}"))?)?;
    let rtt = printed.iter().find_map(|line| line.strip_prefix("rtt ")?.split_once(" = ")?.1.split('/').nth(1));
    let mut summary = vec![("ping, host to guest", format!("{} ms", rtt.context("no average")?))];

    heading("5. Throughput, measured by iperf3");
    let server = Server::start(ns, LIFETIME)?;
    say("On the host, `iperf3 -s` listens. The guest is the client in all three runs.");
    for (name, what, options) in [
        ("TCP, guest to host", "TCP from the guest to the host:", ""),
        ("TCP, host to guest", "TCP from the host to the guest:", " -R"),
        ("UDP, guest to host", "UDP from the guest to the host, offered 100 Mbit/s:", " -u -b 100M"),
    ] {
        println!("\n{what}");
        let line = format!("iperf3 -c {HOST} -t {SECONDS} -f m{options}");
        let printed = show("guest", &line, guest.spawn(&format!("exec {line} --forceflush"))?)?;
        summary.push((name, received(&printed).with_context(|| format!("`{line}` told no result"))?));
    }

    heading("6. The mode follows the load");
    say(
        "A quiet guest, a flood of TCP, a quiet guest again. For each half second: packets a second, the mode that vnicd",
    );
    say("chose with the reason, and how its worker spent the time.");
    let (quiet, flood, polled) = modes(vnicd, &guest)?;
    ensure!(quiet == "interrupt", "a quiet guest leaves the pair in mode {quiet}");
    summary.push(("mode, quiet and in a flood", format!("{quiet}, {flood} ({polled:.0} % of the time polling)")));
    drop(server);

    heading("7. Silence");
    say(&format!("What vnicd uses in {} s in which the guest is quiet:", QUIET.as_secs()));
    // Delayed acknowledgements, ARP.
    thread::sleep(Duration::from_secs(2));
    let before = vnicd.usage()?;
    thread::sleep(QUIET);
    let after = vnicd.usage()?;
    let wakeups = after.voluntary_switches().saturating_sub(before.voluntary_switches());
    let cpu = after.cpu.saturating_sub(before.cpu);
    say(&format!("{wakeups} wake-ups, {} ms of processor time.", cpu.as_millis()));
    say(&format!("{:.1} MiB of memory are vnicd's own.", after.rss_private_bytes as f64 / f64::from(1 << 20)));
    summary.push(("wake-ups in silence", format!("{wakeups} in {} s", QUIET.as_secs())));
    guest.quit()?;
    Ok(summary)
}

/// Shows how the mode changes with the load; says the mode at the end, the mode in the flood, and how much of the flood was
/// polled, in percent.
fn modes(vnicd: &Vnicd, guest: &Guest) -> Result<(String, String, f64)> {
    const STEP: Duration = Duration::from_millis(500);
    println!("    {:>6} {:>10}  {:<10} {:<10}  of the time it was", "time", "packets/s", "mode", "reason");
    let line = format!("iperf3 -c {HOST} -t {SECONDS}");
    let (mut before, start) = (Sample::take(vnicd)?, Instant::now());
    let (mut flood, mut most, mut running) = (String::new(), 0.0, None);
    // Two seconds, the flood, and until the mode is that of a quiet guest again, but for a while at least.
    while start.elapsed() < Duration::from_secs(SECONDS + 6) {
        if running.is_none() && start.elapsed() > Duration::from_secs(2) {
            running = Some(guest.spawn(&format!("exec {line} >/dev/null"))?);
        }
        thread::sleep(STEP);
        let now = Sample::take(vnicd)?;
        let (spent, all) = (now.spent_since(&before), now.at.duration_since(before.at).as_secs_f64());
        let [waiting, draining, polling] = spent.map(|seconds| 100.0 * seconds / spent.iter().sum::<f64>().max(1e-9));
        let pps = (now.segments - before.segments) as f64 / all;
        println!(
            "    {:>4.1} s {pps:>10.0}  {:<10} {:<10}  {waiting:>3.0} % waiting {draining:>3.0} % draining {polling:>3.0} % polling",
            start.elapsed().as_secs_f64(),
            now.mode,
            now.reason,
        );
        if polling > most || flood.is_empty() {
            (flood, most) = (now.mode.clone(), polling);
        }
        before = now;
    }
    if let Some(running) = running {
        let ended = running.wait(Duration::from_secs(30))?;
        ensure!(ended.status == 0, "`{line}` ended with status {}", ended.status);
    }
    Ok((before.mode, flood, most))
}

/// What vnicd tells of its busiest pair at a moment.
struct Sample {
    at: Instant,
    mode: String,
    reason: String,
    segments: u64,
    /// Seconds waiting, draining, polling.
    spent: [f64; 3],
}

impl Sample {
    fn take(vnicd: &Vnicd) -> Result<Self> {
        let status = vnicd.status()?;
        let pair = &status["devices"][0]["pairs"][0];
        let text = |name: &str| pair["mode"][name].as_str().map(str::to_owned).context("no mode");
        let count = |name: &str| pair["counters"][name].as_u64().context("no counter");
        let seconds = |name: &str| pair["mode"][name].as_f64().unwrap_or_default();
        Ok(Self {
            at: Instant::now(),
            mode: text("mode")?,
            reason: text("reason")?,
            segments: count("rx_segments")? + count("tx_segments")?,
            spent: [seconds("waiting_s"), seconds("draining_s"), seconds("polling_s")],
        })
    }

    fn spent_since(&self, before: &Self) -> [f64; 3] {
        [0, 1, 2].map(|at| (self.spent[at] - before.spent[at]).max(0.0))
    }
}

/// What the receiver got, in the summary of iperf3: `1730 Mbits/sec`, with the loss of UDP.
fn received(printed: &[String]) -> Option<String> {
    let words: Vec<&str> = printed.iter().find(|line| line.ends_with("receiver"))?.split_whitespace().collect();
    let at = words.iter().position(|word| word.ends_with("bits/sec"))?;
    let rate = format!("{} {}", words.get(at.checked_sub(1)?)?, words[at]);
    Some(match words.iter().position(|word| word.contains('/') && word.starts_with(|c: char| c.is_ascii_digit())) {
        Some(at) => format!("{rate}, {} of the datagrams lost", words.get(at + 1)?.trim_matches(['(', ')'])),
        None => rate,
    })
}

/// A program that runs in the guest or on the host.
trait Running {
    fn lines(&self) -> &Lines;
    fn exit(&self) -> Result<Option<i32>>;
}

impl Running for Process {
    fn lines(&self) -> &Lines {
        self.lines()
    }

    fn exit(&self) -> Result<Option<i32>> {
        Ok(self.try_status()?.map(exit_code))
    }
}

impl Running for guest_tests::GuestProcess<'_> {
    fn lines(&self) -> &Lines {
        self.lines()
    }

    fn exit(&self) -> Result<Option<i32>> {
        if self.runs() { Ok(None) } else { Ok(Some(self.wait(Duration::ZERO)?.status)) }
    }
}

/// Shows a command and what it prints while it prints it; it must succeed within half a minute.
fn show(place: &str, line: &str, running: impl Running) -> Result<Vec<String>> {
    println!("  {place}$ {}", bold(line));
    let (start, mut shown) = (Instant::now(), 0);
    loop {
        let exit = running.exit()?;
        if exit.is_some() {
            // All that it printed has arrived.
            let _ = running.lines().wait_closed(Duration::from_secs(1));
        }
        let lines = running.lines().all();
        lines[shown..].iter().for_each(|line| println!("    {line}"));
        shown = lines.len();
        match exit {
            Some(0) => return Ok(lines),
            Some(status) => bail!("`{line}` on the {place} ended with status {status}"),
            None if start.elapsed() > Duration::from_secs(30) => bail!("`{line}` on the {place} does not end"),
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The command line with which a process was started.
fn arguments(pid: u32) -> Result<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.trim_end_matches('\0').split('\0').map(Into::into).collect())
}

/// A command for a shell, an option a line.
fn quoted(arguments: &[String]) -> String {
    let mut text = String::new();
    for argument in arguments {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:%@+".contains(c);
        if !text.is_empty() {
            text += if argument.starts_with('-') { " \\\n      " } else { " " };
        }
        if !argument.is_empty() && argument.chars().all(plain) {
            text += argument;
        } else {
            text += &format!("'{}'", argument.replace('\'', r"'\''"));
        }
    }
    text
}

fn concerns_vnicd(pair: &[String]) -> bool {
    let [option, value] = pair else {
        return false;
    };
    match option.as_str() {
        "-object" => value.contains("share=on"),
        "-numa" | "-netdev" => true,
        "-chardev" => value.contains("vnicd.sock"),
        "-device" => value.starts_with("virtio-net-pci"),
        _ => false,
    }
}

fn vnicd_path() -> Result<String> {
    let path: PathBuf = guest_tests::vnicd::binary()?;
    Ok(path.display().to_string())
}

fn heading(text: &str) {
    println!("\n{}\n{}", bold(text), "-".repeat(text.chars().count()));
}

fn say(text: &str) {
    println!("{text}");
}

fn command(line: &str) {
    println!("    {}", bold(line));
}

fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_copied() {
        let arguments = ["qemu", "-m", "1G", "-append", "a b='c'", ""].map(String::from);
        assert_eq!(quoted(&arguments), "qemu \\\n      -m 1G \\\n      -append 'a b='\\''c'\\''' ''");
    }

    #[test]
    fn results_of_iperf_are_found() {
        let tcp = "[  5]   0.00-4.01   sec   870 MBytes  1820 Mbits/sec                  receiver";
        assert_eq!(received(&[tcp.into()]).unwrap(), "1820 Mbits/sec");
        let udp = "[  5]   0.00-4.00   sec  47.6 MBytes  99.7 Mbits/sec  0.012 ms  3/34485 (0.0087%)  receiver";
        assert_eq!(received(&[udp.into()]).unwrap(), "99.7 Mbits/sec, 0.0087% of the datagrams lost");
        assert!(received(&["iperf3: error".into()]).is_none());
    }
}
