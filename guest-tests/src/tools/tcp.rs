//! One TCP connection that carries a payload one way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::payload::{Hash, Payload};
use super::{READY, TcpReport};

/// A connection on which nothing moves for so long is given up.
const STALL: Duration = Duration::from_secs(20);
const PIECE: usize = 64 * 1024;

pub(super) fn receive(port: u16) -> Result<TcpReport> {
    // One listener for both families, where there are both.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    println!("{READY}");
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let (mut hash, mut bytes, mut buffer) = (Hash::default(), 0, vec![0; PIECE]);
    loop {
        let length = match stream.read(&mut buffer) {
            // A machine that was put to sleep for a moment.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read.with_context(|| format!("the connection failed after {bytes} bytes"))?,
        };
        if length == 0 {
            return Ok(TcpReport { bytes, sha256: hash.hex() });
        }
        hash.add(&buffer[..length]);
        bytes += length as u64;
    }
}

/// Sends `bytes` bytes, or as many until `stop` exists.
pub(super) fn send(to: (&str, u16), bytes: u64, seed: u64, stop: Option<&Path>) -> Result<TcpReport> {
    let to = to.to_socket_addrs()?.next().context("the address names nobody")?;
    let mut stream = TcpStream::connect_timeout(&to, STALL)?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let (mut payload, mut hash, mut buffer) = (Payload::new(seed), Hash::default(), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 && !stop.is_some_and(Path::exists) {
        let piece = &mut buffer[..left.min(PIECE as u64) as usize];
        payload.fill(piece);
        hash.add(piece);
        stream.write_all(piece).with_context(|| format!("the connection failed {left} bytes before the end"))?;
        left -= piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver closes when it has all; a reset would show here.
    if stream.read(&mut [0]).context("the receiver did not close")? != 0 {
        bail!("the receiver sent something");
    }
    Ok(TcpReport { bytes: bytes - left, sha256: hash.hex() })
}
