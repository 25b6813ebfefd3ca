//! Traffic whose payload can be checked, run by the same program in the guest and on the host.
//!
//! | line | prints |
//! |--|--|
//! | `tcp-recv PORT` | `ready`, then a [`TcpReport`] of what one connection brought |
//! | `tcp-send ADDR PORT BYTES SEED [STOP]` | a [`TcpReport`] of what was sent: all, or as much until the file STOP exists |
//! | `memory MIB STOP [REST_MS]` | `ready`, then a [`MemoryReport`] when the file STOP exists |
//! | `udp-recv PORT COUNT IDLE_MS` | `ready`, then a [`UdpReport`]: after COUNT datagrams, or when none came for IDLE_MS |
//! | `udp-send ADDR PORT COUNT SIZE SEED [PPS [BATCH]]` | a [`UdpReport`] of what was sent, BATCH datagrams a call |
//! | `stream-recv PORT SEED STOP` | `ready`, then a [`FlowReport`] every second of what one connection brought |
//! | `stream-send ADDR PORT SEED STOP` | a [`FlowReport`] every second, until the file STOP exists |
//! | `datagram-recv PORT SEED STOP` | the same of datagrams |
//! | `datagram-send ADDR PORT SEED PPS STOP` | the same of datagrams |
//! | `udp-flood ADDR PORT SIZE SECONDS` | nothing: the same datagram as fast as it goes, whoever may get it |
//!
//! A report is one line of JSON. In a guest the program is `tool`; on the host it is `guest-agent tool`.

pub mod flow;
mod memory;
mod payload;
mod tcp;
mod udp;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use flow::{Flow, FlowReport};

/// What a receiver prints when it can be sent to.
pub const READY: &str = "ready";

/// What went over a TCP connection, seen from one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReport {
    /// Bytes.
    pub bytes: u64,
    /// Their SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Memory that was checked over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Its pages.
    pub pages: u64,
    /// How often all of them were checked.
    pub rounds: u64,
    /// Pages that were not as they were written.
    pub wrong: u64,
}

/// Datagrams, seen from one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpReport {
    /// Datagrams, each counted once, without the corrupt ones.
    pub count: u64,
    /// Datagrams whose checksum of their own does not fit. The sender has none.
    pub corrupt: u64,
    /// Datagrams that came again. The sender has none.
    pub duplicates: u64,
    /// SHA-256 in hexadecimal over the datagrams in the order of their sequence numbers.
    pub sha256: String,
}

/// Runs a tool by its command line; what it has to say goes to standard output.
pub fn run(args: &[String]) -> Result<()> {
    let arg = |at: usize, name: &str| args.get(at).map(String::as_str).with_context(|| format!("{name} is missing"));
    fn number<T: FromStr>(text: &str) -> Result<T> {
        text.parse().ok().with_context(|| format!("{text} is not a number that fits"))
    }
    match arg(0, "the tool's name")? {
        "tcp-recv" => print(&tcp::receive(number(arg(1, "PORT")?)?)?),
        "tcp-send" => {
            let to = (arg(1, "ADDR")?, number(arg(2, "PORT")?)?);
            let stop = args.get(5).map(Path::new);
            print(&tcp::send(to, number(arg(3, "BYTES")?)?, number(arg(4, "SEED")?)?, stop)?)
        }
        "memory" => {
            let rest = Duration::from_millis(args.get(3).map_or(Ok(0), |rest| number(rest))?);
            print(&memory::check(number(arg(1, "MIB")?)?, Path::new(arg(2, "STOP")?), rest)?)
        }
        "udp-recv" => {
            let [port, count, idle_ms] = [arg(1, "PORT")?, arg(2, "COUNT")?, arg(3, "IDLE_MS")?];
            print(&udp::receive(number(port)?, number(count)?, number(idle_ms)?)?)
        }
        "udp-send" => {
            let to = (arg(1, "ADDR")?, number(arg(2, "PORT")?)?);
            let [count, size, seed] = [arg(3, "COUNT")?, arg(4, "SIZE")?, arg(5, "SEED")?];
            let pps = args.get(6).map(|pps| number(pps)).transpose()?;
            let batch = args.get(7).map_or(Ok(1), |batch| number(batch))?;
            print(&udp::send(to, number(count)?, number(size)?, number(seed)?, pps, batch)?)
        }
        "stream-recv" => {
            let (port, seed) = (number(arg(1, "PORT")?)?, number(arg(2, "SEED")?)?);
            flow::told(Path::new(arg(3, "STOP")?), |flow| {
                let listener = TcpListener::bind(("0.0.0.0", port))?;
                println!("{READY}");
                flow.receive_stream(listener.accept()?.0, seed)
            })
        }
        "stream-send" => {
            let (to, seed) = ((arg(1, "ADDR")?, number::<u16>(arg(2, "PORT")?)?), number(arg(3, "SEED")?)?);
            flow::told(Path::new(arg(4, "STOP")?), |flow| flow.send_stream(TcpStream::connect(to)?, seed))
        }
        "datagram-recv" => {
            let (port, seed) = (number(arg(1, "PORT")?)?, number(arg(2, "SEED")?)?);
            flow::told(Path::new(arg(3, "STOP")?), |flow| {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                println!("{READY}");
                flow.receive_datagrams(&socket, seed)
            })
        }
        "datagram-send" => {
            let to = (arg(1, "ADDR")?, number::<u16>(arg(2, "PORT")?)?);
            let (seed, pps) = (number(arg(3, "SEED")?)?, number(arg(4, "PPS")?)?);
            flow::told(Path::new(arg(5, "STOP")?), |flow| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(to)?;
                flow.send_datagrams(&socket, seed, pps)
            })
        }
        "udp-flood" => {
            let to = (arg(1, "ADDR")?, number(arg(2, "PORT")?)?);
            udp::flood(to, number(arg(3, "SIZE")?)?, number(arg(4, "SECONDS")?)?)
        }
        other => bail!("no tool is called {other}"),
    }
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
