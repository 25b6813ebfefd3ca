//! Where daemons come and go, and a scripted driver with them: either may connect to the other.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use super::{Client, Numbered, NumberedPair};
use crate::lab::eventually;
use crate::{NetNs, Vnicd};

/// What the driver acknowledges, with a ring format.
pub const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
/// Entries of its rings.
const SIZE: u16 = 256;

/// Who listens for whom: the daemon, or the front end whose client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon listens.
    Server,
    /// The front end listens.
    Client,
}

/// One socket path and one directory of records for all daemons.
#[derive(Debug)]
pub struct Rig {
    /// Where daemons run.
    pub ns: NetNs,
    /// For the socket and the records.
    pub dir: TempDir,
    role: Role,
    listener: Option<UnixListener>,
    pairs: usize,
    uplink: &'static str,
}

impl Rig {
    /// A place for daemons with so many pairs on an uplink.
    pub fn new(role: Role, pairs: usize, uplink: &'static str) -> Result<Self> {
        let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let path = dir.path().join("vhost.sock");
        let listener = (role == Role::Client).then(|| UnixListener::bind(path)).transpose()?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { ns, dir, role, listener, pairs, uplink })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vhost.sock")
    }

    /// Starts a daemon.
    pub fn daemon(&self, args: &[&str]) -> Result<Vnicd> {
        let vnicd = Vnicd::builder(&self.ns).uplink(self.uplink).socket_path(self.socket()).args(args.to_vec());
        let vnicd = vnicd.arg("--queue-pairs").arg(self.pairs.to_string());
        let vnicd = vnicd.arg("--state-dir").arg(self.dir.path());
        if self.role == Role::Client { vnicd.client() } else { vnicd }.start()
    }

    /// A connection with the daemon.
    pub fn connection(&self) -> Result<UnixStream> {
        let Some(listener) = &self.listener else { return Ok(UnixStream::connect(self.socket())?) };
        let mut stream = None;
        eventually("vnicd connects", || {
            stream = listener.accept().ok();
            Ok(stream.is_some())
        })?;
        let (stream, _) = stream.context("no connection")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// A driver with all pairs running; half of the entries of a receive ring have buffers.
    pub fn driver(&self, format: u64) -> Result<Numbered> {
        let mut client = Client::from_stream(self.connection()?)?;
        client.negotiate(FEATURES | format)?;
        client.share_memory()?;
        let pair = |pair| NumberedPair::start(&mut client, pair, SIZE, SIZE / 2);
        let pairs = (0..self.pairs).map(pair).collect::<Result<_>>()?;
        Ok(Numbered { client, pairs })
    }
}
