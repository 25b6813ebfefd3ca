//! The end of a soak: everything is stopped in order and asked what it has seen.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::Client;
use super::daemon::Daemon;
use super::line::{Kind, Line, OVER, STOP};
use super::report::Report;
use super::rig::Rig;
use super::vm::Vm;
use crate::lines::Stream;
use crate::patience::Patience;
use crate::process::{Process, Signal};

/// How long all ends of flows may take together to tell of their end.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long datagrams may be on their way.
const UNDER_WAY: Duration = Duration::from_secs(2);

impl Rig {
    /// What is known of everything, for a fault.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for count in self.counts() {
            let _ = writeln!(text, "{}: {}", count.name, count.count);
        }
        for vm in &self.vms {
            let tail = vm.guest().map_or_else(|error| error.to_string(), |guest| guest.qemu().tail());
            let _ = writeln!(text, "guest {} at daemon {}:\n{tail}", vm.name, self.daemons[vm.at].name);
        }
        for daemon in &self.daemons {
            let _ = writeln!(text, "daemon {}:\n{}", daemon.name, daemon.tail());
        }
        text
    }

    /// Stops everything and completes the report.
    pub(super) fn finish(self, report: &mut Report) {
        let Self { daemons, vms, clients, echo, lines, pings, modes, growth, .. } = self;
        match modes.finish() {
            Ok(followed) => report.modes = followed,
            Err(error) => report.fault(format!("modes: {error:#}")),
        }
        // Senders first.
        lines.iter().for_each(Line::stop);
        echo.stop();
        tell_guests(&vms, STOP, report);
        thread::sleep(UNDER_WAY);
        lines.iter().for_each(Line::stop_receiving);
        tell_guests(&vms, OVER, report);

        let mut patience = Patience::new(PATIENCE);
        for line in lines {
            let (name, kind) = (line.name.clone(), line.kind);
            let ends = line.finish(&vms, &mut patience);
            match kind {
                Kind::Stream => report.stream(&name, &ends),
                Kind::Datagrams => report.datagrams(&name, &ends),
            }
        }
        for (ping, vm) in pings.iter().zip(&vms) {
            told_by_ping(ping, vm, report).unwrap_or_else(|error| report.fault(format!("ping: {error:#}")));
        }
        report.datagrams("UDP through testpmd", &echo.finish());
        for (daemon, client) in daemons.iter().zip(clients) {
            told_by_client(daemon, client, report);
        }
        for vm in vms {
            told_by_guest(&vm, report).unwrap_or_else(|error| {
                report.zero("guests lost", 1);
                report.fault(format!("guest {}: {error:#}", vm.name));
            });
        }
        for (who, [first, last]) in growth.seen() {
            let what = format!(
                "{} descriptors, {} threads, {} kB; at last {}, {}, {} kB",
                first.fds,
                first.threads,
                first.private_bytes >> 10,
                last.fds,
                last.threads,
                last.private_bytes >> 10,
            );
            report.moved(format!("daemon b with {who}"), what);
        }
        for mut daemon in daemons {
            report.zero("rings broken", daemon.sum("rings_broken").unwrap_or_default());
            if let Err(error) = daemon.terminate() {
                report.fault(format!("{error:#}"));
            }
        }
    }
}

/// Makes a file in every guest.
fn tell_guests(vms: &[Vm], file: &str, report: &mut Report) {
    for vm in vms {
        if let Err(error) = vm.run(&format!("touch {file}")) {
            report.fault(format!("guest {} is not reached: {error:#}", vm.name));
        }
    }
}

fn told_by_client(daemon: &Daemon, client: Client, report: &mut Report) {
    let name = format!("frames of the client of {}", daemon.name);
    let end = client.finish();
    report.zero("frames changed, or out of order", u64::from(end.is_err()));
    match end {
        Ok(frames) => {
            let what = format!("{} sent, {} lost, {} came twice", frames.sent, frames.lost, frames.repeated);
            report.moved(name, what);
        }
        Err(error) => report.fault(format!("{name}: {error:#}")),
    }
}

fn told_by_ping(ping: &Process, vm: &Vm, report: &mut Report) -> Result<()> {
    ping.signal(Signal::INT)?;
    let printed = ping.wait_output(PATIENCE)?.stdout;
    let summary = printed.lines().find(|line| line.contains("packets transmitted")).context("it tells nothing")?;
    report.moved(format!("ping of {}", vm.name), summary.to_owned());
    let changed = ping.lines().text(Stream::Out).matches("wrong data byte").count();
    report.zero("echo replies changed", changed as u64);
    Ok(())
}

fn told_by_guest(vm: &Vm, report: &mut Report) -> Result<()> {
    let memory = vm.memory()?;
    report.zero("pages of guests changed", memory.wrong);
    report.moved(format!("memory of {}", vm.name), format!("{} pages checked {} times", memory.pages, memory.rounds));
    let complaints = vm.guest()?.complaints()?;
    report.zero("complaints of guests' kernels", complaints.lines().count() as u64);
    if !complaints.is_empty() {
        report.fault(format!("guest {} says: {complaints}", vm.name));
    }
    report.zero("guests lost", 0);
    vm.quit()
}
