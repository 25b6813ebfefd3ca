//! What becomes of it on its way.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::conversation::Message;

/// Most descriptors that are sent at once.
const MAX_FDS: usize = 64;
/// Bytes of a header.
const HEADER_LEN: usize = 12;

fn odd_fd(rng: &mut Rng) -> Result<OwnedFd> {
    Ok(match rng.u8(..8) {
        0 => rustix::pipe::pipe()?.0,
        1 => rustix::pipe::pipe()?.1,
        2 => tempfile::tempfile()?.into(),
        3 => epoll::create(epoll::CreateFlags::CLOEXEC)?,
        4 => UnixStream::pair()?.0.into(),
        5 => std::fs::File::open("/dev/zero")?.into(),
        6 => std::fs::File::open("/")?.into(),
        _ => eventfd(rng.u32(..3), EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    })
}

/// A number that is wrong by a bit, by a little or altogether.
fn odd_word(rng: &mut Rng, word: u32) -> u32 {
    match rng.u8(..6) {
        0 => word ^ 1 << rng.u32(..32),
        1 => word.wrapping_add(rng.u32(1..20)),
        2 => word.wrapping_sub(rng.u32(1..20)),
        3 => *rng.choice(&[0, 1, 0xff, 0x100, 0x1000, 0xffff, 0x8000_0000, u32::MAX]).unwrap_or(&0),
        4 => rng.u32(..50),
        _ => rng.u32(..),
    }
}

/// Changes one thing of a conversation.
pub(super) fn change(rng: &mut Rng, all: &mut Vec<Message>) -> Result<()> {
    let at = rng.usize(..all.len());
    let one = &mut all[at];
    let body_len = one.bytes.len().saturating_sub(HEADER_LEN);
    match rng.u8(..14) {
        // Request, flags and length, and any four bytes of the body.
        kind @ 0..=5 => {
            let place = match kind {
                0..=2 => 4 * usize::from(kind),
                _ if body_len < 4 => return Ok(()),
                _ => HEADER_LEN + rng.usize(..=body_len - 4),
            };
            let Some(bytes) = one.bytes.get_mut(place..place + 4) else { return Ok(()) };
            let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&odd_word(rng, word).to_le_bytes());
        }
        6 => one.bytes.truncate(rng.usize(..=one.bytes.len())),
        7 => {
            let more = (0..rng.usize(1..300)).map(|_| rng.u8(..)).collect::<Vec<_>>();
            one.bytes.extend(more);
        }
        8 => one.fds.clear(),
        9 => {
            for _ in 0..rng.usize(1..10) {
                one.fds.push(odd_fd(rng)?);
            }
        }
        10 | 11 => {
            // One that brings a descriptor brings another one.
            let with_fds: Vec<_> = all.iter_mut().filter(|message| !message.fds.is_empty()).collect();
            let count = with_fds.len();
            if let Some(one) = with_fds.into_iter().nth(rng.usize(..count.max(1))) {
                one.fds = vec![odd_fd(rng)?];
            }
        }
        12 if all.len() > 1 => drop(all.remove(at)),
        _ => {
            let with = rng.usize(..all.len());
            all.swap(at, with);
        }
    }
    Ok(())
}

/// Sends it in pieces that do not go by its messages, and maybe not all of it. The other side may end it.
pub(super) fn send(rng: &mut Rng, stream: &UnixStream, all: &[Message]) {
    let bytes: Vec<u8> = all.iter().flat_map(|message| message.bytes.iter().copied()).collect();
    let mut ends = Vec::new();
    let mut fds = Vec::new();
    let mut at = 0;
    for message in all {
        fds.extend(message.fds.iter().map(|fd| (at, fd.as_fd())));
        at += message.bytes.len();
        ends.push(at);
    }
    let end = if rng.u8(..3) == 0 { rng.usize(..=bytes.len()) } else { bytes.len() };
    let (mut at, style) = (0, rng.u8(..8));
    while at < end {
        let to = match style {
            // Message by message.
            0 | 1 => ends.iter().copied().find(|end| *end > at).unwrap_or(end),
            2 | 3 => at + rng.usize(1..30),
            4..=6 => at + rng.usize(1..400),
            // All at once.
            _ => end,
        };
        // Descriptors come to whoever reads the first byte that they are sent with: mostly that is who they are for.
        let own = fds.iter().map(|(of, _)| *of).find(|of| *of > at).filter(|_| style % 3 != 1);
        let to = to.min(own.unwrap_or(end)).min(end);
        let with: Vec<_> =
            fds.iter().filter(|(of, _)| (at..to).contains(of)).map(|(_, fd)| *fd).take(MAX_FDS).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&with));
        }
        if sendmsg(stream, &[IoSlice::new(&bytes[at..to])], &mut ancillary, SendFlags::NOSIGNAL).is_err() {
            return;
        }
        at = to;
        if rng.u8(..20) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
