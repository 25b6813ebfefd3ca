//! The PCAP Next Generation format (draft-ietf-opsawg-pcapng), as much of it as a capture needs: a section, an interface
//! for each queue pair, its frames, and what was counted at the end.

use std::io::{self, Write};
use std::time::Duration;

/// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const FRAME: u32 = 6;

/// Frames are Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;
/// Times are in nanoseconds: ten to the power of minus so much.
const RESOLUTION: u8 = 9;

/// Which way a frame went, as the guest sees it (`epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It got the frame.
    In = 1,
    /// It sent the frame.
    Out = 2,
}

/// What an interface is called, and what is kept of its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface<'a> {
    pub(crate) name: &'a str,
    pub(crate) filter: Option<&'a str>,
    pub(crate) snaplen: u32,
}

/// A frame. Times are since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) interface: u32,
    pub(crate) at: Duration,
    pub(crate) way: Way,
    /// Its length, of which fewer bytes may have been kept.
    pub(crate) len: u32,
    pub(crate) bytes: &'a [u8],
}

/// What was counted of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Frames that were moved.
    pub(crate) received: u64,
    /// Those of them that were lost on their way to here.
    pub(crate) dropped: u64,
    /// Those that the filter let through.
    pub(crate) accepted: u64,
}

/// Writes blocks.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    body: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    pub(crate) fn new(out: W, program: &str) -> io::Result<Self> {
        let mut writer = Self { out, body: Vec::new() };
        // What byte order means; version 1.0; nobody knows how long the section will be.
        writer.add(&0x1a2b_3c4du32.to_le_bytes());
        writer.add(&[1, 0, 0, 0]);
        writer.add(&u64::MAX.to_le_bytes());
        writer.option(4, program.as_bytes());
        writer.end_block(SECTION)?;
        Ok(writer)
    }

    /// Adds an interface. They are numbered from 0 on.
    pub(crate) fn interface(&mut self, interface: &Interface<'_>) -> io::Result<()> {
        self.add(&ETHERNET.to_le_bytes());
        self.add(&[0, 0]);
        self.add(&interface.snaplen.to_le_bytes());
        self.option(2, interface.name.as_bytes());
        self.option(9, &[RESOLUTION]);
        if let Some(filter) = interface.filter {
            // The first byte says that it is text.
            self.option(11, &[b"\0", filter.as_bytes()].concat());
        }
        self.end_block(INTERFACE)
    }

    /// Adds a frame.
    pub(crate) fn frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        self.add(&frame.interface.to_le_bytes());
        self.add(&time(frame.at));
        self.add(&(frame.bytes.len() as u32).to_le_bytes());
        self.add(&frame.len.to_le_bytes());
        self.add_padded(frame.bytes);
        self.option(2, &(frame.way as u32).to_le_bytes());
        self.end_block(FRAME)
    }

    /// Adds what was counted of an interface from one time to another.
    pub(crate) fn counts(&mut self, interface: u32, counts: &Counts, from: Duration, to: Duration) -> io::Result<()> {
        self.add(&interface.to_le_bytes());
        self.add(&time(to));
        self.option(2, &time(from));
        self.option(3, &time(to));
        self.option(4, &counts.received.to_le_bytes());
        self.option(5, &counts.dropped.to_le_bytes());
        self.option(6, &counts.accepted.to_le_bytes());
        self.end_block(STATISTICS)
    }

    /// Hands everything on.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn add(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn add_padded(&mut self, bytes: &[u8]) {
        self.add(bytes);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.add(&code.to_le_bytes());
        self.add(&(value.len() as u16).to_le_bytes());
        self.add_padded(value);
    }

    /// Ends the options of a block, and writes it.
    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        self.option(0, &[]);
        let len = (self.body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&len)?;
        self.out.write_all(&self.body)?;
        self.body.clear();
        self.out.write_all(&len)
    }
}

/// A time as it is written: the upper half first, whatever the order of bytes.
fn time(at: Duration) -> [u8; 8] {
    let ns = at.as_nanos() as u64;
    ns.rotate_left(32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use pcap_file::DataLink;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    #[test]
    fn another_reader_finds_what_was_written() {
        let at = Duration::new(1_800_000_000, 123_456_789);
        let frames: Vec<Vec<u8>> = (0..70u8).map(|len| vec![len ^ 0x5a; len.into()]).collect();
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "vnicctl 1").unwrap();
        for name in ["nic0/0", "nic0/1"] {
            writer.interface(&Interface { name, filter: Some("tcp port 80"), snaplen: 96 }).unwrap();
        }
        for (n, bytes) in (0u32..).zip(&frames) {
            let way = if n.is_multiple_of(2) { Way::In } else { Way::Out };
            let frame = Frame { interface: n % 2, at: at + Duration::from_nanos(n.into()), way, len: n + 5, bytes };
            writer.frame(&frame).unwrap();
        }
        let counts = Counts { received: 70, dropped: 7, accepted: 3 };
        writer.counts(1, &counts, at, at + Duration::from_secs(1)).unwrap();
        writer.flush().unwrap();

        let mut reader = PcapNgReader::new(&file[..]).unwrap();
        let (mut names, mut seen, mut told) = (Vec::new(), 0u32, false);
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => {
                    assert_eq!((interface.linktype, interface.snaplen), (DataLink::ETHERNET, 96));
                    for option in &interface.options {
                        match option {
                            InterfaceDescriptionOption::IfName(name) => names.push(name.to_string()),
                            InterfaceDescriptionOption::IfTsResol(resolution) => assert_eq!(*resolution, 9),
                            InterfaceDescriptionOption::IfFilter(filter) => assert_eq!(&filter[..], b"\0tcp port 80"),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                Block::EnhancedPacket(packet) => {
                    assert_eq!((packet.interface_id, packet.original_len), (seen % 2, seen + 5));
                    assert_eq!(packet.timestamp, at + Duration::from_nanos(seen.into()));
                    assert_eq!(packet.data[..], frames[seen as usize]);
                    assert_eq!(packet.options, [EnhancedPacketOption::Flags(1 + seen % 2)]);
                    seen += 1;
                }
                Block::InterfaceStatistics(statistics) => {
                    assert_eq!(statistics.interface_id, 1);
                    for option in [
                        InterfaceStatisticsOption::IsbIfRecv(70),
                        InterfaceStatisticsOption::IsbIfDrop(7),
                        InterfaceStatisticsOption::IsbFilterAccept(3),
                    ] {
                        assert!(statistics.options.contains(&option), "{statistics:?}");
                    }
                    told = true;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((names, seen, told), (vec!["nic0/0".into(), "nic0/1".into()], 70, true));
    }
}
