//! The configuration reference is what the code says, and the code does what the reference says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use vnicd::config::{Config, ConfigError, Texts};

const PLACES: &[(&str, &str)] = &[
    ("at its top", ""),
    ("in `[[device]]`", "[[device]]\nsocket-path = '/s'\n"),
    ("in `[device.governor]`", "[[device]]\nsocket-path = '/s'\n[device.governor]\n"),
    ("in `[device.interrupts]`", "[[device]]\nsocket-path = '/s'\n[device.interrupts]\n"),
    ("in `[device.filter]`", "[[device]]\nsocket-path = '/s'\n[device.filter]\n"),
    ("in `[device.limits]`", "[[device]]\nsocket-path = '/s'\n[device.limits]\n"),
];

/// What else must be said for a value at the end of its range.
const COMPANIONS: &[(&str, &str)] = &[("enter-pps", "leave-pps = 0\n")];

fn committed() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}: run make docs", path.display()))
}

/// What a file with this text means.
fn parse(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Texts::read(file.path()).and_then(|texts| texts.parse())
}

/// The rows of the table that stands where options are said to stand at `place`: name, as written in a file, range.
fn rows(text: &str, place: &str) -> Vec<(String, String, String)> {
    let said = format!("In a file {place}.");
    let section = text.split("\n## ").find(|section| section.contains(&said)).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `--"));
    let parts = rows.map(|row| {
        let cells: Vec<String> = row.replace("\\|", "¦").split('|').map(|cell| cell.trim().to_owned()).collect();
        let written = cells[2].trim_matches('`').to_owned();
        let name = written.split(' ').next().unwrap_or_default().to_owned();
        (name, written, cells[3].clone())
    });
    parts.collect()
}

#[test]
fn the_file_is_what_the_code_says() {
    let made = Command::new(env!("CARGO_BIN_EXE_manual")).arg("--reference").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (made, committed) = (String::from_utf8(made.stdout).unwrap(), committed());
    for (at, (said, says)) in committed.lines().zip(made.lines()).enumerate() {
        assert_eq!(said, says, "docs/configuration.md:{} is not what the code says: run make docs", at + 1);
    }
    assert_eq!(made, committed, "docs/configuration.md has another end than the code: run make docs");
}

/// The keys that a file may have at a place, as the error for a wrong one lists them.
fn keys(head: &str) -> BTreeSet<String> {
    let wrong = if head.is_empty() { "moon = 1\n".into() } else { format!("{head}moon = 1\n") };
    let error = parse(&wrong).unwrap_err().to_string();
    let (_, listed) = error.split_once("expected ").expect("a list of keys");
    listed.split('`').skip(1).step_by(2).map(String::from).collect()
}

#[test]
fn options_stand_where_the_reference_says() {
    let tables = ["device", "device-dir", "governor", "interrupts", "filter", "limits"];
    for (place, head) in PLACES {
        let told: BTreeSet<String> = rows(&committed(), place).into_iter().map(|(name, ..)| name).collect();
        let known: BTreeSet<String> = keys(head).into_iter().filter(|key| !tables.contains(&key.as_str())).collect();
        assert_eq!(told, known, "options {place}");
    }
}

#[test]
fn ranges_are_those_that_are_checked() {
    let mut tried = 0;
    for (place, head) in PLACES {
        for (name, written, range) in rows(&committed(), place) {
            let numbers: Vec<u64> = range.split([' ', ',']).filter_map(|word| word.parse().ok()).take(2).collect();
            let is_good = |value: u64| {
                let value = match written.contains('"') {
                    true if range.contains("characters") => format!("'{}'", "x".repeat(value as usize)),
                    true => format!("'{value}'"),
                    false => value.to_string(),
                };
                let with = COMPANIONS.iter().find(|(other, _)| *other == name).map_or("", |(_, with)| with);
                parse(&format!("{head}{with}{name} = {value}\n")).and_then(Config::check).is_ok()
            };
            let (Some(least), most) = (numbers.first(), numbers.get(1)) else { continue };
            tried += 1;
            assert!(is_good(*least), "{name} = {least} is refused");
            assert!(*least == 0 || !is_good(least - 1), "{name} = {} is taken", least - 1);
            if let Some(most) = most {
                assert!(is_good(*most), "{name} = {most} is refused");
                assert!(!is_good(most + 1), "{name} = {} is taken", most + 1);
            }
        }
    }
    assert!(tried >= 20, "{tried} ranges were tried");
}
