//! What the documents tell: every command is carried out and does what is said, or stands below with the reason why not;
//! every option that is named is there, and every link leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use guest_tests::documents::{Document, Prompt, Stage, Step, dead_links, repository};
use guest_tests::vnicd::binary;
use guest_tests::{Output, Process};
use vnicd_lib::cli::Cli;
use vnicd_lib::service::PassedSockets;

const END: Duration = Duration::from_secs(20);

const PACKAGES: &str = "installs packages: run by tests/packages.rs";
const LIBVIRT: &str = "needs libvirt: run by tests/new_user.rs";
const SERVICES: &str = "needs systemd: run by tests/packages.rs";
const HARDWARE: &str = "needs hardware: a NIC whose queues can be chosen and that sorts what it receives";
const MACHINE: &str = "changes the whole machine";

/// Commands that are not carried out: how they begin, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("make deb && sudo apt install ./target/package/vnicd_*.deb", PACKAGES),
    ("apt install ./target/package/vnicd_*.deb", PACKAGES),
    ("systemctl enable --now vnicd", SERVICES),
    ("systemctl status vnicd", SERVICES),
    ("systemctl reload vnicd", SERVICES),
    ("systemctl restart vnicd", SERVICES),
    ("vnicctl device add vm1 --socket-path /run/vnicd/vm1.sock --socket-mode 660", SERVICES),
    ("vnicctl --control /run/vnicd/vm1.control status", SERVICES),
    ("virsh define", LIBVIRT),
    ("virsh start", LIBVIRT),
    ("cargo build --release", "takes minutes: run by scripts/package"),
    ("wget -O disk.img", "fetches an image of some hundred megabytes"),
    ("cloud-hypervisor ", "needs hardware: KVM"),
    ("dpdk-testpmd ", "needs huge pages: run by tests/testpmd.rs"),
    ("qemu-system-x86_64 … -incoming", "needs two hosts: run by tests/migration.rs"),
    ("migrate -d", "needs two hosts: run by tests/migration.rs"),
    ("ethtool -L eth1 combined 4", HARDWARE),
    ("ethtool -X eth1", HARDWARE),
    ("ethtool -K eth1 ntuple on", HARDWARE),
    ("ethtool -N eth1", HARDWARE),
    ("sysctl vm.nr_hugepages", MACHINE),
    ("dmesg | grep", "shows what the machine's kernel has noted"),
];

/// Options that documents name and no help does: of cargo, cloud-hypervisor, DPDK, irqbalance, systemctl, valgrind, the benches,
/// and the one of vnicd that is hidden.
const FOREIGN: &[&str] = &[
    "--release",
    "--test",
    "--nocapture",
    "--memory",
    "--net",
    "--no-pci",
    "--in-memory",
    "--single-file-segments",
    "--vdev",
    "--record-core-cycles",
    "--banirq",
    "--now",
    "--tool",
    "--instructions",
    "--patterns",
    "--sandbox-self-test",
];

#[test]
fn every_command_does_what_is_told() -> Result<()> {
    let (mut faults, mut not_run) = (Vec::new(), BTreeSet::new());
    let only = std::env::var("DOCUMENT").ok();
    for document in Document::all()? {
        if only.as_ref().is_some_and(|only| *only != document.path) {
            continue;
        }
        let mut hosts: BTreeMap<String, Stage> = BTreeMap::new();
        for (line, step) in document.steps() {
            let at = format!("{}:{line}", document.path);
            let (host, told) = match &step {
                Step::File(_) => ("", String::from("a configuration file")),
                Step::Exchange(sent, _) => ("", sent.clone()),
                Step::Command { prompt, text, .. } => {
                    if let Some((begin, _)) = NOT_RUN.iter().find(|(begin, _)| text.starts_with(begin)) {
                        not_run.insert(*begin);
                        continue;
                    }
                    let host = if let Prompt::Host(host) = prompt { host.as_str() } else { "" };
                    (host, text.clone())
                }
            };
            if !hosts.contains_key(host) {
                hosts.insert(host.to_owned(), Stage::new()?);
            }
            let stage = hosts.get_mut(host).context("it was made")?;
            let done = match &step {
                Step::File(text) => configures(text).and_then(|()| stage.file(text)),
                Step::Exchange(sent, answer) => stage.exchange(sent, answer),
                Step::Command { prompt, text, shown } => stage.run(prompt, text, shown),
            };
            eprintln!("{at}: {told}: {}", if done.is_ok() { "well" } else { "NOT WELL" });
            faults.extend(done.err().map(|e| format!("{at}: {told}\n{e:#}")));
        }
    }
    ensure!(faults.is_empty(), "{} steps do not do what is told:\n\n{}", faults.len(), faults.join("\n\n"));
    let unused: Vec<_> = NOT_RUN.iter().filter(|(begin, _)| !not_run.contains(begin)).collect();
    ensure!(only.is_some() || unused.is_empty(), "no document has these any more: {unused:#?}");
    Ok(())
}

