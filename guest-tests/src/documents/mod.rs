//! The project's documents as a reader meets them: their commands, what they show of the output, their links.
//!
//! An indented block is a console. Where lines have a prompt (`# `, `$ `, `host# `, `guest# `, `(qemu) `), the others are what
//! the command before them prints; where none has, every line is a command. A block that
//! begins with `KEY = VALUE` is a piece of a file. A fenced block is no console: `toml` is a
//! configuration file of vnicd's, `→` and `←` are what is sent to the control socket and its answer,
//! others show something. A block whose first line has `[` behind a space is a synopsis.

mod commands;
mod links;
mod loosely;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use links::dead_links;
pub use loosely::looks_like;
pub use stage::Stage;

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its path from the top of the repository.
    pub path: String,
    /// What stands in it.
    pub text: String,
}

/// Who a command is typed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A host; its name, which is empty if it has none.
    Host(String),
    /// A guest.
    Guest,
    /// QEMU's monitor.
    Monitor,
}

/// What is to be done at one place of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command, and the lines that it is shown to print.
    Command {
        /// Where.
        prompt: Prompt,
        /// In one line, without comment.
        text: String,
        /// The lines.
        shown: Vec<String>,
    },
    /// A configuration file.
    File(String),
    /// A request on the control socket, and its answer.
    Exchange(String, String),
}

/// The top of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Document {
    /// All that are written for users, and those for who works on vnicd that have commands.
    pub fn all() -> Result<Vec<Self>> {
        let top = repository();
        let mut paths: Vec<String> =
            ["README", "CONTRIBUTING", "SECURITY", "CHANGELOG"].map(|name| format!("{name}.md")).into();
        paths.extend(["configs", "packaging", "backend/fuzz"].map(|dir| format!("{dir}/README.md")));
        for entry in fs::read_dir(top.join("docs"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                paths.push(format!("docs/{name}"));
            }
        }
        paths.sort();
        let read = |path: String| {
            let text = fs::read_to_string(top.join(&path)).with_context(|| path.clone())?;
            Ok(Self { path, text })
        };
        paths.into_iter().map(read).collect()
    }

    /// Its commands and files in their order, each with its line.
    #[must_use]
    pub fn steps(&self) -> Vec<(usize, Step)> {
        let (mut steps, mut block, mut fence) = (Vec::new(), Vec::new(), None);
        let mut after_blank = true;
        for (at, line) in self.text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                match fence.take() {
                    None => {
                        steps.extend(console(std::mem::take(&mut block)));
                        fence = Some(language.trim().to_owned());
                    }
                    Some(language) if language == "toml" => steps.extend(file(std::mem::take(&mut block))),
                    Some(_) => steps.extend(exchanges(&std::mem::take(&mut block))),
                }
                after_blank = true;
                continue;
            }
            if fence.is_some() {
                block.push((at + 1, line.to_owned()));
                continue;
            }
            match line.strip_prefix("    ") {
                Some(rest) if after_blank || !block.is_empty() => block.push((at + 1, rest.to_owned())),
                _ if line.trim().is_empty() => {}
                _ => steps.extend(console(std::mem::take(&mut block))),
            }
            after_blank = line.trim().is_empty();
        }
        steps.extend(console(block));
        steps
    }
}

fn file(block: Vec<(usize, String)>) -> Option<(usize, Step)> {
    let at = block.first()?.0;
    Some((at, Step::File(block.into_iter().map(|(_, line)| line + "\n").collect())))
}

fn exchanges(block: &[(usize, String)]) -> Vec<(usize, Step)> {
    let pairs = block.windows(2).filter_map(|pair| {
        let (sent, answer) = (pair[0].1.strip_prefix("→ ")?, pair[1].1.strip_prefix("← ")?);
        Some((pair[0].0, Step::Exchange(sent.to_owned(), answer.to_owned())))
    });
    pairs.collect()
}

fn console(block: Vec<(usize, String)>) -> Vec<(usize, Step)> {
    let mut steps: Vec<(usize, Step)> = Vec::new();
    let is_no_console = |line: &str| line.contains(" [") || line.split_whitespace().nth(1) == Some("=");
    if block.first().is_some_and(|(_, line)| is_no_console(line)) {
        return steps;
    }
    let prompted = block.iter().any(|(_, line)| prompt(line.trim_start()).is_some());
    let mut goes_on = false;
    for (at, line) in block {
        let line = line.trim();
        let typed = match prompt(line) {
            _ if goes_on => None,
            None if !prompted => Some((Prompt::Host(String::new()), line)),
            typed => typed,
        };
        let is_typed = goes_on || typed.is_some();
        match (typed, steps.last_mut()) {
            (Some((prompt, text)), _) => {
                steps.push((at, Step::Command { prompt, text: part(text), shown: Vec::new() }));
            }
            (None, Some((_, Step::Command { text, .. }))) if goes_on => *text = format!("{text} {}", part(line)),
            (None, Some((_, Step::Command { shown, .. }))) => shown.push(line.to_owned()),
            _ => {}
        }
        goes_on = is_typed && (line.ends_with('\\') || line.ends_with('|'));
    }
    steps
}

/// A line of a command without comment and without the sign that it goes on.
fn part(text: &str) -> String {
    let text = text.split_once(" # ").map_or(text, |(text, _)| text);
    text.trim_end_matches('\\').split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The prompt at the beginning of a line, and what is typed there.
fn prompt(line: &str) -> Option<(Prompt, &str)> {
    if let Some(text) = line.strip_prefix("(qemu) ") {
        return Some((Prompt::Monitor, text));
    }
    if let Some(text) = line.strip_prefix("$ ") {
        return Some((Prompt::Host(String::new()), text));
    }
    let (host, text) = line.split_once("# ")?;
    match host {
        "guest" => Some((Prompt::Guest, text)),
        "host" => Some((Prompt::Host(String::new()), text)),
        _ if host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) => {
            Some((Prompt::Host(host.to_owned()), text))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(host: &str, text: &str, shown: &[&str]) -> Step {
        let shown = shown.iter().map(|line| (*line).to_owned()).collect();
        Step::Command { prompt: Prompt::Host(host.into()), text: text.into(), shown }
    }

    #[test]
    fn commands_are_told_from_what_they_print() {
        let text = "Text:\n\n    make x     # a comment\n    echo a |\n      cat\n\nMore\n    that is no block.\n\n    # one \\\n      two\n    \
                    printed\n    host2# three\n\n```\nvnicd PATH\n→ 1\n← 2\n```\n\n```toml\na = 1\n```\n\n    vnicd [--fd N]\n    guest# x\n";
        let steps: Vec<Step> =
            Document { path: String::new(), text: text.into() }.steps().into_iter().map(|(_, step)| step).collect();
        let expected = [
            command("", "make x", &[]),
            command("", "echo a | cat", &[]),
            command("", "one two", &["printed"]),
            command("host2", "three", &[]),
            Step::Exchange("1".into(), "2".into()),
            Step::File("a = 1\n".into()),
        ];
        assert_eq!(steps, expected);
    }
}
