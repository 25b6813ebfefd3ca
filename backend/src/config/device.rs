//! Options of a device: the same on the command line and in a file.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::{CpuList, Numa, SocketGroup, SocketMode, UplinkSpec, uplink_help};
use crate::guard::{Filter, Limits, Mac};
use crate::mode::{Policy, Setting};
use crate::nic::{MAX_QUEUE_PAIRS, MIN_MTU};
use crate::ring::MAX_QUEUE_SIZE;
use crate::worker::{DeviceName, Moderation, Threads};

/// Highest real-time priority (sched(7)).
const MAX_REALTIME: u8 = 99;

/// Options of a device: on the command line for the only one, in a file for each `[[device]]`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq)]
#[command(next_help_heading = "The device")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DeviceOptions {
    /// Name of the device in log lines, thread names and commands
    ///
    /// Letters, digits, '.', '_' and '-'.
    ///
    /// Range: 1 to 32 characters.
    #[arg(long, value_name = "NAME", default_value = "nic0")]
    pub name: DeviceName,

    /// Listen for a front end (QEMU, cloud-hypervisor, DPDK virtio-user) on this Unix socket
    ///
    /// A stale socket is replaced, a live one refused. This or --fd is needed, unless a service manager passes the socket.
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Serve a front end on this open file descriptor, a connected or a listening Unix socket
    ///
    /// A listening one is served like a path; a connected one until it closes, and then vnicd exits with 0.
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Connect to the socket instead, where the front end listens; try until it does
    ///
    /// And again when it has gone. The socket is the front end's then, so --socket-mode and --socket-group mean nothing.
    #[arg(long)]
    pub client: bool,

    /// Permission bits of the socket, in octal, such as 660 [default: as the umask says]
    ///
    /// Range: 0 to 777, octal.
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<SocketMode>,

    /// Group of the socket, a name or a number [default: the daemon's]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<SocketGroup>,

    /// Where packets go.
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "tap=vnic%d",
        help = uplink_help::SHORT,
        long_help = uplink_help::long()
    )]
    pub uplink: UplinkSpec,

    /// MAC address that a guest is told, where its front end asks vnicd for it
    ///
    /// cloud-hypervisor asks; QEMU does not, and has mac= of its device. Unicast, such as 52:54:00:12:34:56.
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,

    /// Largest packet, in bytes of IP: told to the guest, and set for a TAP that is named
    ///
    /// Range: 68 to 65535.
    #[arg(long, value_name = "N")]
    pub mtu: Option<u16>,

    /// Queue pairs that a guest may use
    ///
    /// What --threads says serves them; a pair that no guest uses costs nothing.
    ///
    /// Range: 1 to 32.
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_PAIRS)]
    pub queue_pairs: u16,

    /// Largest ring that a guest may use, in entries
    ///
    /// Range: 1 to 32768.
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_SIZE)]
    pub queue_size: u16,

    /// Send every packet to the TAP, and take it from AF_XDP, by itself, rather than those of a flow together
    ///
    /// Together are those packets of a flow that come in one burst; nothing waits for them.
    #[arg(long)]
    pub no_coalesce: bool,

    /// When rings and uplink are polled, and when the worker sleeps until it is interrupted
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub mode: Setting,

    /// Which threads move its packets
    #[arg(long, value_name = "HOW", default_value = "per-pair")]
    pub threads: Threads,

    /// CPUs to pin the workers to, in turn, such as 2,4-7 [default: the kernel places them]
    ///
    /// With --threads per-cpu: those that have a worker.
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Whether workers are kept near the guest's memory: on the CPUs of its NUMA node
    ///
    /// With --cpus: on those of them that the node has.
    #[arg(long, value_name = "HOW", default_value = "off")]
    pub numa: Numa,

    /// Real-time priority of the workers, of the policy SCHED_FIFO [default: none]
    ///
    /// They run before everything else on their CPUs; one that polls leaves them to nobody.
    ///
    /// Range: 1 to 99.
    #[arg(long, value_name = "N")]
    pub realtime_priority: Option<u8>,

    /// What `auto` goes by.
    #[command(flatten)]
    pub governor: Policy,

    /// When the guest is interrupted.
    #[command(flatten)]
    pub interrupts: Moderation,

    /// What the guest may send.
    #[command(flatten)]
    pub filter: Filter,

    /// How much may move.
    #[command(flatten)]
    pub limits: Limits,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        use clap::{CommandFactory, FromArgMatches, Parser};
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            options: DeviceOptions,
        }
        let matches = Defaults::command().no_binary_name(true).get_matches_from::<_, &str>([]);
        Defaults::from_arg_matches(&matches).map_or_else(|e| e.exit(), |defaults| defaults.options)
    }
}

