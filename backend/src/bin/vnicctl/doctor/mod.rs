//! `vnicctl doctor`: explains why a set-up does not work, or would not.
//!
//! It looks and changes nothing: at the configuration, the host, the uplinks, the sockets, the monitors that name them, and
//! the daemon if one runs.

mod daemon;
mod finding;
mod host;
mod monitor;
mod socket;
mod tap;
mod xdp;

use std::path::PathBuf;

use clap::Parser;
use vnicd::cli::Cli;
use vnicd::config::{Config, DeviceOptions, Texts, UplinkSpec};
use vnicd::service::PassedSockets;

use self::finding::{Finding, Grade};
use self::host::Host;
use super::client::{self, Daemon, Error};
use super::text::one_line;

/// Where packages put the configuration.
const DEFAULT_CONFIG: &str = "/etc/vnicd/vnicd.toml";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The daemon's configuration file [default: /etc/vnicd/vnicd.toml, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with = "options")]
    config: Option<PathBuf>,

    /// The options that vnicd is started with, behind --
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let host = Host::here();
    let mut findings = vec![host::kernel(&host)];
    match configuration(args) {
        Ok(Some(config)) => {
            findings.push(Finding::good("configuration", format!("makes sense, {} devices", config.devices.len())));
            findings.extend(config.devices.iter().flat_map(|device| examine(&host, device)));
        }
        Ok(None) => findings.push(Finding::note(
            "configuration",
            format!("none was named, and there is no {DEFAULT_CONFIG}: only the daemon is looked at"),
            "name it with --config FILE, or give vnicd's options behind --",
        )),
        Err(bad) => findings.push(bad),
    }
    findings.extend(daemon::examine(daemon));
    let faults = findings.iter().filter(|finding| finding.grade == Grade::Bad).count();
    client::print(&show(&findings))?;
    if faults == 0 { Ok(()) } else { Err(Error::Faults(faults)) }
}

/// What the daemon is to do.
fn configuration(args: &Args) -> Result<Option<Config>, Finding> {
    let bad = |what: String, mend: &str| Finding::bad("configuration", what, mend);
    if !args.options.is_empty() {
        let words = std::iter::once("vnicd").chain(args.options.iter().map(String::as_str));
        let cli =
            Cli::try_parse_from(words).map_err(|e| bad(one_line(&e.to_string()), "vnicd --help tells all options"))?;
        return cli.into_config(PassedSockets::default()).map(Some).map_err(|e| bad(in_full(&*e), "mend the options"));
    }
    let path = match &args.config {
        Some(path) => path.clone(),
        None if PathBuf::from(DEFAULT_CONFIG).exists() => DEFAULT_CONFIG.into(),
        None => return Ok(None),
    };
    let checked = Texts::read(&path).and_then(|texts| texts.parse()).and_then(Config::check);
    checked.map(Some).map_err(|e| bad(in_full(&e), "mend the file: vnicd does not start with it"))
}

/// An error with all its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn examine(host: &Host, device: &DeviceOptions) -> Vec<Finding> {
    let name = device.name.to_string();
    let mut findings = match &device.uplink {
        UplinkSpec::Tap { name: tap, bridge, .. } => tap::tap(host, &name, tap, bridge.as_deref(), device.queue_pairs),
        UplinkSpec::Macvtap(interface) => tap::macvtap(host, &name, interface),
        UplinkSpec::AfXdp(spec) => xdp::examine(host, &name, spec, device.queue_pairs),
        UplinkSpec::TapFd(_) | UplinkSpec::Discard { .. } | UplinkSpec::Generate { .. } | UplinkSpec::Loopback => {
            vec![]
        }
    };
    if let Some(path) = &device.socket_path {
        findings.extend(socket::examine(host, device, path));
        findings.extend(monitor::examine(host, &name, path));
    }
    findings
}

fn show(findings: &[Finding]) -> String {
    let mut text: String = findings.iter().map(ToString::to_string).collect();
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let [good, notes, faults] = [Grade::Good, Grade::Note, Grade::Bad].map(count);
    text += &format!("\n{good} well, {notes} to note, {faults} at fault\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(options: &[&str]) -> Args {
        Args { config: None, options: options.iter().map(|option| (*option).into()).collect() }
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_a_finding() {
        let config = configuration(&args(&["--socket-path", "/run/vm1.sock", "--uplink", "tap=vm1"])).unwrap().unwrap();
        assert_eq!(config.devices[0].name.to_string(), "nic0");
        for (options, part) in [
            (vec!["--uplink", "tap=vm1"], "--socket-path"),
            (vec!["--socket-path", "/s", "--uplink", "wire"], "'wire'"),
            (vec!["--config", "/nowhere/vnicd.toml"], "/nowhere/vnicd.toml"),
        ] {
            let finding = configuration(&args(&options)).unwrap_err();
            assert!(finding.what.contains(part), "{finding}");
        }
    }
}
