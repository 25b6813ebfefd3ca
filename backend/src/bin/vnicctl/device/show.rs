//! `vnicctl device show`.

use std::fs;

use serde_json::{Value, json};
use vnicd::control::{Definition, DeviceStatus, Status};
use vnicd::worker::DeviceName;

use super::list::place;
use super::{Daemon, Error, client, configuration, status, unknown};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device
    #[arg(value_name = "NAME")]
    name: DeviceName,

    /// Print it as JSON: where it is defined, the text of its own file, and its status
    #[arg(long)]
    json: bool,
}

pub(super) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let configuration = configuration(daemon)?;
    let name = args.name.as_str();
    let definition = configuration.device(name).ok_or_else(|| unknown(name, &configuration))?;
    let status: Status = daemon.ask_for("status", Value::Null)?;
    let device = status.devices.iter().find(|device| device.name == name);
    // That of others is theirs, too.
    let own = definition.file.as_ref().filter(|file| Some(*file) != configuration.file.as_ref());
    let text = own.map(|file| fs::read_to_string(file).unwrap_or_else(|e| format!("# it cannot be read: {e}\n")));
    if args.json {
        let Definition { name, file, line } = definition;
        return client::print_json(
            &json!({ "name": name, "file": file, "line": line, "text": text, "status": device }),
        );
    }
    client::print(&show(&format!("{name} is defined in {}", place(definition)), text.as_deref(), device))
}

fn show(place: &str, text: Option<&str>, device: Option<&DeviceStatus>) -> String {
    let mut shown = format!("{place}\n");
    for line in text.unwrap_or_default().lines() {
        shown += format!("    {line}").trim_end();
        shown.push('\n');
    }
    match device {
        Some(device) => status::show_device(&mut shown, device),
        None => shown += "\nit is not open: vnicctl reload tries again and says why\n",
    }
    shown
}
