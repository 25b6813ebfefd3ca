//! Whose record of a packed ring it is, by a daemon that was killed and started anew: it goes on where the record says for
//! the front end that it tells of, and for everybody else where that one says.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, Numbered, NumberedPair, Queue};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tempfile::TempDir;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX | PACKED;
const FORMATS: [(&str, u64); 2] = [("packed", 0), ("packed, in order", IN_ORDER)];
const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 256;
/// Where a packed ring stands that was never used, as front ends say it.
const FIRST_PLACE: u32 = 0x8000_8000;
/// What a device leaves in its event area (virtio 1.3, 2.8.14): that it wants no kicks.
const SERVED: u32 = 1 << 16;
const GOES_ON: &str = "ring goes on where its record says";

/// Where daemons come and go.
struct Rig {
    ns: NetNs,
    dir: TempDir,
}

impl Rig {
    fn new() -> Result<Self> {
        Ok(Self { ns: NetNs::new()?, dir: tempfile::tempdir()? })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vhost.sock")
    }

    fn daemon(&self) -> Result<Vnicd> {
        let vnicd = Vnicd::builder(&self.ns).uplink("loopback").socket_path(self.socket());
        vnicd.args(["--queue-pairs", "1", "--state-dir"]).arg(self.dir.path()).start()
    }

    /// Has frames go round, kills the daemon and starts it anew: the driver that is left, and the daemon.
    fn driver_of_a_killed_daemon(&self, format: u64) -> Result<(Numbered, Vnicd)> {
        let vnicd = self.daemon()?;
        let mut driver = Numbered::start(&self.socket(), FEATURES | format, 1, SIZE)?;
        // Once round the ring, and some.
        let pair = &mut driver.pairs[0];
        pair.exchange(u64::from(SIZE) + 44, 64, PATIENCE)?;
        eventually("what was sent is used", || {
            while pair.tx.take_used().is_some() {}
            Ok(pair.tx.base() == pair.rx.base())
        })?;
        vnicd.kill()?;
        Ok((driver, self.daemon()?))
    }
}

/// A connection that another process made, which has ended since: `SO_PEERCRED` tells of it.
fn connection_of_another_process(socket: &Path) -> Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let (theirs, address) = (stream.try_clone()?, SocketAddrUnix::new(socket)?);
    let mut command = Command::new("true");
    // SAFETY: between fork and exec the hook makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || Ok(connect(&theirs, &address)?)) };
    ensure!(command.status()?.success());
    Ok(stream.into())
}

/// A front end that comes to the new daemon, and what is not as it was.
#[derive(Clone, Copy)]
struct Comer {
    is_another_process: bool,
    more_features: u64,
    /// Pages before the rings.
    pages: u64,
    size: u16,
}

const SAME: Comer = Comer { is_another_process: false, more_features: 0, pages: 0, size: SIZE };
const OTHERS: [(&str, Comer); 5] = [
    ("another process", Comer { is_another_process: true, ..SAME }),
    ("other features", Comer { more_features: INDIRECT_DESC, ..SAME }),
    ("other addresses", Comer { pages: 1, ..SAME }),
    ("a smaller ring", Comer { size: SIZE / 2, ..SAME }),
    ("a ring of an odd size", Comer { size: SIZE - 1, ..SAME }),
];

impl Comer {
    /// Starts rings that look as if a device had served them, and says that they stand where they stood at first.
    fn come(self, rig: &Rig, format: u64) -> Result<(Client, [Queue; 2])> {
        let socket = rig.socket();
        let stream = if self.is_another_process {
            connection_of_another_process(&socket)?
        } else {
            UnixStream::connect(socket)?
        };
        let mut client = Client::from_stream(stream)?;
        client.negotiate(FEATURES | format | self.more_features)?;
        client.share_memory()?;
        for _ in 0..self.pages {
            client.memory.allocate(1);
        }
        let rings = [client.queue(0, self.size)?, client.queue(1, self.size)?];
        for ring in &rings {
            ensure!(ring.base() == FIRST_PLACE, "it stands at {:#x}", ring.base());
            client.memory.map.write_obj(SERVED, GuestAddress(ring.layout.used))?;
            client.start_queue(ring)?;
            client.front.set_vring_enable(ring.index, true)?;
        }
        Ok((client, rings))
    }
}

