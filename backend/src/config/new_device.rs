//! A device that is given in words, to be written into a file of its own.

use std::ffi::OsStr;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::{Table, Value};

use super::DeviceOptions;
use crate::guard::{Filter, Limits};
use crate::mode::Policy;
use crate::worker::{DeviceName, Moderation};

/// A device, by its name and the options that vnicd knows. Those that were left out are left to its defaults.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// Its name.
    pub name: DeviceName,
    /// The options that were given, as they stand in its file.
    given: Table,
}

/// The options that have a table of their own in a file, and its name.
fn tables() -> [(&'static str, Command); 4] {
    [
        ("governor", Policy::augment_args(Command::new(""))),
        ("interrupts", Moderation::augment_args(Command::new(""))),
        ("filter", Filter::augment_args(Command::new(""))),
        ("limits", Limits::augment_args(Command::new(""))),
    ]
}

impl NewDevice {
    /// The text of its file.
    ///
    /// # Errors
    /// When it cannot be written as TOML.
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.given)
    }

    /// Whether no option was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }
}

impl Args for NewDevice {
    fn augment_args(command: Command) -> Command {
        // What was left open for the daemon is not there for a device that comes later.
        DeviceOptions::augment_args(command).mut_arg("name", positional).mut_arg("fd", |arg| arg.hide(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn positional(name: Arg) -> Arg {
    name.long(Resettable::Reset).default_value(Resettable::Reset).required(true)
}

impl FromArgMatches for NewDevice {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let DeviceOptions { name, .. } = DeviceOptions::from_arg_matches(matches)?;
        let mut given = Table::new();
        let tables = tables();
        for arg in DeviceOptions::augment_args(Command::new("")).get_arguments() {
            let id = arg.get_id();
            let is_given = matches.value_source(id.as_str()) == Some(ValueSource::CommandLine) && id != "name";
            let Some(word) = matches.get_raw(id.as_str()).and_then(|mut words| words.next()).filter(|_| is_given)
            else {
                continue;
            };
            let table = tables.iter().find(|(_, args)| args.get_arguments().any(|arg| arg.get_id() == id));
            let key = id.as_str().replace('_', "-");
            let value = value(arg, word, |value| {
                let alone = Table::from_iter([(key.clone(), value)]);
                let whole = table.map_or(alone.clone(), |(name, _)| Table::from_iter([((*name).into(), alone.into())]));
                whole.try_into::<DeviceOptions>().is_ok()
            });
            let place = match table {
                None => &mut given,
                Some((name, _)) => match given.entry(*name).or_insert_with(|| Table::new().into()) {
                    Value::Table(inner) => inner,
                    _ => continue,
                },
            };
            place.insert(key, value);
        }
        Ok(Self { name, given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The value of an option in a file: a number where that `fits`, which is not everywhere where the word is one.
fn value(arg: &Arg, word: &OsStr, fits: impl Fn(Value) -> bool) -> Value {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return true.into();
    }
    let word = word.to_string_lossy();
    let number = word.parse::<i64>().ok().map(Value::from).filter(|number| fits(number.clone()));
    number.unwrap_or_else(|| word.into_owned().into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::one_device;

    #[derive(Parser)]
    struct Both<T: Args> {
        #[command(flatten)]
        it: T,
    }

    fn parse<T: Args>(words: &[&str]) -> T {
        Both::<T>::try_parse_from(std::iter::once(&"x").chain(words)).map(|both| both.it).unwrap()
    }

    /// Every option, with a value that is not its default.
    const ALL: &[&str] = &[
        "--socket-path",
        "/run/a \"b\"\\c\u{7f}",
        "--client",
        "--uplink",
        "tap=vm1,bridge=br0",
        "--mac",
        "52:54:00:12:34:56",
        "--mtu",
        "9000",
        "--queue-pairs",
        "4",
        "--queue-size",
        "1024",
        "--no-coalesce",
        "--mode",
        "polling",
        "--threads",
        "pipeline",
        "--realtime-priority",
        "7",
        "--numa",
        "auto",
        "--cpus",
        "2",
        "--enter-pps",
        "500000",
        "--leave-pps",
        "100000",
        "--rate-window-ms",
        "60",
        "--min-idle-spin-us",
        "1",
        "--max-idle-spin-us",
        "600",
        "--max-poll-cpu-percent",
        "90",
        "--preempted-backoff-ms",
        "200",
        "--poll-interval-us",
        "50",
        "--gather-us",
        "7",
        "--coalesce-us",
        "30",
        "--coalesce-frames",
        "16",
        "--urgent-priorities",
        "5",
        "--allowed-macs",
        "52:54:00:12:34:56,52:54:00:12:34:57",
        "--allowed-ips",
        "10.0.0.1,fe80::/10",
        "--allowed-vlans",
        "5",
        "--max-tx-pps",
        "5000",
        "--max-tx-bps",
        "1G",
        "--max-rx-pps",
        "100k",
        "--max-rx-bps",
        "20M",
        "--limit-burst-ms",
        "40",
    ];

    #[test]
    fn a_file_means_what_the_words_mean() {
        let words = |more: &[&'static str]| [more, ALL].concat();
        let new: NewDevice = parse(&words(&["vm1"]));
        let file = one_device(None, new.name, &new.text().unwrap()).unwrap();
        assert_eq!(file, parse::<DeviceOptions>(&words(&["--name", "vm1"])), "{}", new.text().unwrap());
        // None was forgotten above, but for those that exclude others.
        let others = ["--name", "--fd", "--socket-mode", "--socket-group"];
        for arg in DeviceOptions::augment_args(Command::new("")).get_arguments() {
            let option = format!("--{}", arg.get_long().unwrap());
            assert!(ALL.contains(&&*option) || others.contains(&&*option), "{option}");
        }
    }

    #[test]
    fn only_what_was_given_is_written() {
        let text = |words: &[&str]| parse::<NewDevice>(words).text().unwrap();
        assert_eq!(text(&["vm1"]), "");
        assert_eq!(
            text(&["--queue-pairs", "32", "vm1", "--socket-path", "/s", "--socket-mode", "660", "--enter-pps=9"]),
            "queue-pairs = 32\nsocket-mode = \"660\"\nsocket-path = \"/s\"\n\n[governor]\nenter-pps = 9\n"
        );
    }

    #[test]
    fn a_name_is_needed_and_values_are_checked() {
        for (words, part) in [
            (vec!["--socket-path", "/s"], "<NAME>"),
            (vec!["a/b"], "'a/b' is no device name"),
            (vec!["a", "--uplink", "wire"], "'wire' is no uplink"),
            (vec!["a", "--name", "b"], "--name"),
        ] {
            let words = std::iter::once(&"x").chain(&words);
            let error = Both::<NewDevice>::try_parse_from(words).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
