//! Values of options, as words and as what they mean: the same on the command line and in a file.

use std::collections::HashSet;
use std::str::FromStr;

use serde::Deserialize;

use super::XdpSpec;
use crate::uplink;
use crate::words::from_string;

/// An uplink in words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum UplinkSpec {
    /// A TAP device.
    Tap {
        /// Its name; `%d` stands for a free number.
        name: String,
        /// The bridge that it becomes a port of.
        bridge: Option<String>,
        /// What it keeps for a slow receiver, in bytes.
        sndbuf: Option<u32>,
        /// Whether it stays when the daemon ends.
        persist: bool,
    },
    /// Open queues of a TAP.
    TapFd(Vec<i32>),
    /// A macvtap interface.
    Macvtap(String),
    /// Queues of an interface, without the kernel's stack.
    AfXdp(XdpSpec),
    /// Nowhere: for tests.
    Discard {
        /// Whether packets are left unread.
        unread: bool,
    },
    /// Frames of so many bytes without end, and nowhere: for tests.
    Generate {
        /// Bytes of each frame.
        len: usize,
    },
    /// Back to the guest: for tests.
    Loopback,
}

/// Bytes of a generated frame when nothing else is said.
const GENERATED_LEN: usize = 64;
/// Most bytes of a generated frame: what a guest takes that was told of no larger MTU than Ethernet can have.
const MAX_GENERATED_LEN: usize = 9018;

impl UplinkSpec {
    /// What it keeps others from using, in words.
    pub(super) fn holds(&self) -> Vec<String> {
        match self {
            Self::Tap { name, .. } if name.contains("%d") => vec![],
            Self::Tap { name, .. } => vec![format!("TAP '{name}'")],
            Self::TapFd(fds) => fds.iter().map(|fd| format!("TAP of file descriptor {fd}")).collect(),
            Self::Macvtap(name) => vec![format!("macvtap '{name}'")],
            Self::AfXdp(spec) => spec.holds(),
            Self::Discard { .. } | Self::Generate { .. } | Self::Loopback => vec![],
        }
    }
}

impl FromStr for UplinkSpec {
    type Err = String;

    fn from_str(spec: &str) -> Result<Self, String> {
        let (head, options) = spec.split_once(',').map_or((spec, None), |(head, rest)| (head, Some(rest)));
        if let Some(name) = head.strip_prefix("tap=") {
            return tap(name, options);
        }
        if let Some(interface) = head.strip_prefix("af-xdp=") {
            return XdpSpec::parse(interface, options).map(Self::AfXdp);
        }
        match (head, options) {
            ("discard", Some("unread")) => return Ok(Self::Discard { unread: true }),
            ("generate", Some(option)) => return generate(option),
            _ => {}
        }
        if let Some(option) = options {
            return Err(format!("'{option}': the uplink '{head}' has no options"));
        }
        match head.split_once('=') {
            Some(("tap-fd", list)) => {
                let fds: Option<Vec<i32>> = list.split(':').map(|fd| fd.parse().ok()).collect();
                let fds = fds.ok_or_else(|| format!("'{list}' are no file descriptors: use tap-fd=N[:N...]"))?;
                let mut seen = HashSet::new();
                match fds.iter().find(|fd| !seen.insert(**fd)) {
                    Some(twice) => Err(format!("tap-fd={list} names {twice} twice")),
                    None => Ok(Self::TapFd(fds)),
                }
            }
            Some(("macvtap", name)) if !name.is_empty() => Ok(Self::Macvtap(name.to_owned())),
            None if head == "discard" => Ok(Self::Discard { unread: false }),
            None if head == "generate" => Ok(Self::Generate { len: GENERATED_LEN }),
            None if head == "loopback" => Ok(Self::Loopback),
            _ => Err(format!(
                "'{head}' is no uplink: use tap=NAME, tap-fd=N[:N...], macvtap=IFNAME, af-xdp=IFNAME, discard, generate or \
                 loopback"
            )),
        }
    }
}

fn tap(name: &str, options: Option<&str>) -> Result<UplinkSpec, String> {
    if name.is_empty() {
        return Err("tap= needs a name, such as tap=vnic%d".into());
    }
    let (mut bridge, mut sndbuf, mut persist) = (None, None, false);
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option.split_once('=') {
            Some(("bridge", value)) if !value.is_empty() && bridge.is_none() => bridge = Some(value.to_owned()),
            Some(("sndbuf", value)) if sndbuf.is_none() => match value.parse() {
                Ok(bytes) if bytes > 0 => sndbuf = Some(bytes),
                _ => return Err(format!("sndbuf={value} is no number of bytes")),
            },
            None if option == "persist" && !persist => persist = true,
            _ => {
                return Err(format!(
                    "'{option}' is no option of a TAP uplink: use bridge=NAME, sndbuf=BYTES or persist, each once"
                ));
            }
        }
    }
    Ok(UplinkSpec::Tap { name: name.to_owned(), bridge, sndbuf, persist })
}

