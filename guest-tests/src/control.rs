//! A client of the daemon's control socket, request by request.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long an answer or an event may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the control socket.
#[derive(Debug)]
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects and says nothing.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        self.0.get_ref()
    }

    /// Sends bytes as they stand.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    /// The next line that comes; none if the connection was closed.
    pub fn line(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        match self.0.read_line(&mut line).context("no line came")? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line).with_context(|| format!("this is no JSON: {line}"))?)),
        }
    }

    /// What comes back for a line, whatever it is.
    pub fn exchange(&mut self, line: &str) -> Result<Value> {
        self.send(format!("{line}\n").as_bytes())?;
        self.line()?.context("the connection was closed")
    }

    /// The result of a method.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        let mut answer = self.exchange(&request.to_string())?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => bail!("{method} {params}: {answer}"),
        }
    }
}
