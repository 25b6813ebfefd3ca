//! Where the fields of a frame are. Each is none if the frame ends before it.

pub(super) const IP: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const RARP: u16 = 0x8035;
pub(super) const IP6: u16 = 0x86dd;
/// What a VLAN tag begins with (IEEE 802.1Q, 802.1ad, and what was used before it).
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Where the first EtherType is.
const ETHER_TYPE: usize = 12;
/// The IPv6 header's length, and the fragment header's number (RFC 8200).
const IP6_LEN: usize = 40;
const FRAGMENT: u8 = 44;

/// The bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    frame: &'a [u8],
    /// Where the EtherType is that no tag begins with.
    ether_type: usize,
}

impl<'a> Packet<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        let mut packet = Self { frame, ether_type: ETHER_TYPE };
        while packet.word(packet.ether_type).is_some_and(|word| TAGS.contains(&word)) {
            packet.ether_type += 4;
        }
        packet
    }

    /// What follows the addresses and the tags.
    pub(super) fn ether_type(&self) -> Option<u16> {
        self.word(self.ether_type)
    }

    /// Whether it has a VLAN tag.
    pub(super) fn is_tagged(&self) -> Option<bool> {
        Some(TAGS.contains(&self.word(ETHER_TYPE)?))
    }

    /// The VLANs that its tags name.
    pub(super) fn vlans(&self) -> impl Iterator<Item = u16> {
        (ETHER_TYPE..self.ether_type).step_by(4).filter_map(|tag| Some(self.word(tag + 2)? & 0xfff))
    }

    /// The address at a place of the Ethernet header.
    pub(super) fn mac_at(&self, at: usize) -> Option<[u8; 6]> {
        self.bytes(at)
    }

    /// What the IPv4 header says that it carries.
    pub(super) fn protocol_v4(&self) -> Option<u8> {
        self.byte_at(9)
    }

    /// Whether the IPv6 header, or a fragment header behind it, says that it carries this.
    pub(super) fn is_protocol_v6(&self, number: u8) -> Option<bool> {
        let next = self.byte_at(6)?;
        Some(next == number || (next == FRAGMENT && self.byte_at(IP6_LEN)? == number))
    }

    /// Where the ports are, counted from the network header on, if the frame has those of one of these protocols.
    pub(super) fn start_of_ports(&self, protocols: &[u8]) -> Option<Option<usize>> {
        let start = match self.ether_type()? {
            // Only the first fragment has ports.
            IP if protocols.contains(&self.protocol_v4()?) && self.word_at(6)? & 0x1fff == 0 => {
                Some(usize::from(self.byte_at(0)? & 0xf) * 4)
            }
            IP6 if protocols.contains(&self.byte_at(6)?) => Some(IP6_LEN),
            _ => None,
        };
        Some(start)
    }

    /// Fields at a place of the network header.
    pub(super) fn byte_at(&self, at: usize) -> Option<u8> {
        self.frame.get(self.network() + at).copied()
    }

    pub(super) fn word_at(&self, at: usize) -> Option<u16> {
        self.word(self.network() + at)
    }

    pub(super) fn long_at(&self, at: usize) -> Option<u32> {
        self.bytes(self.network() + at).map(u32::from_be_bytes)
    }

    fn network(&self) -> usize {
        self.ether_type + 2
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.frame.get(at..)?.first_chunk().copied()
    }
}
