//! `vnicctl device list`.

use serde::Serialize;
use serde_json::{Value, json};
use vnicd::control::{Definition, Status};

use super::{Configuration, Daemon, Error, Table, client, configuration};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the devices as JSON
    #[arg(long)]
    json: bool,
}

/// A device that is configured. What is not known of one that is not open is left out.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    definition: Definition,
    /// Whether it is there.
    open: bool,
    uplink: Option<String>,
    queue_pairs: Option<u16>,
    front_end_pid: Option<i32>,
}

pub(super) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let listed = listed(configuration(daemon)?, &daemon.ask_for("status", Value::Null)?);
    if args.json {
        return client::print_json(&json!({ "devices": listed }));
    }
    client::print(&show(&listed))
}

fn listed(configuration: Configuration, status: &Status) -> Vec<Listed> {
    let with_status = |definition: Definition| {
        let device = status.devices.iter().find(|device| device.name == definition.name);
        Listed {
            definition,
            open: device.is_some(),
            uplink: device.map(|device| device.uplink.clone()),
            queue_pairs: device.map(|device| device.queue_pairs),
            front_end_pid: device.and_then(|device| device.front_end_pid),
        }
    };
    configuration.devices.into_iter().map(with_status).collect()
}

/// Where a device is defined, for people.
pub(super) fn place(definition: &Definition) -> String {
    match (&definition.file, definition.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => "vnicd's command line".into(),
    }
}

fn show(listed: &[Listed]) -> String {
    let mut table = Table::new(&["NAME", "DEFINED IN", "UPLINK", "PAIRS", "FRONT END"], &[]);
    for device in listed {
        let or_none = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
        table.row(vec![
            device.definition.name.clone(),
            place(&device.definition),
            device.uplink.clone().unwrap_or_else(|| "not open".into()),
            or_none(device.queue_pairs.map(|pairs| pairs.to_string())),
            or_none(device.front_end_pid.map(|pid| pid.to_string())),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use vnicd::control::DeviceStatus;

    use super::*;

    #[test]
    fn what_is_configured_is_listed_open_or_not() {
        let definition = |name: &str, line| Definition { name: name.into(), file: Some("/f".into()), line: Some(line) };
        let devices = vec![definition("a", 3), definition("b", 9)];
        let configuration = Configuration { file: None, device_dir: None, devices };
        let (name, uplink) = ("a".into(), "tap a".into());
        let open = DeviceStatus {
            name,
            uplink,
            front_end_pid: Some(7),
            features: None,
            front_ends: Value::Null,
            pairs: vec![],
            queue_pairs: 4,
        };
        let listed = listed(configuration, &Status { version: String::new(), pid: 1, devices: vec![open] });
        let lines = show(&listed);
        let lines: Vec<_> = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["NAME DEFINED IN UPLINK PAIRS FRONT END", "a /f:3 tap a 4 7", "b /f:9 not open - -"]);
        let json = json!(listed);
        assert_eq!((&json[0]["line"], &json[0]["open"], &json[1]["open"]), (&json!(3), &json!(true), &json!(false)));
    }
}
