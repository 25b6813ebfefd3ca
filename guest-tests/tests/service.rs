//! The daemon and its service manager: ready when it is, what it does, whether its workers go on, and sockets that were
//! opened for it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::driver::nic::VERSION_1;
use guest_tests::lab::{ended_with, eventually};
use guest_tests::service_manager::ServiceManager;
use guest_tests::spell::{Hold, Spell};
use guest_tests::{Control, NetNs, Process, Usage};

const END: Duration = Duration::from_secs(10);
/// Long enough for a busy machine, short enough for a test.
const INTERVAL: Duration = Duration::from_millis(500);

/// A directory and the words for a device in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn start(&self, manager: &mut ServiceManager, ns: &NetNs, more: &[&str]) -> Result<Process> {
        let (socket, control) = (self.path("s"), self.path("c"));
        let args = ["--socket-path", &socket, "--control", &control, "--uplink", "loopback"];
        manager.start(ns, &[&args, more].concat())
    }

    /// A front end whose rings run, so that the first pair has a worker.
    fn client(&self) -> Result<Client> {
        let mut client = Client::start(self.path("s").as_ref(), VERSION_1)?;
        client.running_queue(0, 256)?;
        client.running_queue(1, 256)?;
        Ok(client)
    }
}

/// The thread of the first pair's worker.
fn worker(vnicd: &Process) -> Result<guest_tests::usage::Thread> {
    let usage = Usage::of(vnicd.pid())?;
    usage.threads_named("nic0/0").next().cloned().context("no worker")
}

#[test]
fn ready_means_that_sockets_are_open_and_the_status_tells_of_front_ends() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let mut manager = ServiceManager::new()?;
    let vnicd = place.start(&mut manager, &ns, &[])?;
    manager.expect("READY=1")?;
    let front_end = UnixStream::connect(place.path("s")).context("ready, and nobody listens")?;
    Control::connect(place.path("c").as_ref()).context("ready, and the control socket is not there")?;
    manager.expect("STATUS=1 device, 0 front ends connected")?;
    manager.expect("STATUS=1 device, 1 front end connected")?;
    drop(front_end);
    manager.expect("STATUS=1 device, 0 front ends connected")?;
    let client = place.client()?;
    manager.expect("STATUS=1 device, 1 front end connected")?;

    // Nobody asked for signs of life: nothing wakes up.
    thread::sleep(Duration::from_millis(500));
    let before = Usage::of(vnicd.pid())?;
    ensure!(manager.next_within(Duration::from_secs(2))?.is_none(), "told something that nobody asked for");
    let spent = Usage::of(vnicd.pid())?.since(&before);
    ensure!(spent.voluntary_switches == 0, "it woke up: {spent:?}");

    ended_with(vnicd.terminate()?, 0)?;
    drop(client);
    manager.expect("STOPPING=1")
}

#[test]
fn signs_of_life_wake_no_worker() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let mut manager = ServiceManager::new()?.watchdog(INTERVAL);
    let vnicd = place.start(&mut manager, &ns, &[])?;
    manager.expect("READY=1")?;
    let _client = place.client()?;
    manager.expect_signs(2)?;
    let before = worker(&vnicd)?;
    manager.expect_signs(6)?;
    let after = worker(&vnicd)?;
    ensure!(after.voluntary_switches == before.voluntary_switches, "the worker woke up: {before:?} {after:?}");
    ensure!(!vnicd.lines().contains("do not go on"), "{}", vnicd.tail());
    Ok(())
}

#[test]
fn no_sign_of_life_while_a_worker_runs_and_gets_nowhere() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let mut manager = ServiceManager::new()?.watchdog(INTERVAL);
    // A worker that polls is always at it.
    let vnicd = place.start(&mut manager, &ns, &["--mode", "polling"])?;
    manager.expect("READY=1")?;
    let _client = place.client()?;
    manager.expect_signs(4)?;
    let spell = Spell::cast(vnicd.pid(), worker(&vnicd)?.tid)?;
    vnicd.wait_for_line("runs, but its rounds do not go on", END)?;
    ensure!(vnicd.lines().contains("nic0/0"), "which worker?\n{}", vnicd.tail());
    manager.expect_silence(INTERVAL * 3)?;
    drop(spell);
    vnicd.wait_for_line("goes on", END)?;
    manager.expect_signs(3)
}

/// What a front end does to its own worker is no reason to start the daemon anew, and take the others' along.
#[test]
fn signs_of_life_go_on_while_a_front_end_holds_its_worker_up() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let mut manager = ServiceManager::new()?.watchdog(INTERVAL);
    // A worker that polls does not sleep by itself.
    let vnicd = place.start(&mut manager, &ns, &["--mode", "polling"])?;
    manager.expect("READY=1")?;
    let _client = place.client()?;
    manager.expect_signs(1)?;
    let _hold = Hold::of(worker(&vnicd)?.tid)?;
    vnicd.wait_for_line("is held up", END)?;
    manager.expect_signs(3)
}

#[test]
fn a_socket_that_was_passed_is_the_only_device_s() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let path = place.path("passed");
    let listener = UnixListener::bind(&path)?;
    // It waits at the door before there is a daemon, as the one does that has it started.
    let waiting = UnixStream::connect(&path)?;
    let mut manager = ServiceManager::new()?.socket(listener, "unknown");
    let vnicd = manager.start(&ns, &["--uplink", "loopback", "--name", "vm1"])?;
    manager.expect("READY=1")?;
    vnicd.wait_for_line("front end connected", END)?;
    drop(waiting);
    vnicd.wait_for_line("front end gone", END)?;
    Client::start(path.as_ref(), VERSION_1)?;
    ended_with(vnicd.terminate()?, 0)?;
    ensure!(std::path::Path::new(&path).exists(), "the service manager's socket was removed");
    Ok(())
}

#[test]
fn sockets_go_to_the_devices_of_their_names() -> Result<()> {
    let (ns, place) = (NetNs::new()?, Place::new()?);
    let file = place.path("vnicd.toml");
    let device = |name: &str| format!("[[device]]\nname = '{name}'\nuplink = 'loopback'\n");
    std::fs::write(&file, format!("control = '{}'\n{}{}", place.path("c"), device("a"), device("b")))?;
    let listen = |name: &str| UnixListener::bind(place.path(name));
    let mut manager = ServiceManager::new()?.socket(listen("b.sock")?, "b").socket(listen("a.sock")?, "a");
    let vnicd = manager.start(&ns, &["--config", &file])?;
    manager.expect("READY=1")?;
    let _client = Client::start(place.path("b.sock").as_ref(), VERSION_1)?;
    let connected = |device: usize| -> Result<bool> {
        let status = guest_tests::vnicd::status(place.path("c").as_ref())?;
        Ok(!status["devices"][device]["front_end_pid"].is_null())
    };
    eventually("the second device has the front end", || connected(1))?;
    ensure!(!connected(0)?, "the first device has it, too");
    ended_with(vnicd.terminate()?, 0)?;

    for (names, words) in
        [(["a", "moon"], "a socket named 'moon' was passed"), (["a", "a"], "two sockets named 'a' were passed")]
    {
        let mut manager = ServiceManager::new()?;
        for (n, name) in names.into_iter().enumerate() {
            manager = manager.socket(listen(&format!("{}-{n}", words.len()))?, name);
        }
        let refused = manager.start(&ns, &["--config", &file])?.wait_output(END)?;
        ensure!(refused.status == 2 && refused.stderr.contains(words), "not refused: {refused:?}");
        ensure!(refused.stderr.lines().count() == 1, "more than one line: {refused:?}");
    }
    Ok(())
}
