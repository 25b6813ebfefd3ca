//! The configuration reference, in Markdown.

use std::any::TypeId;
use std::fmt::Write;

use clap::{Arg, ArgAction, Command};
use vnicd::config::uplink_help::UPLINKS;

const HEAD: &str = "\
# Configuration reference

<!-- Made from the code by `make docs`: change the help texts there, not this file. -->

Every option of vnicd. On the command line they stand with two dashes, and there is one device; in the file of `--config FILE`
they have the same names, and a `[[device]]` for each device:

    vnicd --socket-path /run/vm1.sock --uplink tap=vm1 --enter-pps 300000

```toml
control = \"/run/vnicd/control.sock\"

[[device]]
name = \"vm1\"
socket-path = \"/run/vnicd/vm1.sock\"
uplink = \"tap=vm1\"

[device.governor]
enter-pps = 300000
```

A mistake is named, with its line where there is one, and vnicd exits with 2 without having touched anything. At SIGHUP, and
by `vnicctl reload`, the file is read again ([control.md](control.md)). What to set and when is in [tuning.md](tuning.md).
";

/// The heading of options in the help, where they stand in a file, and what more there is to say.
const SECTIONS: &[(&str, &str, &str)] = &[
    (
        "The daemon",
        "at its top",
        "There alone stands `device-dir = \"DIR\"`: a directory, by its whole path, with a file `NAME.toml` for each of more \
         devices, whose keys are those of a `[[device]]` ([control.md](control.md)).",
    ),
    ("The device", "in `[[device]]`", "The values of `uplink` are [below](#uplinks)."),
    ("When to poll", "in `[device.governor]`", "What `mode = \"auto\"` goes by: [modes.md](modes.md)."),
    (
        "When to interrupt the guest, in polling mode",
        "in `[device.interrupts]`",
        "In interrupt mode it is interrupted after every round: [modes.md](modes.md).",
    ),
    ("What the guest may send", "in `[device.filter]`", "Everything, unless it is said: [guard.md](guard.md)."),
    (
        "How much may move, all queue pairs together",
        "in `[device.limits]`",
        "No limit, unless it is said: [guard.md](guard.md).",
    ),
];

/// Writes the reference of the command `vnicd`.
///
/// # Errors
/// When an option stands in no section.
pub(crate) fn reference(command: &Command) -> Result<String, String> {
    let mut text = String::from(HEAD);
    let mut told = 0;
    let under = |heading| command.get_arguments().filter(move |option| option.get_help_heading() == heading);
    for (heading, place, more) in SECTIONS {
        let options: Vec<&Arg> = under(Some(*heading)).collect();
        told += options.len();
        section(&mut text, heading, place, more, &options).map_err(|e| e.to_string())?;
    }
    uplinks(&mut text).map_err(|e| e.to_string())?;
    let alone: Vec<&Arg> = under(None).collect();
    told += alone.len();
    section(&mut text, "On the command line alone", "", "", &alone).map_err(|e| e.to_string())?;
    let all = command.get_arguments().count();
    if told == all { Ok(text) } else { Err(format!("{told} of {all} options are told: a heading has no section")) }
}

fn section(text: &mut String, heading: &str, place: &str, more: &str, options: &[&Arg]) -> std::fmt::Result {
    let in_file = !place.is_empty();
    let place = if in_file { format!("In a file {place}.") } else { String::new() };
    let said = [place.as_str(), more].join(" ");
    write!(text, "\n## {heading}\n\n")?;
    if !said.trim().is_empty() {
        write!(text, "{}\n\n", said.trim())?;
    }
    if in_file {
        writeln!(text, "| option | in the file | range | default | meaning |\n|--|--|--|--|--|")?;
    } else {
        writeln!(text, "| option | meaning |\n|--|--|")?;
    }
    for option in options.iter().filter(|option| !option.is_hide_set()) {
        row(text, option, in_file)?;
    }
    Ok(())
}

