//! The daemon: turns words into devices, and serves them until it is told to end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::Parser;
use event_manager::{EventOps, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGINT, SIGTERM};
use vmm_sys_util::epoll::EventSet;

use vnicd::cli::Cli;
use vnicd::config::{Config, LogFormat, Switch, UplinkSpec};
use vnicd::control::ControlServer;
use vnicd::device::{self, Device, EventLoop, Links, Shared};
use vnicd::metrics::MetricsServer;
use vnicd::opener::{Client, Opener};
use vnicd::sandbox::{self, Needs, Shed};
use vnicd::service::{Manager, Notifier, PassedSockets};
use vnicd::worker::mode_events;

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
    let config = cli.into_config(PassedSockets::from_env()?)?;
    *format = config.log_format;
    start_log(&config)?;
    let opener = start_opener(&config)?;
    // While it may be connected to, wherever it is; what was passed has been taken over.
    let notifier = Notifier::from_env();
    let shed = give_up_rights(&config)?;
    if is_self_test {
        let shed = shed.ok_or("--sandbox-self-test means nothing with --sandbox off")?;
        return if sandbox::self_test(shed)? { Ok(()) } else { Err("the sandbox has a hole".into()) };
    }
    // Before anything that is seen from outside: whoever sees it may send the signal.
    let ended = Rc::new(Cell::new(false));
    let signals = Signals::new(ended.clone())?;
    let control = config.control.as_ref().map(|_| opener.control()).transpose()?;
    let metrics = config.metrics.map(|_| opener.metrics()).transpose()?;
    let (events, listener) = mode_events()?;
    let shared = Shared { events, workers: Arc::default(), opener };
    let open = |device| Device::open(device, &shared);
    let mut devices = config.devices.iter().map(open).collect::<Result<Vec<_>, _>>()?;

    let mut events = EventLoop::new()?;
    events.add_subscriber(Box::new(signals));
    events.add_subscriber(Box::new(Links::watch(&mut devices)?));
    // All is open: from here on nobody outside finds a call that is not listed.
    shed.map(Shed::restrict_calls).transpose()?;
    for device in &mut devices {
        device.serve(&mut events, ended.clone())?;
    }
    let nics: Vec<_> = devices.iter().map(|device| device.nic().clone()).collect();
    if let Some(listener) = metrics {
        events.add_subscriber(Box::new(MetricsServer::new(listener, nics.clone())?));
    }
    if let Some(listening) = control {
        events.add_subscriber(Box::new(ControlServer::new(listening, nics.clone(), listener)?));
    }
    if let Some(notifier) = notifier.clone() {
        events.add_subscriber(Box::new(Manager::ready(notifier, nics)?));
    }
    while !ended.get() {
        events.run()?;
    }
    tracing::info!("ending");
    if let Some(notifier) = notifier {
        notifier.stopping();
    }
    Ok(())
}

/// Leaves what takes rights to the opener: a process of its own, unless there is no sandbox.
fn start_opener(config: &Config) -> Result<Client, Box<dyn Error>> {
    let opener = Opener::new(device::plan(config));
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
    let user = config.user.map(|user| (user.uid, user.gid));
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

/// Ends the daemon at SIGTERM and SIGINT.
struct Signals {
    arrived: UnixStream,
    ended: Rc<Cell<bool>>,
}

impl Signals {
    fn new(ended: Rc<Cell<bool>>) -> Result<Self, std::io::Error> {
        let (arrived, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { arrived, ended })
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new_raw(self.arrived.as_raw_fd(), EventSet::IN)) {
            tracing::error!("signals will not be noticed: {e}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.ended.set(true);
    }
}
