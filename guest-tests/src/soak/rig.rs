//! All of it together: the network, daemons, guests, clients and flows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use tempfile::TempDir;

use super::client::{Client, Order};
use super::daemon::Daemon;
use super::echo::Echo;
use super::growth::Growth;
use super::line::{Kind as Flow, Line, Place};
use super::modes::Modes;
use super::vm::Vm;
use super::{Event, Kind, Options, PATIENCE, Report};
use crate::guest::{Slots, Zone};
use crate::netns::NetNs;
use crate::patience::Patience;
use crate::process::Process;
use crate::vnicd::binary;

/// The host's address on the bridge.
pub(super) const HOST: &str = "10.77.0.1";
/// What flows, from where to where.
const FLOWS: [(Flow, [Place; 2]); 10] = [
    (Flow::Stream, [Place::Host, Place::Guest(0)]),
    (Flow::Stream, [Place::Guest(0), Place::Host]),
    (Flow::Stream, [Place::Host, Place::Guest(1)]),
    (Flow::Stream, [Place::Guest(1), Place::Host]),
    (Flow::Stream, [Place::Guest(0), Place::Guest(1)]),
    (Flow::Datagrams, [Place::Host, Place::Guest(0)]),
    (Flow::Datagrams, [Place::Guest(0), Place::Host]),
    (Flow::Datagrams, [Place::Host, Place::Guest(1)]),
    (Flow::Datagrams, [Place::Guest(1), Place::Host]),
    (Flow::Datagrams, [Place::Guest(1), Place::Guest(0)]),
];
/// Frames of a client, and echoes, that must move for them to count as moving.
const FRAMES: u64 = 500;
const ECHOES: u64 = 3;

/// All that there is.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) daemons: [Daemon; 2],
    pub(super) vms: Vec<Vm>,
    pub(super) clients: [Client; 2],
    pub(super) echo: Echo,
    pub(super) lines: Vec<Line>,
    pub(super) pings: Vec<Process>,
    pub(super) modes: Modes,
    pub(super) growth: Growth,
    last: Option<Kind>,
    slots: Slots,
    _dir: TempDir,
}

impl Rig {
    /// Starts everything; all flows have moved then.
    pub(super) fn start(options: &Options, report: &mut Report) -> Result<Self> {
        // A machine that stands still for a while takes its part of a lifetime.
        let lifetime = options.time * 4 + Duration::from_secs(3600);
        let (ns, dir, slots) = (NetNs::new()?, tempfile::Builder::new().prefix("soak-").tempdir()?, Slots::take(2));
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        // A stream outlives guests that stand still for many minutes, and need not wait as long again after that; the latter
        // with newer kernels only.
        ns.sysctl("net.ipv4.tcp_retries2", "255")?;
        let _ = ns.sysctl("net.ipv4.tcp_rto_max_ms", "5000");
        ns.sh("ip link add br0 type bridge forward_delay 0 && ip link set br0 up")?;
        ns.sh(&format!("ip addr add {HOST}/24 dev br0"))?;
        ns.add_tap("echo", 1)?;
        let program = copied(&dir)?;
        let daemon = |name| Daemon::start(name, &ns, dir.path(), &program, lifetime);
        let daemons = [daemon("a")?, daemon("b")?];
        let mut vms = Vec::new();
        for number in 0..2 {
            vms.push(Vm::start(number, dir.path(), &slots, lifetime)?);
        }
        let echo = Echo::start(&ns, &dir.path().join("echo.sock"), options.seed, lifetime)?;
        let client = |name: &str, format| Client::start(&dir.path().join(format!("{name}-loop.sock")), format);
        // A packed one where daemons are killed, to begin with.
        let clients = [client("a", 2), client("b", 0)];
        vms.iter_mut().try_for_each(Vm::set_up)?;
        let mut lines = Vec::new();
        for (number, (kind, places)) in (0..).zip(FLOWS) {
            lines.push(Line::start(&ns, &vms, kind, places, number, options.seed)?);
        }
        let mut pings = Vec::new();
        for at in 0..2 {
            let mut ping = ns.command("ping");
            ping.args(["-i", "0.5", "-s", "1000", &Place::Guest(at).address()]);
            pings.push(Process::spawn_for(ping, lifetime)?);
        }
        let modes = Modes::start([daemons[0].door(), daemons[1].door()], options.seed);
        let growth = Growth::default();
        let mut rig = Self { daemons, vms, clients, echo, lines, pings, modes, growth, last: None, slots, _dir: dir };
        rig.settle(report)?;
        Ok(rig)
    }

    /// What of a kind is to happen to whom. `is_late`: in the second half of the run.
    pub(super) fn draw(&self, kind: Kind, is_late: bool, random: &mut Rng) -> Event {
        let at = random.usize(0..2);
        match kind {
            Kind::Kill => Event::Kill,
            Kind::Restart => Event::Restart,
            Kind::Reconnect if random.bool() => Event::GuestReconnects(at),
            Kind::Reconnect => Event::ClientReconnects(at),
            Kind::Channels => {
                // Any number but the present one.
                let vm = &self.vms[at];
                let others = random.u16(1..vm.pairs);
                Event::Channels(at, if others < vm.channels { others } else { others + 1 })
            }
            Kind::Migrate => Event::Migrate(if self.vms[at].is_bound() { 0 } else { at }),
            Kind::Memory if random.u8(0..4) == 0 => Event::ClientMemory(at),
            Kind::Memory if self.vms[at].is_bound() => Event::ClientMemory(at),
            Kind::Memory if self.vms[at].dimms() > 0 => Event::Unplug(at),
            // In the end network buffers shall lie in plugged memory, too.
            Kind::Memory if at == 1 && is_late => Event::Plug(at, Zone::Kernel),
            Kind::Memory => Event::Plug(at, Zone::Movable),
            Kind::Pause => Event::Pause(at, random.u64(20..1000)),
            Kind::Client if random.bool() => Event::NextTestpmd,
            Kind::Client => Event::NextClient(at),
        }
    }

