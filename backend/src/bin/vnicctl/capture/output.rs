//! The file: which frames are written to it, and when they were.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vnicd::capture::Meta;
use vnicd::mode::Time;
use vnicd::worker;

use super::super::client::Error;
use super::filter::Filter;
use super::pcapng::{Counts, Frame, Interface, Way, Writer};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// The file being written.
pub(crate) struct Output<'a> {
    /// None: standard output.
    path: Option<PathBuf>,
    writer: Writer<BufWriter<Box<dyn Write>>>,
    filter: Option<&'a Filter>,
    snaplen: usize,
    clock: Clock,
    /// Frames that were written, by interface.
    written: Vec<u64>,
}

/// From the daemon's clock to that of the wall, as the two stood when the capture began.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Time,
    start_wall: Duration,
}

impl<'a> Output<'a> {
    /// Opens a file for these interfaces; `-` is standard output. What was in it is gone; a new one is for its owner alone.
    pub(crate) fn open(
        path: &Path,
        snaplen: u32,
        filter: Option<&'a Filter>,
        interfaces: &[&str],
    ) -> Result<Self, Error> {
        let path = (path.as_os_str() != "-").then(|| path.to_path_buf());
        let out: Box<dyn Write> = match &path {
            None => Box::new(io::stdout().lock()),
            Some(path) => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                Box::new(options.open(path).map_err(|e| cannot_write(Some(path), e))?)
            }
        };
        let start_wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = Clock { start: worker::now(), start_wall };
        let snaplen = snaplen as usize;
        let written = vec![0; interfaces.len()];
        let program = concat!("vnicctl ", env!("CARGO_PKG_VERSION"));
        let writer = Writer::new(BufWriter::with_capacity(BUFFER, out), program);
        let writer = writer.map_err(|e| cannot_write(path.as_deref(), e))?;
        let mut output = Self { path, writer, filter, snaplen, clock, written };
        for name in interfaces {
            let filter = filter.map(Filter::text);
            let done = output.writer.interface(&Interface { name, filter, snaplen: snaplen as u32 });
            done.map_err(|e| output.failed(e))?;
        }
        output.flush()?;
        Ok(output)
    }

    /// Writes a frame if the filter lets it through; says whether it does.
    pub(crate) fn write(&mut self, interface: u32, meta: &Meta, bytes: &[u8]) -> Result<bool, Error> {
        if self.filter.is_some_and(|filter| !filter.matches(bytes)) {
            return Ok(false);
        }
        let way = if meta.to_guest { Way::In } else { Way::Out };
        let bytes = &bytes[..bytes.len().min(self.snaplen)];
        let frame = Frame { interface, at: self.clock.wall(meta.at), way, len: meta.len, bytes };
        self.writer.frame(&frame).map_err(|e| self.failed(e))?;
        self.written[interface as usize] += 1;
        Ok(true)
    }

    /// Hands everything on to who reads the file.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(|e| self.failed(e))
    }

    /// Ends the file with what was counted. Says how many frames were dropped.
    pub(crate) fn end(&mut self, counts: &[Counts]) -> Result<u64, Error> {
        let (from, to) = (self.clock.start_wall, self.clock.wall(worker::now()));
        for ((interface, counts), written) in (0..).zip(counts).zip(self.written.clone()) {
            let counts = Counts { accepted: written, ..*counts };
            self.writer.counts(interface, &counts, from, to).map_err(|e| self.failed(e))?;
        }
        self.flush()?;
        Ok(counts.iter().map(|counts| counts.dropped).sum())
    }

    /// Frames that were written.
    pub(crate) fn frames(&self) -> u64 {
        self.written.iter().sum()
    }

    fn failed(&self, error: io::Error) -> Error {
        cannot_write(self.path.as_deref(), error)
    }
}

fn cannot_write(path: Option<&Path>, error: io::Error) -> Error {
    match path {
        Some(path) => Error::Capture(format!("cannot write '{}': {error}", path.display())),
        None => Error::Output(error),
    }
}

impl Clock {
    /// A time of the daemon's as one since 1970.
    fn wall(&self, at: Time) -> Duration {
        match at.duration_since(self.start) {
            Duration::ZERO => self.start_wall.saturating_sub(self.start.duration_since(at)),
            since => self.start_wall + since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_the_clock_on_the_wall() {
        let clock = Clock { start: Time::from_nanos(1000), start_wall: Duration::from_secs(9) };
        for (at, wall) in [(1000, 9_000_000_000), (1500, 9_000_000_500), (900, 8_999_999_900)] {
            assert_eq!(clock.wall(Time::from_nanos(at)), Duration::from_nanos(wall));
        }
    }
}
