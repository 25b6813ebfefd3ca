//! QEMU's machine protocol, as much of it as tests need: a command, its answer, events skipped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::guest::link;

const ANSWER: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = link::connect(path, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        qmp.read().context("QEMU does not greet")?;
        qmp.execute(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(qmp)
    }

    /// Sends a command and returns what is in its `return`.
    pub(crate) fn execute(&mut self, command: &Value) -> Result<Value> {
        let stream = self.reader.get_mut();
        stream.write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut answer = self.read().with_context(|| format!("no answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
