//! What the `vhost` crate leaves out of the protocol, or would end the connection for.
//!
//! Every message is first looked at without taking it (`MSG_PEEK`). The few below are taken and answered here; all
//! others are left to the crate. Each is a quirk with its reason; when the crate learns one, its arm here goes.
//!
//! | message | reason |
//! |--|--|
//! | SET_VRING_ENABLE before SET_FEATURES | QEMU sends it while connecting, and version 10 does not repeat it |
//! | SET_STATUS, GET_STATUS | the crate has no arm for them |
//! | SET_LOG_FD | no arm; the fd is closed, nothing here would signal it |
//! | NET_SET_MTU, SEND_RARP | no arms |
//! | SET_BACKEND_REQ_FD | the crate's channel cannot say that the configuration changed |
//! | unknown requests | the specification wants an answer when one is asked for |

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, sockopt};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error, Result, VhostUserBackendReqHandlerMut};

use super::patience::wait_for_message;
use super::session::Session;
use crate::nic::MIN_MTU;

pub(super) const HEADER_LEN: usize = 12;
/// Largest message body that is read here (vhost-user has none above 4 KiB).
pub(super) const MAX_BODY: usize = 4096;
/// Most file descriptors that one message may carry into this room.
const MAX_FDS: usize = 64;

/// In the first byte of an Ethernet address: it is that of several.
const GROUP: u8 = 1;

const VERSION: u32 = 1;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// Serves a front end until it goes away or breaks the protocol.
/// `spoke` is set when the first message has come.
pub(super) fn serve(stream: &UnixStream, session: &Arc<Mutex<Session>>, spoke: &AtomicBool) -> Result<()> {
    let clone = stream.try_clone().map_err(Error::SocketError)?;
    let mut handler = BackendReqHandler::from_stream(clone, session.clone());
    loop {
        wait_for_message(stream)?;
        spoke.store(true, Ordering::Relaxed);
        match answerer(stream, session)? {
            Some(answer) => answer_here(stream, session, answer)?,
            None => handler.handle_request()?,
        }
    }
}

/// Says how to answer one message, given its body: a body to send, or nothing beyond what need_reply asks for.
type Answer = fn(&mut Session, &mut Message) -> Result<Option<u64>>;

struct Message {
    request: u32,
    flags: u32,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    fn u64(&self) -> Result<u64> {
        let body = self.body.as_slice().try_into().map_err(|_| Error::InvalidMessage)?;
        Ok(u64::from_le_bytes(body))
    }
}

/// Who answers the next message: a function of this file, or nobody here.
fn answerer(stream: &UnixStream, session: &Mutex<Session>) -> Result<Option<Answer>> {
    let mut header = [0; HEADER_LEN];
    let (n, _) =
        rustix::net::recv(stream, &mut header[..], RecvFlags::PEEK).map_err(|e| Error::SocketBroken(e.into()))?;
    if n < HEADER_LEN {
        // The end of the stream, or a header that comes in pieces: the crate waits for the rest of it.
        return Ok(None);
    }
    let request = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let answer: Option<Answer> = match FrontendReq::try_from(request) {
        Ok(FrontendReq::SET_VRING_ENABLE) if !lock(session).has_features() => Some(early_enable),
        Ok(FrontendReq::SET_STATUS) => Some(set_status),
        Ok(FrontendReq::GET_STATUS) => Some(get_status),
        Ok(FrontendReq::SET_LOG_FD) => Some(set_log_fd),
        Ok(FrontendReq::NET_SET_MTU) => Some(set_mtu),
        Ok(FrontendReq::SEND_RARP) => Some(send_rarp),
        Ok(FrontendReq::SET_BACKEND_REQ_FD) => Some(set_backend_channel),
        Ok(FrontendReq::IOTLB_MSG | FrontendReq::SET_VRING_ENDIAN | FrontendReq::VRING_KICK) | Err(_) => Some(unknown),
        Ok(_) => None,
    };
    Ok(answer)
}

