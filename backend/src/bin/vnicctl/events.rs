//! `vnicctl events`: a line for each change of a mode.

use serde::Deserialize;
use serde_json::Value;

use vnicd::control::{EVENTS_LOST, Lost, MODE_CHANGED, ModeChange};

use super::client::{self, Daemon, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print each change as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Notification {
    method: String,
    params: Value,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let (_, mut connection) = daemon.open("events", Value::Null)?;
    loop {
        let notification = serde_json::from_str(&connection.line()?)?;
        if let Some(line) = if args.json { Some(as_json(&notification)) } else { as_text(notification)? } {
            client::print(&(line + "\n"))?;
        }
    }
}

fn as_json(notification: &Notification) -> String {
    notification.params.to_string()
}

/// A line for people. None: it is about something else.
fn as_text(Notification { method, params }: Notification) -> Result<Option<String>, serde_json::Error> {
    Ok(match method.as_str() {
        MODE_CHANGED => {
            let ModeChange { id, to, reason, time, .. } = serde_json::from_value(params)?;
            Some(format!("{time}  {id:<12}  {to:<9}  {reason}", to = to.to_string()))
        }
        EVENTS_LOST => {
            let Lost { events } = serde_json::from_value(params)?;
            Some(format!("({events} changes are missing here: they came faster than they were read)"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let params = json!({
            "id": "nic0/0", "from": "interrupt", "to": "polling", "reason": "rate", "at_s": 1.5,
            "time": "2026-01-02T03:04:05.678901Z",
        });
        let change = |method: &str, params| as_text(Notification { method: method.into(), params }).unwrap();
        let line = change(MODE_CHANGED, params).unwrap();
        assert_eq!(line, "2026-01-02T03:04:05.678901Z  nic0/0        polling    rate");
        assert!(change(EVENTS_LOST, json!({ "events": 7 })).unwrap().starts_with("(7 changes"));
        assert_eq!(change("news", json!({})), None);
    }
}
