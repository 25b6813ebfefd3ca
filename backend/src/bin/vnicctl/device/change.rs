//! A change of the directory becomes the daemon's, or is taken back.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vnicd::control::{Outcome, Reloaded};

use super::directory::Change;
use super::{Configuration, Daemon, Error, configuration, reload, wrong};

/// From here on nobody ends this program between a change and its end, which comes soon.
pub(super) fn hold_signals() {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without that, the change may stand though its outcome was not seen.
        let _ = signal_hook::flag::register(signal, std::sync::Arc::default());
    }
}

/// Has the daemon read the directory after `change`. If it refuses, or if the change did not come to what it was for,
/// which `is_done` looks at, all is taken back, and `what` was not done.
pub(super) fn apply(
    daemon: &Daemon,
    change: Change,
    what: &str,
    is_done: impl Fn(&Reloaded, &Configuration) -> Result<(), String>,
) -> Result<Reloaded, Error> {
    let reason = match reload::outcome(daemon) {
        Ok(Outcome::Reloaded(reloaded)) => {
            match configuration(daemon).map_err(|e| e.to_string()).and_then(|now| is_done(&reloaded, &now)) {
                Ok(()) => {
                    change.keep();
                    return Ok(reloaded);
                }
                Err(reason) => reason,
            }
        }
        Ok(Outcome::Refused(reason)) => reason,
        Ok(Outcome::Asked) => "the daemon does not say what came of it".into(),
        Err(e) => e.to_string(),
    };
    let path = change.path().to_owned();
    if let Err(e) = change.undo() {
        return Err(wrong(format!("{what}: {reason}; and {} cannot be made as it was: {e}", path.display())));
    }
    let now = match reload::outcome(daemon) {
        Ok(Outcome::Reloaded(reloaded)) => match reloaded.failed.first() {
            None => String::new(),
            Some((name, why)) => format!("; '{name}' as it was cannot be opened either: {why}"),
        },
        Ok(Outcome::Refused(again)) if again == reason => "; that was so before".into(),
        Ok(Outcome::Refused(again)) => format!("; without it, the daemon refuses the configuration, too: {again}"),
        // It has gone, and will read the directory when it is back.
        Ok(Outcome::Asked) | Err(_) => String::new(),
    };
    Err(wrong(format!("{what}, and {} is as it was: {reason}{now}", path.display())))
}
