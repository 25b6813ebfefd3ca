//! How long a front end is waited for: for ever until a message begins, for a while until all of it is there and what was
//! answered before is read. Whoever holds half a message open holds a place that another front end may want.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use vhost::vhost_user::{Error, Result};

use super::adapter::{HEADER_LEN, MAX_BODY};

/// How long a message may take, and its sender to make room for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether more of a message came.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until a message can be taken and answered without waiting, or the front end has gone.
///
/// # Errors
/// When it took too long, with what was missing.
pub(super) fn wait_for_message(stream: &UnixStream) -> Result<()> {
    wait_for(stream, PollFlags::IN | PollFlags::RDHUP, None)?;
    let begun = Instant::now();
    while !is_whole(stream)? {
        if begun.elapsed() > PATIENCE {
            return Err(too_slow("the rest of a message did not come"));
        }
        std::thread::sleep(PAUSE);
    }
    if wait_for(stream, PollFlags::OUT, Some(PATIENCE))?.is_empty() {
        return Err(too_slow("answers are not read"));
    }
    Ok(())
}

/// Whether all of the next message has come, or no more will, or it is one that is refused by its header.
fn is_whole(stream: &UnixStream) -> Result<bool> {
    let mut header = [0; HEADER_LEN];
    let (n, _) =
        rustix::net::recv(stream, &mut header[..], RecvFlags::PEEK).map_err(|e| Error::SocketBroken(e.into()))?;
    let gone = || Ok::<_, Error>(wait_for(stream, PollFlags::RDHUP, Some(Duration::ZERO))?.contains(PollFlags::RDHUP));
    if n < HEADER_LEN {
        return gone();
    }
    let body = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let waiting = rustix::io::ioctl_fionread(stream).map_err(|e| Error::SocketBroken(e.into()))?;
    Ok(body > MAX_BODY || waiting >= (HEADER_LEN + body) as u64 || gone()?)
}

/// Waits for one of `events`, or for the time to pass; says which came.
fn wait_for(stream: &UnixStream, events: PollFlags, limit: Option<Duration>) -> Result<PollFlags> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        let mut fds = [PollFd::new(stream, events)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => return Ok(fds[0].revents()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::SocketBroken(e.into())),
        }
    }
}

fn too_slow(what: &str) -> Error {
    Error::SocketBroken(io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {} s", PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn message(body: u32) -> Vec<u8> {
        [&1u32.to_le_bytes()[..], &1u32.to_le_bytes(), &body.to_le_bytes(), &vec![0; body as usize]].concat()
    }

    #[test]
    fn a_whole_message_is_not_waited_for() {
        let (ours, mut theirs) = pair();
        for body in [0, 8, 4096] {
            theirs.write_all(&message(body)).unwrap();
            assert!(wait_for_message(&ours).is_ok());
            let mut taken = vec![0; HEADER_LEN + body as usize];
            std::io::Read::read_exact(&mut &ours, &mut taken).unwrap();
        }
        // One that is refused by its header.
        theirs.write_all(&message(5000)[..20]).unwrap();
        assert!(wait_for_message(&ours).is_ok());
    }

    #[test]
    fn a_front_end_that_has_gone_is_not_waited_for() {
        for sent in [0, 5, 14] {
            let (ours, mut theirs) = pair();
            theirs.write_all(&message(8)[..sent]).unwrap();
            drop(theirs);
            assert!(wait_for_message(&ours).is_ok(), "{sent} bytes");
        }
    }

    #[test]
    fn the_rest_is_waited_for_a_while() {
        let (ours, mut theirs) = pair();
        theirs.write_all(&message(8)[..15]).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            theirs.write_all(&message(8)[15..]).unwrap();
            theirs
        });
        assert!(wait_for_message(&ours).is_ok());
        drop(late.join());
        let (ours, mut theirs) = pair();
        theirs.write_all(&message(8)[..15]).unwrap();
        let error = wait_for_message(&ours).unwrap_err();
        assert!(error.to_string().contains("the rest of a message did not come for 5 s"), "{error}");
    }

    #[test]
    fn who_reads_no_answer_is_not_answered_for_ever() {
        let (ours, mut theirs) = pair();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        theirs.write_all(&message(0)).unwrap();
        let error = wait_for_message(&ours).unwrap_err();
        assert!(error.to_string().contains("answers are not read for 5 s"), "{error}");
    }
}