fn answer_here(stream: &UnixStream, session: &Mutex<Session>, answer: Answer) -> Result<()> {
    let mut message = receive(stream)?;
    let wants_reply = message.flags & FLAG_NEED_REPLY != 0 && lock(session).replies_to_all();
    let result = answer(&mut lock(session), &mut message);
    match &result {
        Ok(Some(value)) => reply(stream, &message, *value)?,
        Ok(None) if wants_reply => reply(stream, &message, 0)?,
        Err(_) if wants_reply => reply(stream, &message, 1)?,
        _ => {}
    }
    match result {
        // The front end was told; whether it goes on without is for it to say.
        Err(Error::InvalidOperation(what)) if wants_reply => {
            let nic = lock(session).nic.clone();
            nic.front_ends().counters.refused_messages.add(1);
            nic.front_ends().complaints.tell(|left_out| {
                tracing::warn!(device = %nic.name(), left_out, "request {} refused: {what}", message.request);
            });
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Remembered, and applied when the ring starts.
fn early_enable(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    let state = message.u64()?;
    let (index, enable) = (state as u32, state >> 32);
    if enable > 1 {
        return Err(Error::InvalidParam);
    }
    session.set_vring_enable(index, enable == 1).map(|()| None)
}

fn set_status(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    let status = u8::try_from(message.u64()?).map_err(|_| Error::InvalidParam)?;
    session.set_status(status);
    Ok(None)
}

fn get_status(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    if message.body.is_empty() { Ok(Some(session.status().into())) } else { Err(Error::InvalidMessage) }
}

fn set_log_fd(_session: &mut Session, _message: &mut Message) -> Result<Option<u64>> {
    Ok(None)
}

/// Checked against what IP allows; the uplink follows as far as it can.
fn set_mtu(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    let mtu = u16::try_from(message.u64()?).ok().filter(|mtu| *mtu >= MIN_MTU);
    let mtu = mtu.ok_or(Error::InvalidOperation("an MTU lies between 68 and 65535"))?;
    session.mtu = Some(mtu);
    session.nic.set_uplink_mtu(mtu);
    Ok(None)
}

/// The address stands in the first six bytes of the number, in the order of the wire.
fn send_rarp(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    let [mac @ .., _, _] = message.u64()?.to_le_bytes();
    if mac[0] & GROUP != 0 {
        return Err(Error::InvalidParam);
    }
    session.announce(mac)?;
    Ok(None)
}

fn set_backend_channel(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    let channel = match (message.fds.pop(), message.fds.len()) {
        (Some(fd), 0) => fd,
        _ => return Err(Error::IncorrectFds),
    };
    if sockopt::socket_domain(&channel) != Ok(AddressFamily::UNIX) {
        return Err(Error::NotUnixSocket);
    }
    session.set_channel(channel.into());
    Ok(None)
}

fn unknown(session: &mut Session, message: &mut Message) -> Result<Option<u64>> {
    session.nic.front_ends().complaints.tell(|left_out| {
        let (device, request) = (session.nic.name(), message.request);
        tracing::warn!(%device, left_out, "the front end sent request {request}, which this device never offered to take");
    });
    Err(Error::InvalidOperation("it is unknown or was not offered"))
}

/// Takes the next message from the stream. File descriptors that nobody takes out of it are closed with it.
fn receive(stream: &UnixStream) -> Result<Message> {
    let mut fds = Vec::new();
    let header = receive_exact(stream, HEADER_LEN, &mut fds)?;
    let header: [u8; HEADER_LEN] = header.try_into().map_err(|_| Error::PartialMessage)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (request, flags, size) = (word(0), word(4), word(8) as usize);
    if flags & 0x3 != VERSION || flags & FLAG_REPLY != 0 {
        return Err(Error::InvalidMessage);
    }
    if size > MAX_BODY {
        return Err(Error::OversizedMsg);
    }
    let body = receive_exact(stream, size, &mut fds)?;
    Ok(Message { request, flags, body, fds })
}

/// Takes `len` bytes, and the file descriptors that come with them.
fn receive_exact(stream: &UnixStream, len: usize, fds: &mut Vec<OwnedFd>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes[done..])];
        let got = match rustix::net::recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::SocketBroken(e.into())),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.bytes == 0 {
            return Err(Error::PartialMessage);
        }
        done += got.bytes;
    }
    Ok(bytes)
}

fn reply(stream: &UnixStream, message: &Message, value: u64) -> Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + 8);
    bytes.extend(message.request.to_le_bytes());
    bytes.extend((VERSION | FLAG_REPLY).to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    // A socket has room for 20 bytes unless nobody ever reads it, and then the connection is of no use.
    match rustix::net::send(stream, &bytes, SendFlags::NOSIGNAL) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(Error::PartialMessage),
        Err(e) => Err(Error::SocketBroken(io::Error::from(e))),
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}
