//! The daemon: turns words into devices, and serves them until it is told to end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::Parser;
use event_manager::{EventOps, Events, MutEventSubscriber, SubscriberOps};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vmm_sys_util::epoll::EventSet;

use vnicd::cli::{Cli, Source};
use vnicd::config::{Config, LogFormat, RunAs, Switch, UplinkSpec};
use vnicd::control::{Configuration, ControlServer, Outcome, Reloaded, Reloads};
use vnicd::device::{self, EventLoop, Fleet, Shared};
use vnicd::metrics::MetricsServer;
use vnicd::opener::{Client, Opener, Reread};
use vnicd::sandbox::{self, Needs, Shed};
use vnicd::service::{Manager, Notifier, PassedSockets};
use vnicd::worker::{Nodes, mode_events};

/// Exit code for words that make no sense and for what cannot be opened.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    // "When this option is given, all others are ignored" (vhost-user, "Back-end program conventions").
    if std::env::args_os().any(|arg| arg == "--print-capabilities") {
        println!("{}", serde_json::json!({ "type": "net", "features": [] }));
        return ExitCode::SUCCESS;
    }
    // How to log is not known before the configuration is.
    let mut format = LogFormat::Text;
    match run(Cli::parse(), &mut format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let mut text = e.to_string();
            let mut source = e.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            // Printed whatever --log says, and for machines where they read.
            match format {
                LogFormat::Text => eprintln!("vnicd: {text}"),
                LogFormat::Json => eprintln!("{}", serde_json::json!({ "level": "ERROR", "message": text })),
            }
            ExitCode::from(EXIT_CONFIGURATION)
        }
    }
}

fn run(cli: Cli, format: &mut LogFormat) -> Result<(), Box<dyn Error>> {
    *format = cli.log_format();
    let is_self_test = cli.is_sandbox_self_test();
    let passed = PassedSockets::from_env()?;
    let source = cli.source(passed.clone());
    let config = cli.into_config(passed)?;
    *format = config.log_format;
    start_log(&config)?;
    let opener = start_opener(&config, source.clone())?;
    // While it may be connected to, wherever it is; what was passed has been taken over.
    let notifier = Notifier::from_env();
    let limits = getrlimit(Resource::Nofile);
    // A device takes fifteen descriptors, a guest's memory up to 509 more. What fails here shows itself when they are needed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    let nodes = Arc::new(near_cpus());
    let shed = give_up_rights(&config)?;
    if is_self_test {
        let shed = shed.ok_or("--sandbox-self-test means nothing with --sandbox off")?;
        return if sandbox::self_test(shed)? { Ok(()) } else { Err("the sandbox has a hole".into()) };
    }
    // Before anything that is seen from outside: whoever sees it may send the signal.
    let (ended, reloads) = (Rc::new(Cell::new(false)), Reloads::default());
    let file = source.as_ref().map(Source::path);
    reloads.take(Configuration::of(&config, file));
    let signals = Signals::new(ended.clone(), reloads.clone())?;
    let control = config.control.as_ref().map(|_| opener.control()).transpose()?;
    let metrics = config.metrics.map(|_| opener.metrics()).transpose()?;
    let (events, listener) = mode_events()?;
    let changed = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let shared = Shared { events, workers: Arc::default(), opener: opener.clone(), nodes, changed: changed.clone() };
    let mut fleet = Fleet::open(&config, shared, ended.clone())?;
    let nics = fleet.nics();

    let mut events = EventLoop::new()?;
    events.add_subscriber(Box::new(signals));
    events.add_subscriber(Box::new(fleet.links()?));
    // All is open: from here on nobody outside finds a call that is not listed.
    shed.map(Shed::restrict_calls).transpose()?;
    fleet.serve(&mut events)?;
    if let Some(listener) = metrics {
        events.add_subscriber(Box::new(MetricsServer::new(listener, nics.clone())?));
    }
    if let Some(listening) = control {
        events.add_subscriber(Box::new(ControlServer::new(listening, nics.clone(), reloads.clone(), listener)?));
    }
    if let Some(notifier) = notifier.clone() {
        events.add_subscriber(Box::new(Manager::ready(notifier, nics, changed)?));
    }
    while !ended.get() {
        events.run()?;
        if reloads.are_asked() {
            let read = || source.as_ref().ok_or("there is no --config FILE to read again")?.parse(&opener.reread()?);
            reloads.done(match read() {
                Ok(wanted) => {
                    reloads.take(Configuration::of(&wanted, file));
                    Outcome::Reloaded(reload(&config, &wanted, &mut fleet, &mut events))
                }
                Err(e) => {
                    tracing::error!("the configuration is not read again, and all stays as it is: {e}");
                    Outcome::Refused(e.to_string())
                }
            });
        }
    }
    tracing::info!("ending");
    if let Some(notifier) = notifier {
        notifier.stopping();
    }
    fleet.part();
    Ok(())
}