    /// Has it happen.
    pub(super) fn perform(&mut self, event: Event, random: &mut Rng, report: &mut Report) -> Result<()> {
        self.last = Some(event.kind());
        match event {
            Event::Kill | Event::Restart => {
                let daemon = &mut self.daemons[0];
                if event == Event::Kill {
                    daemon.kill()?
                } else {
                    daemon.terminate()?
                }
                std::thread::sleep(Duration::from_millis(random.u64(0..400)));
                daemon.begin()
            }
            Event::GuestReconnects(at) => self.vms[at].disconnect(),
            Event::ClientReconnects(at) => {
                self.clients[at].tell(Order::HangUp);
                Ok(())
            }
            Event::Channels(at, pairs) => self.vms[at].set_channels(pairs),
            Event::Migrate(at) => {
                match self.vms[at].migrate(&self.slots)? {
                    Some(downtime) => report.downtimes.push(downtime),
                    None => report.kept += 1,
                }
                Ok(())
            }
            Event::Plug(at, zone) => self.vms[at].plug(zone),
            Event::Unplug(at) => {
                report.kept += u64::from(!self.vms[at].unplug()?);
                Ok(())
            }
            Event::ClientMemory(at) => {
                self.clients[at].tell(Order::Memory);
                Ok(())
            }
            Event::Pause(at, ms) => self.vms[at].pause(Duration::from_millis(ms)),
            Event::NextClient(at) => {
                self.clients[at].tell(Order::Next);
                Ok(())
            }
            Event::NextTestpmd => self.echo.next(),
        }
    }

    /// Waits until everything moves again, and looks whether all are well.
    pub(super) fn settle(&mut self, report: &mut Report) -> Result<()> {
        let (mut patience, before) = (Patience::new(PATIENCE), self.counts());
        loop {
            let stand =
                self.counts().into_iter().zip(&before).find(|(now, before)| now.count < before.count + now.enough);
            self.nobody_has_ended()?;
            let is_done = self.clients.iter().all(Client::is_done);
            let now = match stand {
                None if is_done => break,
                None => Count { name: "a client".into(), count: 0, enough: 0 },
                Some((now, _)) => now,
            };
            ensure!(!patience.is_over(), "{} does not move, {} so far", now.name, now.count);
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(kind) = self.last {
            report.settled_after(kind, PATIENCE - patience.left());
        }
        self.daemons.iter().try_for_each(Daemon::check)?;
        let who = self.with_the_steady_one();
        self.growth.look(&self.daemons[1], who)
    }

    /// Who is with the daemon that lives as long as the run, and with how much memory: for each piece it keeps a descriptor.
    fn with_the_steady_one(&self) -> String {
        let guest = |vm: &Vm| format!("{}, {} DIMMs", vm.name, vm.dimms());
        let guests: Vec<_> = self.vms.iter().filter(|vm| vm.at == 1).map(guest).collect();
        let client = if self.clients[1].has_more_memory() { " (client: 2 pieces)" } else { "" };
        if guests.is_empty() { format!("no guest{client}") } else { format!("{}{client}", guests.join(" and ")) }
    }

    /// What has moved, in a few words.
    pub(super) fn moved(&self) -> String {
        let sum = |kind| -> u64 { self.lines.iter().filter(|line| line.kind == kind).filter_map(Line::moved).sum() };
        format!(
            "TCP {} MB, UDP {} datagrams, {} frames, {} echoes",
            sum(Flow::Stream) / 1_000_000,
            sum(Flow::Datagrams),
            self.clients.iter().map(Client::moved).sum::<u64>(),
            self.echo.moved(),
        )
    }
}

/// Something that must move.
pub(super) struct Count {
    pub(super) name: String,
    pub(super) count: u64,
    /// How much more of it counts as moving.
    enough: u64,
}

impl Rig {
    pub(super) fn counts(&self) -> Vec<Count> {
        let lines = self.lines.iter().filter_map(|line| {
            Some(Count { name: line.name.clone(), count: line.moved()?, enough: line.moves_with() })
        });
        let client = |(name, client): (&str, &Client)| Count {
            name: format!("the client of daemon {name}"),
            count: client.moved(),
            enough: FRAMES,
        };
        let clients = ["a", "b"].into_iter().zip(&self.clients).map(client);
        let echo = Count { name: "testpmd".into(), count: self.echo.moved(), enough: ECHOES };
        lines.chain(clients).chain([echo]).collect()
    }

    fn nobody_has_ended(&self) -> Result<()> {
        if let Some(line) = self.lines.iter().find(|line| line.has_ended()) {
            bail!("{} has ended", line.name);
        }
        for (name, client) in ["a", "b"].into_iter().zip(&self.clients) {
            ensure!(!client.has_ended(), "the client of daemon {name} has ended");
        }
        ensure!(!self.modes.has_ended(), "what changes modes has ended");
        Ok(())
    }
}

/// Copies of the daemon and of vnicctl: a build meanwhile changes nothing.
fn copied(dir: &TempDir) -> Result<PathBuf> {
    let program = binary()?;
    for name in ["vnicd", "vnicctl"] {
        let from = if name == "vnicd" { program.clone() } else { program.with_file_name(name) };
        fs::copy(&from, dir.path().join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(dir.path().join("vnicd"))
}