fn row(text: &mut String, option: &Arg, in_file: bool) -> std::fmt::Result {
    let name = option.get_long().unwrap_or_default();
    let value = option.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    let value = value.filter(|_| matches!(option.get_action(), ArgAction::Set));
    let spoken = match value {
        Some(value) => format!("--{name} {value}"),
        None => format!("--{name}"),
    };
    let help = Help::of(option);
    if !in_file {
        return writeln!(text, "| {} | {} |", code(&spoken), help.meaning);
    }
    let written = match value {
        None => format!("{name} = true"),
        Some(value) if is_number(option) => format!("{name} = {value}"),
        Some(value) => format!("{name} = \"{value}\""),
    };
    let default = option.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let default = match (default, value) {
        // A flag is said to be "false" here.
        (Some(default), Some(_)) => code(&default),
        _ if !help.default.is_empty() => help.default,
        (_, Some(_)) => "none".into(),
        (_, None) => "no".into(),
    };
    writeln!(text, "| {} | {} | {} | {default} | {} |", code(&spoken), code(&written), help.range, help.meaning)
}

/// Whether a file has the value without quotation marks.
fn is_number(option: &Arg) -> bool {
    let kind = option.get_value_parser().type_id();
    [TypeId::of::<u8>(), TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<i32>()]
        .into_iter()
        .any(|number| kind == number)
}

/// What the help text of an option says.
struct Help {
    range: String,
    default: String,
    meaning: String,
}

impl Help {
    fn of(option: &Arg) -> Self {
        let long = option.get_long_help().or(option.get_help()).map(ToString::to_string).unwrap_or_default();
        let (mut range, mut default, mut meaning) = (String::new(), String::new(), Vec::new());
        // Those of the uplink stand in a table of their own.
        let paragraphs = long.split("\n\n").take(if option.get_long() == Some("uplink") { 1 } else { usize::MAX });
        for paragraph in paragraphs {
            if let Some(said) = paragraph.strip_prefix("Range: ") {
                range = said.trim_end_matches('.').to_owned();
                continue;
            }
            let (said, by_default) = paragraph.split_once(" [default: ").unwrap_or((paragraph, ""));
            if !by_default.is_empty() {
                default = by_default.trim_end_matches(['.', ']']).to_owned();
            }
            meaning.push(format!("{}.", said.trim_end_matches('.')));
        }
        let values = option.get_possible_values();
        if matches!(option.get_action(), ArgAction::Set) && !values.is_empty() {
            range = values.iter().map(|value| code(value.get_name())).collect::<Vec<_>>().join(", ");
            meaning.extend(values.iter().filter_map(|value| {
                let help = value.get_help()?.to_string();
                Some(format!("{}: {}.", code(value.get_name()), help.trim_end_matches('.')))
            }));
        }
        Self { range, default, meaning: prose(&meaning.join(" ")) }
    }
}

fn uplinks(text: &mut String) -> std::fmt::Result {
    write!(text, "\n## Uplinks\n\nOptions stand after commas, behind the uplink that they belong to: ")?;
    write!(text, "`tap=vm1,bridge=br0,persist`. AF_XDP has a page of its own: [af-xdp.md](af-xdp.md).\n\n")?;
    writeln!(text, "| uplink | option | default | meaning |\n|--|--|--|--|")?;
    for (spec, means) in UPLINKS {
        let (means, default) = means.split_once(" [default: ").unwrap_or((means, ""));
        let default = default.trim_end_matches(']');
        let default = if default.is_empty() { String::new() } else { code(default) };
        let (uplink, option) = match spec.strip_prefix(',') {
            Some(option) => (String::new(), code(option)),
            None => (code(spec), String::new()),
        };
        writeln!(text, "| {uplink} | {option} | {default} | {} |", prose(means))?;
    }
    Ok(())
}

/// Text as code in a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Help text for a cell of a table; options in it are code.
fn prose(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*");
    let words = text.split(' ').map(|word| {
        let end = word.trim_end_matches(['.', ',', ';', ':']);
        if end.starts_with("--") { format!("`{end}`{}", &word[end.len()..]) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}
