//! Writes the man pages and shell completions of vnicd and vnicctl below a directory, as they are installed below `/usr`;
//! or prints the configuration reference.
//!
//!     manual DIR DATE
//!     manual --reference

#![forbid(unsafe_code)]

#[allow(dead_code)]
#[path = "../../../backend/src/bin/vnicctl/main.rs"]
mod vnicctl;

mod reference;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Programs of the administrator (man-pages(7)).
const SECTION: &str = "8";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let done = match (args.next(), args.next()) {
        (Some(word), None) if word == "--reference" => print_reference(),
        (Some(dir), Some(date)) => write(Path::new(&dir), &date).map_err(|e| format!("cannot write below {dir}: {e}")),
        _ => Err("usage: manual DIR DATE, or manual --reference".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("manual: {e}");
            ExitCode::FAILURE
        }
    }
}

fn print_reference() -> Result<(), String> {
    let mut command = vnicd::cli::Cli::command();
    command.build();
    print!("{}", reference::reference(&command)?);
    Ok(())
}

fn write(dir: &Path, date: &str) -> io::Result<()> {
    let completions = [
        (Shell::Bash, "share/bash-completion/completions"),
        (Shell::Zsh, "share/zsh/vendor-completions"),
        (Shell::Fish, "share/fish/vendor_completions.d"),
    ];
    for (name, command) in [("vnicd", vnicd::cli::Cli::command()), ("vnicctl", vnicctl::Cli::command())] {
        let pages = dir.join(format!("share/man/man{SECTION}"));
        fs::create_dir_all(&pages)?;
        // `help` prints what stands in the others' pages.
        let without_help = |command: Command| command.disable_help_subcommand(true);
        let mut paged = without_help(command.clone()).mut_subcommands(without_help);
        paged.build();
        page(&paged, name, date, &pages)?;
        let mut command = command.name(name);
        for (shell, place) in completions {
            fs::create_dir_all(dir.join(place))?;
            clap_complete::generate_to(shell, &mut command, name, dir.join(place))?;
        }
    }
    // Debian's bash looks for the name of the program alone.
    let bash = dir.join(completions[0].1);
    for name in ["vnicd", "vnicctl"] {
        fs::rename(bash.join(format!("{name}.bash")), bash.join(name))?;
    }
    Ok(())
}

/// A page for a command, and for each of its own.
fn page(command: &Command, name: &str, date: &str, dir: &Path) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub, &format!("{name}-{}", sub.get_name()), date, dir)?;
    }
    let leaked: &'static str = name.to_owned().leak();
    let manual = clap_mangen::Man::new(command.clone().name(leaked)).section(SECTION).manual("vnicd").date(date);
    let mut text = Vec::new();
    manual.render(&mut text)?;
    fs::write(dir.join(format!("{name}.{SECTION}")), text)
}