fn generate(option: &str) -> Result<UplinkSpec, String> {
    match option.strip_prefix("len=").map(str::parse) {
        Some(Ok(len)) if (uplink::MIN_GENERATED_LEN..=MAX_GENERATED_LEN).contains(&len) => {
            Ok(UplinkSpec::Generate { len })
        }
        _ => Err(format!(
            "'{option}' is no option of the uplink 'generate': use len=BYTES, {} to {MAX_GENERATED_LEN}",
            uplink::MIN_GENERATED_LEN
        )),
    }
}

/// A list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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

/// Permission bits of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("'{text}' are no permission bits: they are octal and at most 777, such as 660")),
        }
    }
}

/// Group of a socket, a name or a number. What number a name stands for is looked up by whoever has the right to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SocketGroup(String);

impl SocketGroup {
    /// Its number.
    ///
    /// # Errors
    /// When there is no such group, or it cannot be looked up.
    pub fn number(&self) -> Result<u32, String> {
        if let Ok(number) = self.0.parse() {
            return Ok(number);
        }
        match nix::unistd::Group::from_name(&self.0) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(format!("there is no group '{}'", self.0)),
            Err(e) => Err(format!("group '{}' cannot be looked up: {e}", self.0)),
        }
    }
}

impl FromStr for SocketGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a group has a name or a number".into()) } else { Ok(Self(text.into())) }
    }
}

/// The user that the daemon becomes, a name or a number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RunAs(String);

impl RunAs {
    /// The user's number, and that of the user's own group.
    ///
    /// # Errors
    /// When there is no such user, or it cannot be looked up.
    pub fn numbers(&self) -> Result<(u32, u32), String> {
        let found = match self.0.parse() {
            Ok(number) => nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(number)),
            Err(_) => nix::unistd::User::from_name(&self.0),
        };
        match found {
            Ok(Some(user)) => Ok((user.uid.as_raw(), user.gid.as_raw())),
            Ok(None) => Err(format!("there is no user '{}'", self.0)),
            Err(e) => Err(format!("user '{}' cannot be looked up: {e}", self.0)),
        }
    }
}

impl FromStr for RunAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a user has a name or a number".into()) } else { Ok(Self(text.into())) }
    }
}

from_string!(UplinkSpec, CpuList, SocketMode, SocketGroup, RunAs);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks() {
        let tap = |name: &str, bridge: Option<&str>, sndbuf, persist| {
            Ok(UplinkSpec::Tap { name: name.into(), bridge: bridge.map(Into::into), sndbuf, persist })
        };
        assert_eq!("tap=a".parse(), tap("a", None, None, false));
        assert_eq!("tap=vnic%d,bridge=br0".parse(), tap("vnic%d", Some("br0"), None, false));
        assert_eq!("tap=a,persist,sndbuf=65536".parse(), tap("a", None, Some(65_536), true));
        assert_eq!("tap-fd=3:4".parse(), Ok(UplinkSpec::TapFd(vec![3, 4])));
        assert_eq!("macvtap=m0".parse(), Ok(UplinkSpec::Macvtap("m0".into())));
        assert!(matches!("af-xdp=eth1,queue=2".parse(), Ok(UplinkSpec::AfXdp(spec)) if spec.queue == 2));
        assert_eq!("discard".parse(), Ok(UplinkSpec::Discard { unread: false }));
        assert_eq!("discard,unread".parse(), Ok(UplinkSpec::Discard { unread: true }));
        assert_eq!("generate".parse(), Ok(UplinkSpec::Generate { len: 64 }));
        assert_eq!("generate,len=1518".parse(), Ok(UplinkSpec::Generate { len: 1518 }));
        assert_eq!("loopback".parse(), Ok(UplinkSpec::Loopback));
        for bad in [
            "",
            "tap",
            "tap=",
            "tapx=a",
            "tap=a,",
            "tap=a,bridge=",
            "tap=a,bridge=b,bridge=c",
            "tap=a,x=y",
            "tap=a,sndbuf=0",
            "tap=a,sndbuf=x",
            "tap=a,persist,persist",
            "tap-fd=",
            "tap-fd=3:",
            "tap-fd=3:3",
            "macvtap=",
            "af-xdp=",
            "af-xdp",
            "af-xdp=e,mode=x",
            "macvtap=m,persist",
            "discard=1",
            "discard,read",
            "generate,len=41",
            "generate,len=9019",
            "generate,64",
            "loopback,x",
        ] {
            let error = bad.parse::<UplinkSpec>().unwrap_err();
            assert_eq!(error.lines().count(), 1, "{bad}: {error}");
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
