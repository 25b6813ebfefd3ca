//! What stands between the client's rings and the TAP.

#![forbid(unsafe_code)]

use anyhow::Result;

use super::sink::TAP;
use crate::testpmd::Memory;
use crate::uplinks::{BackEnd, Place};

/// A back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon.
    Vnicd,
    /// testpmd, which forwards between net_vhost and net_tap.
    NetTap,
}

impl Subject {
    /// Both, ours first.
    pub const BOTH: [Self; 2] = [Self::Vnicd, Self::NetTap];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vnicd => "vnicd",
            Self::NetTap => "net_vhost to net_tap",
        }
    }

    /// Starts it with a TAP; `args` are the daemon's alone.
    pub fn start(self, place: Place<'_>, memory: Memory, args: &[&str]) -> Result<BackEnd> {
        match self {
            Self::Vnicd => BackEnd::vnicd(place, &format!("tap={TAP}"), args),
            Self::NetTap => BackEnd::testpmd(place, &format!("net_tap0,iface={TAP}"), memory),
        }
    }
}
