//! `vnicctl capture`: what a guest sends and gets, in a file for Wireshark and tcpdump.
//!
//! The daemon copies frames into memory that it shares with this program, and this program opens and writes the file:
//! neither the file's name nor the program's pace concerns the daemon.

mod filter;
mod lanes;
mod output;
mod pcapng;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use vnicd::capture::{self, FORMAT, MAX_SNAPLEN};
use vnicd::control::{CaptureStart, Target};

use self::filter::Filter;
use self::lanes::Lanes;
use self::output::Output;
use super::client::{Daemon, Error};

/// How long to wait where there is nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of a frame that a filter may look at, however few are written.
const FILTERED_LEN: usize = 256;

pub(crate) const AFTER_HELP: &str = "\
An EXPR is a part of what pcap-filter(7) knows: arp, ip, ip6, tcp, udp, icmp, icmp6, [src|dst] host ADDR, \
[src|dst] net ADDR/LEN, [tcp|udp] [src|dst] port N, ether [src|dst] host MAC, vlan [N], and, or, not, ( ). It looks \
behind VLAN tags.

What is written faster than it can be taken is dropped, never waited for; how much is said at the end.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
    #[arg(long, value_name = "NIC", default_value_t)]
    device: Target,
    /// Write only frames that match, such as 'tcp port 80 and not host 10.0.0.1'
    #[arg(long, value_name = "EXPR")]
    filter: Option<Filter>,
    /// Write the first so many bytes of each frame
    #[arg(long, value_name = "BYTES", default_value_t = MAX_SNAPLEN as u32,
          value_parser = clap::value_parser!(u32).range(1..=MAX_SNAPLEN as i64))]
    snaplen: u32,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The file to write, in pcapng; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(Error::Output)?;
    }
    let kept = if args.filter.is_some() { FILTERED_LEN.max(args.snaplen as usize) } else { args.snaplen as usize };
    let params = json!({ "target": args.device, "snaplen": kept });
    let (answer, memory, stream) = daemon.ask_for_file("capture", params)?;
    let CaptureStart { format, ring_size, lanes } = serde_json::from_value(answer)?;
    if format != FORMAT {
        return Err(Error::Capture(format!("the daemon's memory has format {format}, not {FORMAT}: restart vnicd")));
    }
    let rings = capture::open(memory.into(), lanes.len(), ring_size).map_err(|e| Error::Capture(e.to_string()))?;
    let mut output = Output::open(&args.write, args.snaplen, args.filter.as_ref(), &lanes::pairs(&lanes))?;
    let mut lanes = Lanes::new(&lanes, rings);
    stream.set_nonblocking(true).map_err(Error::Output)?;
    eprintln!("capturing {} of {}", lanes.describe(), args.device);

    let mut left = args.count.unwrap_or(u64::MAX);
    let is_closed = loop {
        // What was moved before the end is still taken.
        let is_closed = has_closed(&stream);
        let ends = is_closed || stop.load(Ordering::Relaxed);
        let before = left;
        let seen = lanes.drain(&mut left, |interface, meta, bytes| output.write(interface, meta, bytes))?;
        if ends || left == 0 {
            break is_closed;
        }
        if seen == 0 {
            std::thread::sleep(PAUSE);
        } else if left != before {
            output.flush()?;
        }
    };
    let dropped = output.end(&lanes.counts())?;
    eprintln!("{} frames captured, {dropped} dropped", output.frames());
    if is_closed { Err(daemon.closed()) } else { Ok(()) }
}

/// Whether the daemon let go of this program, or ended.
fn has_closed(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
