//! vhost-user messages as a front end that means no good would send them.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use arbitrary::Arbitrary;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::guest::memfd;

/// Address of the guest's memory in the front end and in the guest.
pub const USER: u64 = 0x7000_0000;
/// Bytes of the guest's memory.
pub const MEMORY: u64 = 0x2_0000;

/// Most fds that a message carries.
const MAX_FDS: usize = 10;

/// A message.
#[derive(Arbitrary, Debug)]
pub struct Message {
    request: Request,
    pub flags: Flags,
    pub body: Body,
    /// The length that the header tells is wrong by so much.
    pub lie: Option<i8>,
    pub fds: Vec<Fd>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Request {
    /// One that the body is for.
    Fitting(u8),
    /// One that the specification has.
    Known(u8),
    Any(u32),
}

/// The second word of a header.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Flags {
    Plain,
    NeedReply,
    Any(u32),
}

/// What follows the header.
#[derive(Arbitrary, Debug)]
pub enum Body {
    Empty,
    Number(u64),
    Small(u16),
    State(u8, u32),
    /// Ring, flags, and the places of its parts in the guest's memory.
    Addresses(u8, u8, [u16; 3], u16),
    /// One region: guest address, size, offset, each in pages.
    Region(Region),
    Regions(Vec<Region>),
    Log(u16, u16),
    Config(u16, u16),
    Raw(Vec<u8>),
}

/// A region in pages of the guest's memory, which it may exceed.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Region(pub u8, pub u8, pub u8);

/// What a message brings along.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Fd {
    Guest,
    /// A memfd of so many pages.
    Memory(u8),
    Event(u8),
    Socket,
    Null,
    Pipe,
}

impl Region {
    fn bytes(self) -> Vec<u8> {
        let [at, size, offset] = [self.0, self.1, self.2].map(|pages| u64::from(pages) * 0x1000);
        words(&[at, size, USER + at, offset])
    }
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

impl Body {
    /// The requests that have such a body.
    fn requests(&self) -> &'static [u32] {
        match self {
            Self::Empty => &[1, 3, 4, 7, 15, 17, 21, 36, 40],
            Self::Number(_) | Self::Small(_) => &[2, 12, 13, 14, 16, 19, 20, 39],
            Self::State(..) => &[8, 10, 11, 18],
            Self::Addresses(..) => &[9],
            Self::Region(_) => &[37, 38],
            Self::Regions(_) => &[5],
            Self::Log(..) => &[6],
            Self::Config(..) => &[24, 25],
            Self::Raw(_) => &[31, 33, 41, 42, 43],
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Number(n) => words(&[*n]),
            Self::Small(n) => words(&[u64::from(*n)]),
            Self::State(ring, n) => halves(&[(*ring).into(), *n]),
            Self::Addresses(ring, flags, parts, log) => {
                let [desc, used, avail] = parts.map(|at| USER + u64::from(at) * 2);
                [halves(&[(*ring).into(), (*flags).into()]), words(&[desc, used, avail, (*log).into()])].concat()
            }
            Self::Region(region) => [words(&[0]), region.bytes()].concat(),
            Self::Regions(regions) => {
                let head = halves(&[regions.len() as u32, 0]);
                [head].into_iter().chain(regions.iter().map(|region| region.bytes())).collect::<Vec<_>>().concat()
            }
            Self::Log(size, offset) => words(&[u64::from(*size) * 16, u64::from(*offset) * 16]),
            Self::Config(offset, size) => {
                let head = halves(&[(*offset).into(), (*size).into(), 0]);
                [head, vec![0; usize::from(*size).min(300)]].concat()
            }
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

impl Fd {
    pub fn open(self, guest: BorrowedFd<'_>) -> OwnedFd {
        match self {
            Self::Guest => guest.try_clone_to_owned().unwrap(),
            Self::Memory(pages) => memfd(u64::from(pages) * 0x1000).into(),
            Self::Event(n) => eventfd(n.into(), EventfdFlags::CLOEXEC).unwrap(),
            Self::Socket => UnixStream::pair().unwrap().0.into(),
            Self::Null => std::fs::File::open("/dev/null").unwrap().into(),
            Self::Pipe => rustix::pipe::pipe().unwrap().1,
        }
    }
}

impl Message {
    /// A message as it should be.
    pub fn good(request: u32, body: Body, fds: Vec<Fd>) -> Self {
        Self { request: Request::Any(request), flags: Flags::Plain, body, lie: None, fds }
    }

    /// Sends it; says whether somebody listens.
    pub fn send(&self, stream: &UnixStream, guest: BorrowedFd<'_>) -> bool {
        let request = match self.request {
            Request::Fitting(n) => {
                let requests = self.body.requests();
                requests[usize::from(n) % requests.len()]
            }
            Request::Known(n) => u32::from(n % 45),
            Request::Any(n) => n,
        };
        let flags = match self.flags {
            Flags::Plain => 1,
            Flags::NeedReply => 1 | 1 << 3,
            Flags::Any(n) => n,
        };
        let body = self.body.bytes();
        let len = (body.len() as u32).wrapping_add_signed(self.lie.unwrap_or(0).into());
        let bytes = [halves(&[request, flags, len]), body].concat();
        let fds: Vec<_> = self.fds.iter().take(MAX_FDS).map(|fd| fd.open(guest)).collect();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        sendmsg(stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }
}
