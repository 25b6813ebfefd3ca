//! The daemon: turns words into a device, opens what it needs, and serves front ends until it is told to end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGINT, SIGTERM};
use vmm_sys_util::epoll::EventSet;

use vnicd::cli::{Cli, LogFormat, UplinkSpec};
use vnicd::control::ControlServer;
use vnicd::device::{Device, DeviceSetup};
use vnicd::frontend::Server;
use vnicd::offload::Offloads;
use vnicd::opener::{self, Adopted, ListenRequest, Listening, TapRequest};
use vnicd::uplink;

/// Exit code for words that make no sense and for what cannot be opened.
const EXIT_CONFIGURATION: u8 = 2;

/// How long to leave a front end waiting that cannot be let in now, for want of file descriptors or memory.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    // "When this option is given, all others are ignored" (vhost-user, "Back-end program conventions").
    if std::env::args_os().any(|arg| arg == "--print-capabilities") {
        println!("{}", serde_json::json!({ "type": "net", "features": [] }));
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    let result = start_log(&cli).and_then(|()| run(&cli));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let mut text = e.to_string();
            let mut source = e.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            // Printed whatever --log says, and for machines where they read.
            match cli.log_format {
                LogFormat::Text => eprintln!("vnicd: {text}"),
                LogFormat::Json => eprintln!("{}", serde_json::json!({ "level": "ERROR", "message": text })),
            }
            ExitCode::from(EXIT_CONFIGURATION)
        }
    }
}

fn start_log(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log)
        .map_err(|e| format!("--log '{}' is neither a level nor a filter: {e}", cli.log))?;
    // A filter may be a mere target, and then a mistyped level would silence everything.
    let word = cli.log.bytes().all(|b| b.is_ascii_alphanumeric());
    if word && cli.log.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return Err(
            format!("--log '{}' is no level: use error, warn, info, debug, trace, or TARGET=LEVEL", cli.log).into()
        );
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match cli.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    // Sockets first: whoever waits for the path to appear may connect while the uplink is opened.
    let entrance = open_entrance(cli)?;
    let control = match cli.control.clone() {
        Some(path) => Some(opener::listen(&ListenRequest { path, mode: Some(0o600), group: None })?),
        None => None,
    };
    let device = Arc::new(open_device(cli)?);

    let stopped = Rc::new(Cell::new(false));
    let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
    events.add_subscriber(Box::new(Signals::new(stopped.clone())?));
    if let Some(listening) = control {
        events.add_subscriber(Box::new(ControlServer::new(listening, vec![device.clone()])));
    }
    let mut server = Server::new(device)?;
    match entrance {
        Entrance::Path(listening) => {
            tracing::info!("listening on {}", cli.socket_path.as_deref().unwrap_or("".as_ref()).display());
            events.add_subscriber(Box::new(Door { server, entrance: Listener::Opened(listening) }));
        }
        Entrance::Fd(Adopted::Listening(listener)) => {
            tracing::info!("listening on the socket passed as file descriptor {}", cli.fd.unwrap_or(-1));
            events.add_subscriber(Box::new(Door { server, entrance: Listener::Passed(listener) }));
        }
        Entrance::Fd(Adopted::Connected(stream)) => {
            server.offer(stream)?;
            events.add_subscriber(Box::new(OneConnection { server, stopped: stopped.clone() }));
        }
    }
    while !stopped.get() {
        events.run()?;
    }
    tracing::info!("ending");
    Ok(())
}

enum Entrance {
    Path(Listening),
    Fd(Adopted),
}

fn open_entrance(cli: &Cli) -> Result<Entrance, Box<dyn Error>> {
    if let Some(fd) = cli.fd {
        return Ok(Entrance::Fd(opener::adopt(fd)?));
    }
    let path = cli.socket_path.clone().unwrap_or_default();
    let request = ListenRequest { path, mode: cli.socket_mode, group: cli.socket_group };
    Ok(Entrance::Path(opener::listen(&request)?))
}

fn open_device(cli: &Cli) -> Result<Device, Box<dyn Error>> {
    let UplinkSpec::Tap { name, bridge } = cli.uplink.clone();
    let tap = opener::open_tap(&TapRequest { name, bridge, queues: cli.queue_pairs })?;
    let pairs = tap.queues.len();
    let how = if tap.existed { "opened" } else { "made" };
    tracing::info!(tap = tap.name, queue_pairs = pairs, "uplink {how}");
    if pairs < usize::from(cli.queue_pairs) {
        tracing::warn!(tap = tap.name, "this TAP has a single queue, so the device has a single queue pair");
    }
    let offloads = Offloads { uso4: tap.uso, uso6: tap.uso, ..Offloads::ALL };
    let uplinks = uplink::tap_pairs(tap.queues, tap.uso)?;
    let cpus = match &cli.cpus {
        Some(list) => list.0.clone(),
        None => own_cpus()?,
    };
    let uplink = format!("tap {}", tap.name);
    Ok(Device::new(DeviceSetup { number: 0, uplink, uplinks, offloads, max_queue_size: cli.queue_size, cpus }))
}

/// The CPUs that this process may run on, starting at another one in each process, so that many daemons spread.
fn own_cpus() -> Result<Vec<usize>, Box<dyn Error>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    let mut cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    let turn = std::process::id() as usize % cpus.len().max(1);
    cpus.rotate_left(turn);
    Ok(cpus)
}

/// Ends the daemon at SIGTERM and SIGINT.
struct Signals {
    arrived: UnixStream,
    stopped: Rc<Cell<bool>>,
}

impl Signals {
    fn new(stopped: Rc<Cell<bool>>) -> Result<Self, std::io::Error> {
        let (arrived, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { arrived, stopped })
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.arrived.as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.stopped.set(true);
    }
}

/// Lets front ends in, one after another.
struct Door {
    server: Server,
    entrance: Listener,
}

enum Listener {
    /// Removed when the daemon ends.
    Opened(Listening),
    Passed(UnixListener),
}

impl Listener {
    fn get(&self) -> &UnixListener {
        match self {
            Self::Opened(listening) => &listening.listener,
            Self::Passed(listener) => listener,
        }
    }
}

impl MutEventSubscriber for Door {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.entrance.get().as_raw_fd(), EventSet::IN);
        watch(ops, self.server.ended().as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.server.ended().as_raw_fd() {
            self.server.reap();
        } else if let Err(e) = self.server.accept_from(self.entrance.get()) {
            tracing::error!("a front end could not be let in: {e}");
            // It stays at the door, and the door would be reported open again at once: no spinning on it.
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// Serves one connection that was there at the start, and ends the daemon with it.
struct OneConnection {
    server: Server,
    stopped: Rc<Cell<bool>>,
}

impl MutEventSubscriber for OneConnection {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.server.ended().as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.stopped.set(true);
    }
}

fn watch(ops: &mut EventOps, fd: RawFd, events: EventSet) {
    if let Err(e) = ops.add(Events::new_raw(fd, events)) {
        tracing::error!("cannot wait for events: {e}");
    }
}
