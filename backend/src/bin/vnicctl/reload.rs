//! `vnicctl reload`: has the daemon read its configuration file again.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use vnicd::control::{Outcome, Reloaded};

use super::client::{self, Daemon, Error};

/// How often the outcome is asked for.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the outcome as the daemon tells it
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Number {
    reload: u64,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let outcome = outcome(daemon)?;
    if args.json {
        client::print_json(&json!(outcome))?;
    }
    match outcome {
        Outcome::Refused(reason) => Err(Error::NotReloaded(reason)),
        Outcome::Asked => Ok(()),
        Outcome::Reloaded(reloaded) => {
            if !args.json {
                client::print(&show(&reloaded))?;
            }
            if reloaded.failed.is_empty() { Ok(()) } else { Err(Error::Faults(reloaded.failed.len())) }
        }
    }
}

/// Asks for a reading, and waits until it is done.
pub(super) fn outcome(daemon: &Daemon) -> Result<Outcome, Error> {
    let Number { reload } = daemon.ask_for("reload", Value::Null)?;
    loop {
        match daemon.ask_for("reload.outcome", json!({ "reload": reload }))? {
            Outcome::Asked => std::thread::sleep(PAUSE),
            outcome => return Ok(outcome),
        }
    }
}

/// What changed.
pub(super) fn show(reloaded: &Reloaded) -> String {
    let Reloaded { added, removed, changed, failed, later } = reloaded;
    let mut text = String::new();
    for (what, names) in
        [("added", added), ("removed", removed), ("opened anew", changed), ("at the next start", later)]
    {
        if !names.is_empty() {
            text += &format!("{what}: {}\n", names.join(", "));
        }
    }
    for (name, why) in failed {
        text += &format!("{name} cannot be opened: {why}\n");
    }
    if text.is_empty() { "nothing has changed\n".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told() {
        assert_eq!(show(&Reloaded::default()), "nothing has changed\n");
        let reloaded = Reloaded {
            added: vec!["a".into(), "b".into()],
            failed: vec![("c".into(), "no right".into())],
            later: vec!["log".into()],
            ..Reloaded::default()
        };
        assert_eq!(show(&reloaded), "added: a, b\nat the next start: log\nc cannot be opened: no right\n");
    }
}
