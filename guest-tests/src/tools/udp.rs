//! Datagrams with a sequence number and a checksum of their own: `sequence u64, checksum u64, payload`, little endian.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size};

use super::payload::{Hash, Payload, checksum};
use super::{READY, UdpReport};

const HEADER: usize = 16;
const BUFFER: usize = 32 << 20;
/// How long the first datagram may be awaited.
const FIRST: Duration = Duration::from_secs(20);

pub(super) fn receive(port: u16, count: u64, idle_ms: u64) -> Result<UdpReport> {
    let socket = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    // Hashing waits until the end and the buffer is large: what is lost is lost on the way here.
    set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    println!("{READY}");
    let (mut all, mut ends, mut buffer) = (Vec::new(), Vec::new(), vec![0; 1 << 16]);
    socket.set_read_timeout(Some(FIRST))?;
    while (ends.len() as u64) < count {
        let Ok(length) = socket.recv(&mut buffer) else {
            break;
        };
        if ends.is_empty() {
            socket.set_read_timeout(Some(Duration::from_millis(idle_ms.max(1))))?;
        }
        all.extend_from_slice(&buffer[..length]);
        ends.push(all.len());
    }
    Ok(judge(&all, &ends))
}

/// Sorts the datagrams that end at `ends`.
fn judge(all: &[u8], ends: &[usize]) -> UdpReport {
    let (mut sorted, mut corrupt, mut duplicates, mut start) = (BTreeMap::new(), 0, 0, 0);
    for end in ends {
        let datagram = &all[start..*end];
        start = *end;
        match sequence(datagram).map(|sequence| sorted.entry(sequence)) {
            None => corrupt += 1,
            Some(Entry::Occupied(_)) => duplicates += 1,
            Some(Entry::Vacant(entry)) => _ = entry.insert(datagram),
        }
    }
    let mut hash = Hash::default();
    sorted.values().for_each(|datagram| hash.add(datagram));
    UdpReport { count: sorted.len() as u64, corrupt, duplicates, sha256: hash.hex() }
}

/// The sequence number of a datagram that is as it was sent.
fn sequence(datagram: &[u8]) -> Option<u64> {
    let (sequence, rest) = datagram.split_first_chunk::<8>()?;
    let (sum, payload) = rest.split_first_chunk::<8>()?;
    let sequence = u64::from_le_bytes(*sequence);
    (u64::from_le_bytes(*sum) == checksum(payload) ^ sequence).then_some(sequence)
}

fn write(sequence: u64, payload: &mut Payload, datagram: &mut [u8]) {
    payload.fill(&mut datagram[HEADER..]);
    let sum = checksum(&datagram[HEADER..]) ^ sequence;
    datagram[..8].copy_from_slice(&sequence.to_le_bytes());
    datagram[8..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// Sends `count` datagrams, `batch` of them in one call: the kernel, or the device, cuts them apart (UDP_SEGMENT).
pub(super) fn send(
    to: (&str, u16),
    count: u64,
    size: usize,
    seed: u64,
    pps: Option<u64>,
    batch: usize,
) -> Result<UdpReport> {
    if !(HEADER..=65507).contains(&size) {
        bail!("a datagram of {size} bytes: {HEADER} to 65507 are possible");
    }
    let to = to.to_socket_addrs()?.next().context("the address names nobody")?;
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.connect(to)?;
    set_socket_send_buffer_size(&socket, 1 << 20)?;
    if batch > 1 {
        setsockopt(&socket, UdpGsoSegment, &i32::try_from(size)?).context("no UDP_SEGMENT")?;
    }
    let (mut payload, mut hash) = (Payload::new(seed), Hash::default());
    let mut burst = vec![0; size * batch.max(1)];
    let start = Instant::now();
    for first in (0..count).step_by(batch.max(1)) {
        let sequences = first..count.min(first + batch.max(1) as u64);
        let length = sequences.clone().count() * size;
        let burst = &mut burst[..length];
        for (sequence, datagram) in sequences.zip(burst.chunks_mut(size)) {
            write(sequence, &mut payload, datagram);
            hash.add(datagram);
        }
        if let Some(pps) = pps {
            let due = Duration::from_secs_f64(first as f64 / pps.max(1) as f64);
            // Late by less than a timer's grain is in time: sleep only when well ahead.
            if let Some(ahead) = due.checked_sub(start.elapsed()).filter(|ahead| *ahead > Duration::from_millis(1)) {
                thread::sleep(ahead);
            }
        }
        let sent = socket.send(burst).with_context(|| format!("datagram {first} was not sent"))?;
        if sent != length {
            bail!("datagram {first} was cut to {sent} bytes");
        }
    }
    Ok(UdpReport { count, corrupt: 0, duplicates: 0, sha256: hash.hex() })
}

/// Sends the same datagram for a time, as fast as it goes.
pub(super) fn flood(to: (&str, u16), size: usize, seconds: u64) -> Result<()> {
    /// Datagrams between two looks at the clock, which takes as long as some of them.
    const BATCH: usize = 32;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    let (datagram, start) = (vec![0x5a; size], Instant::now());
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..BATCH {
            let sent = socket.send(&datagram)?;
            if sent != size {
                bail!("a datagram was cut to {sent} bytes");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(count: u64) -> Vec<Vec<u8>> {
        let mut payload = Payload::new(7);
        (0..count)
            .map(|sequence| {
                let mut datagram = vec![0; 61];
                write(sequence, &mut payload, &mut datagram);
                datagram
            })
            .collect()
    }

    fn judged(datagrams: &[Vec<u8>]) -> UdpReport {
        let mut end = 0;
        let ends: Vec<usize> = datagrams
            .iter()
            .map(|datagram| {
                end += datagram.len();
                end
            })
            .collect();
        judge(&datagrams.concat(), &ends)
    }

    #[test]
    fn order_and_repetition_do_not_change_the_hash() {
        let sent = datagrams(4);
        let mut came = sent.clone();
        came.swap(0, 3);
        came.push(sent[1].clone());
        let (sent, came) = (judged(&sent), judged(&came));
        assert_eq!((came.count, came.corrupt, came.duplicates), (4, 0, 1));
        assert_eq!(came.sha256, sent.sha256);
    }

    #[test]
    fn a_changed_or_cut_datagram_is_corrupt() {
        let mut came = datagrams(3);
        came[0][40] ^= 1;
        came[2].truncate(60);
        let came = judged(&came);
        assert_eq!((came.count, came.corrupt), (1, 2));
    }
}
