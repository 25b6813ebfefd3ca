//! `vnicctl device remove`.

use vnicd::worker::DeviceName;

use super::change::{apply, hold_signals};
use super::{Configuration, Daemon, Directory, Error, client, configuration, reload, unknown, wrong};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device
    #[arg(value_name = "NAME")]
    name: DeviceName,
}

pub(super) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let name = args.name.as_str();
    let now = configuration(daemon)?;
    if let Some(elsewhere) = elsewhere(name, &now) {
        return Err(wrong(elsewhere));
    }
    let directory = Directory::of(&now)?;
    if !directory.has(name) {
        return Err(unknown(name, &now));
    }
    hold_signals();
    let change = directory.take(name)?;
    let reloaded = apply(daemon, change, &format!("'{name}' is not removed"), |_, now| match elsewhere(name, now) {
        Some(elsewhere) => Err(elsewhere),
        None => Ok(()),
    })?;
    client::print(&reload::show(&reloaded))
}

/// What to do about a device that is defined anywhere but in a file of its own.
fn elsewhere(name: &str, configuration: &Configuration) -> Option<String> {
    let device = configuration.device(name)?;
    let main = configuration.file.as_ref();
    match (&device.file, device.line) {
        (Some(file), Some(line)) if Some(file) == main => Some(format!(
            "the device '{name}' is defined in {file}:{line} beside others: delete its [[device]] there, then vnicctl reload"
        )),
        (None, _) => Some(format!("the device '{name}' is defined by vnicd's command line: end vnicd to remove it")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use vnicd::control::Definition;

    use super::*;

    #[test]
    fn who_is_defined_elsewhere_is_told_where() {
        let device = |name: &str, file: Option<&str>| Definition {
            name: name.into(),
            file: file.map(Into::into),
            line: file.map(|_| 3),
        };
        let devices = vec![device("a", Some("/m")), device("b", Some("/d/b.toml")), device("c", None)];
        let configuration = Configuration { file: Some("/m".into()), device_dir: Some("/d".into()), devices };
        assert!(elsewhere("a", &configuration).unwrap().contains("in /m:3 beside others: delete its [[device]]"));
        assert_eq!(elsewhere("b", &configuration), None);
        assert!(elsewhere("c", &configuration).unwrap().contains("command line"));
        assert_eq!(elsewhere("d", &configuration), None);
    }
}