/// Becomes what `wanted` says, as far as that can be while the daemon runs.
fn reload(config: &Config, wanted: &Config, fleet: &mut Fleet, events: &mut EventLoop) -> Reloaded {
    let later = wanted.differs_in(config).into_iter().map(Into::into).collect();
    let reloaded = Reloaded { later, ..fleet.change_to(wanted, events) };
    let Reloaded { added, removed, changed, failed, later } = &reloaded;
    tracing::info!(?added, ?removed, ?changed, failed = failed.len(), "the configuration was read again");
    if !later.is_empty() {
        tracing::warn!("these options are taken at the next start: {}", later.join(", "));
    }
    reloaded
}

/// The CPUs of the host's NUMA nodes that this process may use. They are looked up while there are paths.
fn near_cpus() -> Nodes {
    let allowed = rustix::thread::sched_getaffinity(None);
    Nodes::of_host().within(|cpu| allowed.is_ok_and(|allowed| allowed.is_set(cpu)))
}

/// Leaves what takes rights to the opener: a process of its own, unless there is no sandbox. It reads the configuration
/// again when it is asked to.
fn start_opener(config: &Config, source: Option<Source>) -> Result<Client, Box<dyn Error>> {
    let reread = source.map(|source| {
        Reread::new(move || {
            let text = source.text().map_err(|e| e.to_string())?;
            let config = source.parse(&text).map_err(|e| e.to_string())?;
            device::plan(&config).map(|plan| (plan, text)).map_err(|e| e.to_string())
        })
    });
    let opener = Opener::new(device::plan(config)?).reread_by(reread);
    Ok(match config.sandbox {
        Switch::Off => Client::here(opener),
        Switch::On => {
            opener.into_process(sandbox::confine_opener).map_err(|e| format!("cannot start the opener: {e}"))?
        }
    })
}

/// Gives up this process's own rights, unless there is no sandbox.
fn give_up_rights(config: &Config) -> Result<Option<Shed>, Box<dyn Error>> {
    if config.sandbox == Switch::Off {
        return Ok(None);
    }
    let locks_memory = config.devices.iter().any(|device| matches!(device.uplink, UplinkSpec::AfXdp(_)));
    let user = config.user.as_ref().map(RunAs::numbers).transpose()?;
    Ok(Some(sandbox::shed(Needs { user, locks_memory })?))
}

fn start_log(options: &Config) -> Result<(), Box<dyn Error>> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
        .map_err(|e| format!("--log '{}' is neither a level nor a filter: {e}", options.log))?;
    // A filter may be a mere target, and then a mistyped level would silence everything.
    let word = options.log.bytes().all(|b| b.is_ascii_alphanumeric());
    if word && options.log.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        let text = format!("--log '{}' is no level: use error, warn, info, debug, trace, or TARGET=LEVEL", options.log);
        return Err(text.into());
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Ends the daemon at SIGTERM and SIGINT, and has it read its configuration again at SIGHUP.
struct Signals {
    arrived: UnixStream,
    ended: Rc<Cell<bool>>,
    hung_up: UnixStream,
    reloads: Reloads,
}

impl Signals {
    fn new(ended: Rc<Cell<bool>>, reloads: Reloads) -> Result<Self, std::io::Error> {
        let (arrived, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        let (hung_up, write) = UnixStream::pair()?;
        hung_up.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGHUP, write)?;
        Ok(Self { arrived, ended, hung_up, reloads })
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in [self.arrived.as_raw_fd(), self.hung_up.as_raw_fd()] {
            if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                tracing::error!("signals will not be noticed: {e}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.arrived.as_raw_fd() {
            self.ended.set(true);
        } else {
            // However many there were.
            let _ = self.hung_up.read(&mut [0; 64]);
            self.reloads.ask();
        }
    }
}
