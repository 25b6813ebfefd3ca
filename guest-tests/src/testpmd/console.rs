//! testpmd's command line: one command after another, each waited for.

use std::io::{PipeWriter, Write, pipe};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lines::Stream;
use crate::process::Process;
use crate::spawn::pass_fd;

/// How long a command may take; the first one waits for DPDK's start.
const PATIENCE: Duration = Duration::from_secs(20);

/// An interactive testpmd; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Console {
    process: Process,
    stdin: PipeWriter,
    commands: u64,
    /// Bytes of its output that commands before have had.
    read: usize,
}

impl Console {
    /// Turns a command without arguments, `stdbuf`, into the beginning of a command line of testpmd that can be talked
    /// to: its output would come in blocks otherwise.
    pub fn begin(mut stdbuf: Command) -> Command {
        stdbuf.args(["-oL", "dpdk-testpmd"]);
        stdbuf
    }

    /// Starts a testpmd that was told `--interactive`.
    pub fn spawn(mut command: Command, lifetime: Duration) -> Result<Self> {
        let (input, stdin) = pipe()?;
        pass_fd(&mut command, input.into(), 0);
        let process = Process::spawn_for(command, lifetime).context("no testpmd: run `scripts/setup test` first")?;
        Ok(Self { process, stdin, commands: 0, read: 0 })
    }

    /// Runs a command and returns what it printed to standard output.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.commands += 1;
        // A comment is echoed when the command before it has ended.
        let mark = format!("#{}.", self.commands);
        self.stdin.write_all(format!("{line}\n{mark}\n").as_bytes()).with_context(|| self.process.tail())?;
        self.process.wait_for_line(&mark, PATIENCE).with_context(|| format!("`{line}` does not end"))?;
        let text = self.process.lines().text(Stream::Out);
        let printed = text[self.read..].to_owned();
        self.read = text.len();
        for refused in ["Bad arguments", "Command not found", "Ambiguous command"] {
            ensure!(!printed.contains(refused), "`{line}`: {printed}");
        }
        Ok(printed)
    }

    /// Runs several commands.
    pub fn run_all(&mut self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.run(line).map(drop))
    }

    /// The process: signals, waits, output.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it in order.
    pub fn quit(mut self) -> Result<()> {
        self.stdin.write_all(b"quit\n")?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "testpmd ended with {status}\n{}", self.process.tail());
        Ok(())
    }

    /// SIGKILL; how it ended.
    pub fn kill(self) -> Result<ExitStatus> {
        self.process.kill()
    }
}
