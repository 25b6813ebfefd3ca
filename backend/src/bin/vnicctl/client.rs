//! The way to a daemon.

use std::io::{self, BufRead, BufReader, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
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
    /// A capture cannot go on.
    #[error("{0}")]
    Capture(String),
    /// A device cannot be added, removed or shown.
    #[error("{0}")]
    Device(String),
    /// The configuration is not as it should be.
    #[error("nothing is changed: {0}")]
    NotReloaded(String),
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
        let stream = self.send(method, params)?;
        let mut connection = Connection { daemon: self, reader: BufReader::new(stream) };
        let answer = control::parse_answer(&connection.line()?)?;
        connection.reader.get_ref().set_read_timeout(None).map_err(|e| self.no_daemon(e))?;
        Ok((answer, connection))
    }

    /// Asks, and has a file with the answer, and the connection that both came on.
    pub(crate) fn ask_for_file(&self, method: &str, params: Value) -> Result<(Value, OwnedFd, UnixStream), Error> {
        let stream = self.send(method, params)?;
        let (mut line, mut file) = (Vec::new(), None);
        while !line.ends_with(b"\n") {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut with, RecvFlags::CMSG_CLOEXEC);
            match got.map_err(|e| self.no_daemon(e.into()))?.bytes {
                0 => return Err(self.closed()),
                n => line.extend(&bytes[..n]),
            }
            for message in with.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    file = files.last().or(file);
                }
            }
        }
        let answer = control::parse_answer(&String::from_utf8_lossy(&line))?;
        let file = file.ok_or_else(|| Error::Capture("the daemon's answer came without a file".into()))?;
        Ok((answer, file, stream))
    }

    fn send(&self, method: &str, params: Value) -> Result<UnixStream, Error> {
        let mut stream = UnixStream::connect(&self.path).map_err(|e| self.no_daemon(e))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| self.no_daemon(e))?;
        stream.write_all(control::call(method, params).as_bytes()).map_err(|e| self.no_daemon(e))?;
        Ok(stream)
    }

    /// The daemon is gone.
    pub(crate) fn closed(&self) -> Error {
        Error::Closed(self.path.clone())
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
            Ok(0) => Err(self.daemon.closed()),
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
