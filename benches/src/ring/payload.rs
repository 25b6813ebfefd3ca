//! Whether the bytes of packets are really read: the daemon's `discard` adds them up, and the sum must be right.
//!
//! The client sends frames out of a capture file, over and over, so fast that it drops some; hence all of them have the
//! same sum, whatever their length.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::eventually;
use guest_tests::testpmd::write_capture;
use serde_json::Value;

use super::cases::{Case, Path, RingKind};
use super::client::Client;
use super::lab::Lab;
use super::peer::BackEnd;

/// The sum of the bytes of each frame.
const FRAME_SUM: usize = 12_000;
/// Lengths of frames, in bytes.
const FRAME_LENS: [usize; 8] = [60, 61, 64, 127, 128, 512, 1400, 1518];
/// For how long frames are sent.
const TIME: Duration = Duration::from_millis(500);

/// What the daemon counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Discarded {
    packets: u64,
    /// None of a daemon that does not tell.
    sum: Option<u64>,
}

impl Discarded {
    fn of_status(status: &Value) -> Result<Self> {
        let counters = &status["devices"][0]["pairs"][0]["counters"];
        let packets = counters["tx_packets"].as_u64().with_context(|| format!("no tx_packets in {status}"))?;
        Ok(Self { packets, sum: counters["discarded_bytes_sum"].as_u64() })
    }
}

/// Sends known bytes and compares the sum. What was found, in words; a wrong sum is an error.
pub fn check(lab: &Lab) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let (socket, capture) = (dir.path().join("vhost.sock"), dir.path().join("frames.pcap"));
    write_capture(&capture, &FRAME_LENS.map(frame))?;
    let case = Case::new(Path::GuestToBackend, RingKind::main()[0]);
    let back_end = BackEnd::vnicd(&lab.ns, &socket, "discard", &case, lab.daemon.polling())?;
    let sender = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
    let client = Client::start(&lab.ns, dir.path(), &socket, &case, lab.memory, &[sender]);
    let checked = client.and_then(|client| send_and_compare(client, &back_end));
    back_end.explained(checked).context("the sum of all bytes")
}

fn send_and_compare(mut client: Client, back_end: &BackEnd) -> Result<String> {
    let discarded = || Discarded::of_status(&back_end.status()?.context("only the daemon adds up bytes")?);
    for line in ["set fwd io", "start"] {
        client.run(line)?;
    }
    client.wait_for_traffic()?;
    thread::sleep(TIME);
    client.run("stop")?;
    let sent = client.packets()?;
    eventually("the daemon has taken all", || Ok(discarded()?.packets >= sent))?;
    let Discarded { packets, sum } = discarded()?;
    ensure!(packets == sent, "the client sent {sent} packets, the daemon took {packets}");
    match sum {
        None => Ok("not checked: the daemon tells no sum of the bytes".into()),
        Some(sum) => {
            let expected = sent.wrapping_mul(FRAME_SUM as u64);
            ensure!(sum == expected, "{sum} instead of {expected} after {sent} packets");
            Ok(format!("checked: {sent} packets of {FRAME_SUM} each, the daemon's sum is exact"))
        }
    }
}

/// A frame of `len` bytes whose sum is [`FRAME_SUM`].
fn frame(len: usize) -> Vec<u8> {
    let (each, more) = (FRAME_SUM / len, FRAME_SUM % len);
    (0..len).map(|at| (each + usize::from(at < more)) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_has_the_same_sum() {
        for len in FRAME_LENS {
            let frame = frame(len);
            assert_eq!(frame.len(), len);
            assert_eq!(frame.iter().map(|byte| usize::from(*byte)).sum::<usize>(), FRAME_SUM, "{len}");
        }
    }

    #[test]
    fn a_daemon_without_a_sum_is_no_daemon_with_sum_zero() {
        let status = |counters: Value| serde_json::json!({ "devices": [{ "pairs": [{ "counters": counters }] }] });
        let of = |counters| Discarded::of_status(&status(counters)).unwrap();
        assert_eq!(of(serde_json::json!({ "tx_packets": 3 })), Discarded { packets: 3, sum: None });
        let told = serde_json::json!({ "tx_packets": 3, "discarded_bytes_sum": 36_000 });
        assert_eq!(of(told).sum, Some(36_000));
        assert!(Discarded::of_status(&serde_json::json!({})).is_err());
    }
}