/// Whether a file is a configuration, but for this machine's groups.
fn configures(text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text.replace("\"kvm\"", "\"0\""))?;
    let cli = Cli::try_parse_from([Path::new("vnicd"), Path::new("--config"), file.path()])?;
    cli.into_config(PassedSockets::default()).map(drop).map_err(|e| anyhow!("{e}"))
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let dead: Vec<String> = Document::all()?.iter().flat_map(dead_links).collect();
    ensure!(dead.is_empty(), "{}", dead.join("\n"));
    Ok(())
}

/// Whatever stands with two dashes in a document is an option of vnicd's or vnicctl's, or of a program that is named above.
#[test]
fn every_option_is_there() -> Result<()> {
    let mut known = BTreeSet::new();
    options(&binary()?, &[], &mut known)?;
    options(&binary()?.with_file_name("vnicctl"), &[], &mut known)?;
    ensure!(known.contains("--socket-path") && known.contains("--watch") && known.contains("--for"), "{known:?}");
    let (mut unknown, mut foreign) = (Vec::new(), BTreeSet::new());
    for document in Document::all()? {
        for (at, line) in document.text.lines().enumerate() {
            for option in named(line) {
                if let Some(name) = FOREIGN.iter().find(|name| **name == option) {
                    foreign.insert(*name);
                } else if !known.contains(option) {
                    unknown.push(format!("{}:{}: {option}", document.path, at + 1));
                }
            }
        }
    }
    ensure!(unknown.is_empty(), "neither vnicd nor vnicctl has these options:\n{}", unknown.join("\n"));
    let unused: Vec<_> = FOREIGN.iter().filter(|name| !foreign.contains(*name)).collect();
    ensure!(unused.is_empty(), "no document has these any more: {unused:?}");
    Ok(())
}

/// Options that a line names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("--").filter_map(|(at, _)| {
        let rest = &line[at + 2..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        let begins = !line[..at].ends_with(|c: char| c == '-' || c.is_ascii_alphanumeric());
        (begins && rest.starts_with(|c: char| c.is_ascii_lowercase()))
            .then(|| line[at..at + 2 + end].trim_end_matches('-'))
    })
}

/// The options that the help of a program and its commands names.
fn options(program: &Path, words: &[&str], known: &mut BTreeSet<String>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(words).arg("--help");
    let Output { stdout, .. } = Process::spawn(command)?.wait_output(END)?;
    known.extend(stdout.lines().flat_map(named).map(String::from));
    let commands = stdout.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        options(program, &[words, &[name]].concat(), known)?;
    }
    Ok(())
}

/// What stands above is about this repository.
#[test]
fn reasons_name_what_is_there() {
    for (_, reason) in NOT_RUN {
        for path in reason.split(' ').filter(|word| word.contains('/')) {
            let top = repository();
            assert!(top.join(path).exists() || top.join("guest-tests").join(path).exists(), "{path}");
        }
    }
}

/// Lines that the code puts together of words.
const PUT_TOGETHER: &[&str] = &[
    "uplink made device=nic0 uplink=\"tap vnic0\" queue_pairs=32",
    "link down",
    "link up",
    "the kick fd …",
    "the err fd …",
    "AF_XDP: copy, multi-buffer, …",
];

/// A line of the log, or an error, that is explained is one that the code has.
#[test]
fn lines_that_are_explained_are_the_codes() -> Result<()> {
    let source = source(&repository().join("backend/src"))?;
    let text = std::fs::read_to_string(repository().join("docs/troubleshooting.md"))?;
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let lines: Vec<&str> = cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
    ensure!(lines.len() > 50, "{} lines were found", lines.len());
    let is_known = |line: &str| PUT_TOGETHER.contains(&line) || parts(line).iter().any(|part| source.contains(part));
    let unknown: Vec<&&str> = lines.iter().filter(|line| !is_known(line)).collect();
    ensure!(unknown.is_empty(), "the code has no such lines: {unknown:#?}");
    Ok(())
}

/// The parts of a line that are the same each time: without names, numbers and fields. Those of two words or more, if there are
/// any.
fn parts(line: &str) -> Vec<&str> {
    let varies =
        |word: &str| word.contains(['=', '…', '"', '\'', '/']) || word.bytes().all(|b| !b.is_ascii_lowercase());
    let mut parts = vec![];
    let (mut begin, mut at) = (0, 0);
    for word in line.split_inclusive(' ') {
        if varies(word) {
            parts.push(&line[begin..at]);
            begin = at + word.len();
        }
        at += word.len();
    }
    parts.push(&line[begin..]);
    let parts = parts.into_iter().map(str::trim);
    let (telling, others): (Vec<_>, Vec<_>) = parts.partition(|part| part.contains(' '));
    if telling.is_empty() { others } else { telling }
}

/// All code below a directory, its strings in one line each.
fn source(dir: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            text += &source(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let read = std::fs::read_to_string(&path)?;
            text += &read.replace("\\\n", "").split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        }
    }
    Ok(text)
}