fn goes_on(vnicd: &Vnicd) -> usize {
    vnicd.log().iter().filter(|line| line.contains(GOES_ON)).count()
}

/// All that the daemon printed is read when it has ended.
fn ends_without_the_record(vnicd: &Vnicd) -> Result<()> {
    ensure!(vnicd.terminate()?.success());
    ensure!(goes_on(vnicd) == 0, "a record was used: {}", vnicd.log().join("\n"));
    Ok(())
}

#[test]
fn the_same_front_end_finds_its_rings() -> Result<()> {
    for (name, format) in FORMATS {
        let rig = Rig::new()?;
        let (mut driver, vnicd) = rig.driver_of_a_killed_daemon(format)?;
        driver.reconnect(UnixStream::connect(rig.socket())?)?;
        driver.pairs[0].exchange(500, 64, PATIENCE).with_context(|| name.to_owned())?;
        eventually("both rings go on", || Ok(goes_on(&vnicd) == 2)).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// What counts is what it says that it is, and what it says is the same: its rings are others that nobody has used.
#[test]
fn whoever_says_all_the_same_is_the_same_front_end() -> Result<()> {
    for (name, format) in FORMATS {
        let rig = Rig::new()?;
        let (driver, vnicd) = rig.driver_of_a_killed_daemon(format)?;
        let (client, rings) = SAME.come(&rig, format)?;
        eventually("both rings go on", || Ok(goes_on(&vnicd) == 2)).with_context(|| name.to_owned())?;
        for (ring, was) in rings.iter().zip([&driver.pairs[0].rx, &driver.pairs[0].tx]) {
            let base = client.front.get_vring_base(ring.index)?;
            ensure!(base == was.base(), "{name}: ring {} stands at {base:#x}, not {:#x}", ring.index, was.base());
        }
    }
    Ok(())
}

#[test]
fn whoever_is_anybody_else_says_where_its_rings_stand() -> Result<()> {
    for (name, format) in FORMATS {
        for (other, comer) in OTHERS {
            let rig = Rig::new()?;
            let (_driver, vnicd) = rig.driver_of_a_killed_daemon(format)?;
            let (mut client, [rx, tx]) = comer.come(&rig, format)?;
            // From the first slots on: a device that stood anywhere else would find nothing there.
            let mut pair = NumberedPair::with_queues(&mut client, rx, tx, comer.size / 2)?;
            pair.exchange(600, 32, PATIENCE).with_context(|| format!("{name}, {other}"))?;
            ends_without_the_record(&vnicd).with_context(|| format!("{name}, {other}"))?;
        }
    }
    Ok(())
}

/// As after a migration: the rings are those of the record, and another process says where they stand.
#[test]
fn another_process_goes_on_with_rings_by_what_it_says_itself() -> Result<()> {
    for (name, format) in FORMATS {
        let rig = Rig::new()?;
        let (mut driver, vnicd) = rig.driver_of_a_killed_daemon(format)?;
        let Numbered { client, pairs } = &mut driver;
        client.reconnect(connection_of_another_process(&rig.socket())?)?;
        for ring in [&pairs[0].rx, &pairs[0].tx] {
            ensure!(ring.base() != FIRST_PLACE);
            client.start_queue(ring)?;
            client.front.set_vring_enable(ring.index, true)?;
        }
        pairs[0].exchange(500, 64, PATIENCE).with_context(|| name.to_owned())?;
        ends_without_the_record(&vnicd).with_context(|| name.to_owned())?;
    }
    Ok(())
}
