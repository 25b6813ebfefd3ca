//! The command line: words turned into checked values.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Parser, ValueEnum};

use crate::device::MAX_QUEUE_PAIRS;
use crate::ring::MAX_QUEUE_SIZE;

/// A virtual NIC for virtual machines: a vhost-user-net back end that sleeps when idle.
#[derive(Clone, Debug, Parser)]
#[command(version, group(ArgGroup::new("front end").required(true).args(["socket_path", "fd"])))]
pub struct Cli {
    /// Listen for a front end (QEMU, cloud-hypervisor, DPDK virtio-user) on this Unix socket
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Serve a front end on this open file descriptor, a connected or a listening Unix socket
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Permission bits of the socket, in octal
    #[arg(long, value_name = "MODE", conflicts_with = "fd", value_parser = octal)]
    pub socket_mode: Option<u32>,

    /// Group of the socket, a name or a number
    #[arg(long, value_name = "GROUP", conflicts_with = "fd", value_parser = group)]
    pub socket_group: Option<u32>,

    /// Where packets go: tap=NAME[,bridge=BR]; %d in the name is replaced by a free number
    #[arg(long, value_name = "SPEC", default_value = "tap=vnic%d")]
    pub uplink: UplinkSpec,

    /// Queue pairs that a guest may use, each with a worker of its own
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_PAIRS,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_QUEUE_PAIRS)))]
    pub queue_pairs: u16,

    /// Largest ring that a guest may use, in entries
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_SIZE,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_QUEUE_SIZE)))]
    pub queue_size: u16,

    /// CPUs to pin the workers to, in turn, such as 2,4-7 [default: those that vnicd may run on]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Answer vnicctl on this Unix socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,

    /// How to log, on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Print what this program can do as JSON, and end
    #[arg(long)]
    pub print_capabilities: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// An uplink in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkSpec {
    /// A TAP device.
    Tap {
        /// Its name; `%d` stands for a free number.
        name: String,
        /// The bridge that it becomes a port of.
        bridge: Option<String>,
    },
}

impl FromStr for UplinkSpec {
    type Err = String;

    fn from_str(spec: &str) -> Result<Self, String> {
        let mut parts = spec.split(',');
        let head = parts.next().unwrap_or_default();
        let name = head.strip_prefix("tap=").ok_or_else(|| format!("'{head}' is no uplink: use tap=NAME"))?;
        if name.is_empty() {
            return Err("tap= needs a name, such as tap=vnic%d".into());
        }
        let mut bridge = None;
        for part in parts {
            match part.split_once('=') {
                Some(("bridge", value)) if !value.is_empty() && bridge.is_none() => bridge = Some(value.to_owned()),
                _ => return Err(format!("'{part}' is no option of a TAP uplink: use bridge=NAME, once")),
            }
        }
        Ok(Self::Tap { name: name.to_owned(), bridge })
    }
}

/// A list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(cpu) if cpu < rustix::thread::CpuSet::MAX_CPU => Ok(cpu),
            _ => Err(format!("'{text}' is no CPU number")),
        };
        let mut cpus = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("'{part}' runs backwards: write {last}-{first}"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permission bits are octal and at most 777, such as 660".into()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group".into()),
        Err(e) => Err(format!("the group cannot be looked up: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn uplinks() {
        let tap = |name: &str, bridge: Option<&str>| {
            Ok(UplinkSpec::Tap { name: name.into(), bridge: bridge.map(Into::into) })
        };
        assert_eq!("tap=a".parse(), tap("a", None));
        assert_eq!("tap=vnic%d,bridge=br0".parse(), tap("vnic%d", Some("br0")));
        for bad in ["", "tap", "tap=", "tapx=a", "tap=a,", "tap=a,bridge=", "tap=a,bridge=b,bridge=c", "tap=a,x=y"] {
            assert!(bad.parse::<UplinkSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!("1,4-6".parse(), Ok(CpuList(vec![1, 4, 5, 6])));
        for bad in ["", "a", "3-1", "1-", "99999"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
