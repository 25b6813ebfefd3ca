//! The way to a daemon.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use vnicd::control::{self, RpcError};

/// A daemon that does not answer within this time is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no daemon, or it does not answer.
    #[error("no vnicd answers at '{path}': {source}; is it started with --control?")]
    NoDaemon {
        /// Its socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon ended, or let go of this client.
    #[error("the vnicd at '{0}' closed the connection")]
    Closed(PathBuf),
    /// The daemon refused what was asked.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// The answer does not read as expected.
    #[error("the daemon's answer is of another version: {0}; try --json")]
    OtherVersion(#[from] serde_json::Error),
    /// The output could not be written.
    #[error("cannot print: {0}")]
    Output(io::Error),
    /// Something is wrong with a set-up, which was told already.
    #[error("{0} at fault: see above")]
    Faults(usize),
    /// The screen cannot be shown.
    #[error("{0}")]
    Top(String),
}

/// A daemon. Each question has a connection of its own: none is kept that the daemon might want for somebody else.
#[derive(Debug)]
pub(crate) struct Daemon {
    path: PathBuf,
}

/// A connection on which more than the answer comes.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    daemon: &'a Daemon,
    reader: BufReader<UnixStream>,
}

impl Daemon {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Asks, and gives the answer as it came.
    pub(crate) fn ask(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.open(method, params).map(|(answer, _)| answer)
    }

    /// Asks, and reads the answer.
    pub(crate) fn ask_for<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, Error> {
        Ok(serde_json::from_value(self.ask(method, params)?)?)
    }

    /// Asks, and keeps the connection for what comes after the answer.
    pub(crate) fn open(&self, method: &str, params: Value) -> Result<(Value, Connection<'_>), Error> {
        let mut stream = UnixStream::connect(&self.path).map_err(|e| self.no_daemon(e))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| self.no_daemon(e))?;
        stream.write_all(control::call(method, params).as_bytes()).map_err(|e| self.no_daemon(e))?;
        let mut connection = Connection { daemon: self, reader: BufReader::new(stream) };
        let answer = control::parse_answer(&connection.line()?)?;
        connection.reader.get_ref().set_read_timeout(None).map_err(|e| self.no_daemon(e))?;
        Ok((answer, connection))
    }

    fn no_daemon(&self, source: io::Error) -> Error {
        let source = match source.kind() {
            ErrorKind::WouldBlock => io::Error::other(format!("nothing came within {} s", PATIENCE.as_secs())),
            _ => source,
        };
        Error::NoDaemon { path: self.path.clone(), source }
    }
}

impl Connection<'_> {
    /// The next line.
    pub(crate) fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(Error::Closed(self.daemon.path.clone())),
            Ok(_) => Ok(line),
            Err(e) => Err(self.daemon.no_daemon(e)),
        }
    }
}

/// Prints text as it is.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Prints a value for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), Error> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