impl DeviceOptions {
    /// What is wrong with it by itself, if something is.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        match (&self.socket_path, self.fd) {
            (None, None) => return wrong("it needs --socket-path PATH or --fd N to meet its front end"),
            (Some(_), Some(_)) => return wrong("--socket-path and --fd exclude each other"),
            (None, Some(_)) if self.client => return wrong("--client means nothing with --fd"),
            (Some(_), None) if self.client && self.socket_mode.is_some() => {
                return wrong("--socket-mode means nothing with --client: the socket is the front end's");
            }
            (Some(_), None) if self.client && self.socket_group.is_some() => {
                return wrong("--socket-group means nothing with --client: the socket is the front end's");
            }
            (None, Some(_)) if self.socket_mode.is_some() => return wrong("--socket-mode means nothing with --fd"),
            (None, Some(_)) if self.socket_group.is_some() => return wrong("--socket-group means nothing with --fd"),
            _ => {}
        }
        if self.queue_pairs == 0 || self.queue_pairs > MAX_QUEUE_PAIRS {
            return wrong(&format!("--queue-pairs {} is not between 1 and {MAX_QUEUE_PAIRS}", self.queue_pairs));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return wrong(&format!("--mtu {mtu} is below {MIN_MTU}, the least that IP allows"));
        }
        if let UplinkSpec::AfXdp(spec) = &self.uplink
            && spec.by_mac
            && self.mac.is_none()
        {
            return wrong("steer=mac needs --mac, the address that frames for the guest have");
        }
        if self.queue_size == 0 || self.queue_size > MAX_QUEUE_SIZE {
            return wrong(&format!("--queue-size {} is not between 1 and {MAX_QUEUE_SIZE}", self.queue_size));
        }
        if let Some(priority) = self.realtime_priority.filter(|priority| !(1..=MAX_REALTIME).contains(priority)) {
            return wrong(&format!("--realtime-priority {priority} is not between 1 and {MAX_REALTIME}"));
        }
        self.governor.check().map(drop).or_else(|e| wrong(&e.to_string()))?;
        self.limits.check().map(drop).or_else(|e| wrong(&e))?;
        self.interrupts.check().map(drop).or_else(|e| wrong(&e))
    }

    /// When its pairs sleep and when they poll.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { mode: self.mode, ..self.governor }
    }

    /// What only one device can have and both want.
    pub(super) fn shares(&self, other: &Self) -> Option<String> {
        if self.name == other.name {
            return Some(format!("the name '{}'", self.name));
        }
        if self.socket_path.is_some() && self.socket_path == other.socket_path {
            return self.socket_path.as_ref().map(|path| format!("the socket '{}'", path.display()));
        }
        if self.fd.is_some() && self.fd == other.fd {
            return self.fd.map(|fd| format!("the file descriptor {fd}"));
        }
        let own = self.uplink.holds();
        let theirs: HashSet<_> = other.uplink.holds().into_iter().collect();
        own.into_iter().find(|it| theirs.contains(it)).map(|it| format!("the {it}"))
    }
}
