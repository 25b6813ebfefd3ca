//! Messages that are right in all but the file descriptors that come with them, to a device that runs: whether such a
//! message is taken or refused, no descriptor of it stays behind.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, GUEST_BASE, Posting, Queue, ScriptedNic, SharedMemory, USER_BASE};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::VhostUserFrontend;

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const POSTING: Posting = Posting { count: 32, len: 2048 };
/// Most descriptors that come with a message beyond those that belong to it.
const MOST: usize = 8;
/// A request that nobody knows.
const UNKNOWN: u32 = 99;
// Header flags.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

/// A message as it should be, and the descriptor that belongs to it.
struct Message {
    name: &'static str,
    request: u32,
    body: Vec<u8>,
    own: Option<OwnedFd>,
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn long_words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Every request that this device takes (vhost-user, "Front-end message types"); ring 2 is one that does not run.
fn messages(client: &mut Client, running: &Queue, channel: &UnixStream) -> Result<Vec<Message>> {
    let user = |guest: u64| guest - GUEST_BASE + USER_BASE;
    let layout = running.layout;
    let ring_addresses = [user(layout.desc), user(layout.used), user(layout.avail), 0];
    let memory = [GUEST_BASE, client.memory.size, USER_BASE, 0];
    let more = SharedMemory::new(1 << 20)?;
    let more_memory = [0, 0x4000_0000, more.size, 0x6000_0000_0000, 0];
    let config = [words(&[0, 12, 0]), vec![0; 12]].concat();
    let protocol = client.front.get_protocol_features()?.bits();
    let features = long_words(&[client.features()]);
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Some);
    let all = [
        ("GET_FEATURES", 1, vec![], None),
        ("SET_FEATURES", 2, features, None),
        ("SET_OWNER", 3, vec![], None),
        ("RESET_OWNER", 4, vec![], None),
        (
            "SET_MEM_TABLE",
            5,
            [words(&[1, 0]), long_words(&memory)].concat(),
            Some(client.memory.file.try_clone()?.into()),
        ),
        ("SET_LOG_BASE", 6, long_words(&[4096, 0]), Some(more.file.try_clone()?.into())),
        ("SET_LOG_FD", 7, vec![], event()?),
        ("SET_VRING_NUM", 8, words(&[2, 256]), None),
        ("SET_VRING_ADDR", 9, [words(&[running.index as u32, 0]), long_words(&ring_addresses)].concat(), None),
        ("SET_VRING_BASE", 10, words(&[2, 0]), None),
        ("GET_VRING_BASE", 11, words(&[2, 0]), None),
        ("SET_VRING_KICK", 12, long_words(&[running.index as u64]), event()?),
        ("SET_VRING_CALL", 13, long_words(&[running.index as u64]), event()?),
        ("SET_VRING_ERR", 14, long_words(&[running.index as u64]), event()?),
        ("GET_PROTOCOL_FEATURES", 15, vec![], None),
        ("SET_PROTOCOL_FEATURES", 16, long_words(&[protocol]), None),
        ("GET_QUEUE_NUM", 17, vec![], None),
        ("SET_VRING_ENABLE", 18, words(&[running.index as u32, 1]), None),
        ("SEND_RARP", 19, long_words(&[0x7700_0000_0002]), None),
        ("NET_SET_MTU", 20, long_words(&[1500]), None),
        ("SET_BACKEND_REQ_FD", 21, vec![], Some(channel.try_clone()?.into())),
        ("GET_CONFIG", 24, config.clone(), None),
        ("SET_CONFIG", 25, config, None),
        ("GET_MAX_MEM_SLOTS", 36, vec![], None),
        ("ADD_MEM_REG", 37, long_words(&more_memory), Some(more.file.into())),
        ("REM_MEM_REG", 38, long_words(&more_memory), None),
        ("SET_STATUS", 39, long_words(&[15]), None),
        ("GET_STATUS", 40, vec![], None),
    ];
    Ok(all.into_iter().map(|(name, request, body, own)| Message { name, request, body, own }).collect())
}

/// A device with two running rings that was sent every message as it should be.
struct Running {
    client: Client,
    _rings: [Queue; 2],
    messages: Vec<Message>,
    _channel: UnixStream,
}

impl Running {
    fn start(vnicd: &Vnicd) -> Result<Self> {
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        let rings = [client.running_queue(0, 256)?, client.running_queue(1, 256)?];
        let (ours, theirs) = UnixStream::pair()?;
        let messages = messages(&mut client, &rings[0], &theirs)?;
        let running = Self { client, _rings: rings, messages, _channel: ours };
        for (n, message) in running.messages.iter().enumerate() {
            ensure!(running.takes(n, &[])?, "{} was refused as it should be", message.name);
        }
        Ok(running)
    }

    /// Sends a message with file descriptors that are too many: whether the connection outlives it.
    fn takes(&self, n: usize, spare: &[File]) -> Result<bool> {
        let Message { request, body, own, .. } = &self.messages[n];
        let fds: Vec<_> = own.iter().map(AsFd::as_fd).chain(spare.iter().map(AsFd::as_fd)).collect();
        // Whether an answer is asked for, matters to none of them.
        let flags = if fds.len() % 2 == 0 { VERSION | NEED_REPLY } else { VERSION };
        self.client.send(*request, flags, body, &fds)?;
        // This is always answered, unless the connection is closed by then.
        if self.client.send(UNKNOWN, VERSION | NEED_REPLY, &[], &[]).is_err() {
            return Ok(false);
        }
        while let Some(reply) = self.client.reply()? {
            if reply.request == UNKNOWN {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn serves(ns: &NetNs, vnicd: &Vnicd) -> Result<()> {
    let mut nic = ScriptedNic::start(ns, vnicd, FEATURES, 256, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

#[test]
fn spare_file_descriptors_of_good_messages_are_closed() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let spare = (0..MOST).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>()?;

    let mut running = Running::start(&vnicd)?;
    let mut connections = 2;
    let while_running = vnicd.settled_fds()?;
    let fds = || vnicd.usage().map(|usage| usage.fds);
    let (mut taken, mut refused) = (0, 0);
    for n in 0..running.messages.len() {
        let name = running.messages[n].name;
        for count in 1..=MOST {
            if running.takes(n, &spare[..count])? {
                taken += 1;
            } else {
                // The next one needs a device that runs.
                refused += 1;
                running = Running::start(&vnicd)?;
                connections += 1;
            }
            // A worker closes what was replaced in its own time.
            eventually("what came with the message is closed", || Ok(fds()? == while_running))
                .with_context(|| format!("{name} with {count} too many: {while_running} before, {:?}", fds()))?;
        }
    }
    println!("{taken} messages were taken, {refused} were refused");
    ensure!(taken > 0 && refused > 0, "{taken} were taken, {refused} refused");
    drop(running);
    let after = vnicd.idle_fds(connections)?;
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}
