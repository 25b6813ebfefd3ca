//! `vnicctl capture --filter` against libpcap's judgement of the same frames.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use guest_tests::captured::read;
use guest_tests::driver::Numbered;
use guest_tests::driver::nic::{EVENT_IDX, VERSION_1};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Process, Signal, Vnicd};
use pcap_file::pcap::PcapReader;

const PATIENCE: Duration = Duration::from_secs(20);
const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]];
const V4: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 0, 1, 7], [192, 168, 1, 1]];
const V6: [[u8; 16]; 2] =
    [[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2]];
const PORTS: [u16; 4] = [53, 80, 443, 40_000];

/// What means the same with and without a tag, once it is looked at behind the tag.
const BEHIND_TAGS: [&str; 40] = [
    "arp",
    "ip",
    "ip6",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "not arp",
    "not tcp",
    "not icmp6",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.1.7",
    "not host 10.0.0.1",
    "host fd00::1",
    "src host fe80::200:0:0:2",
    "not dst host fd00::1",
    "net 10.0.0.0/16",
    "src net 10.0.0.0/24",
    "dst net 10.0.1.4/30",
    "not net 192.168.0.0/16",
    "net fe80::/10",
    "src net fd00::/8",
    "net 0.0.0.0/0",
    "net ::/0",
    "port 53",
    "src port 80",
    "dst port 40000",
    "not port 80",
    "tcp port 80",
    "udp src port 53",
    "tcp dst port 443 or udp dst port 443",
    "ether host 02:00:00:00:00:01",
    "ether src host 02:00:00:00:00:02",
    "ether dst host ff:ff:ff:ff:ff:ff",
    "tcp or udp and port 53",
    "not (ip or arp) and not port 80",
    "not tcp or not ip6 and host 10.0.0.1",
    "(udp or icmp) and (src host 10.0.0.1 or dst net 10.0.1.0/24)",
    "not not ip && !(tcp || udp)",
];

/// What asks for tags itself, of frames with one at most.
const OF_TAGS: [&str; 6] =
    ["vlan", "vlan 5", "vlan 6", "vlan 5 and tcp", "vlan and not ip", "vlan and (host 10.0.0.1 or port 53)"];

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() % of.len()]
    }
}

/// A frame of any kind, mostly in order.
fn frame(dice: &mut Dice) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(dice.one(&MACS[..2]), dice.one(&MACS));
    let payload = [dice.next() as u8; 12];
    let (from, to) = (dice.one(&PORTS), dice.one(&PORTS));
    let ip4 = |dice: &mut Dice| (dice.one(&V4), dice.one(&V4));
    match dice.next() % 10 {
        0 => {
            // ARP; RARP is the same but for its type.
            frame.extend([dice.one(&MACS), dice.one(&MACS)].concat());
            frame.extend(dice.one(&[[8, 6], [0x80, 0x35]]));
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1 + (dice.next() % 2) as u8]);
            frame.extend([&MACS[0][..], &dice.one(&V4), &MACS[1], &dice.one(&V4)].concat());
        }
        1 | 2 => {
            let (src, dst) = ip4(dice);
            link.ipv4(src, dst, 64).tcp(from, to, 1, 1000).write(&mut frame, &payload)?;
        }
        3 => {
            let (src, dst) = ip4(dice);
            link.ipv4(src, dst, 64).udp(from, to).write(&mut frame, &payload)?;
        }
        4 => {
            let (src, dst) = ip4(dice);
            link.ipv4(src, dst, 64).icmpv4_echo_request(1, 2).write(&mut frame, &payload)?;
        }
        5 => link.ipv6(dice.one(&V6), dice.one(&V6), 64).tcp(from, to, 1, 1000).write(&mut frame, &payload)?,
        6 => link.ipv6(dice.one(&V6), dice.one(&V6), 64).udp(from, to).write(&mut frame, &payload)?,
        7 => link.ipv6(dice.one(&V6), dice.one(&V6), 64).icmpv6_echo_request(1, 2).write(&mut frame, &payload)?,
        8 => {
            // With options, in fragments, of SCTP.
            let (src, dst) = ip4(dice);
            let protocol = dice.one(&[IpNumber::TCP, IpNumber::UDP, IpNumber::SCTP]);
            let mut header = Ipv4Header::new(20, 64, protocol, src, dst)?;
            header.fragment_offset = IpFragOffset::try_new(dice.one(&[0, 0, 9]))?;
            header.options = dice.one(&[&[][..], &[1; 4], &[1; 40]]).try_into()?;
            frame.extend([dice.one(&MACS), dice.one(&MACS)].concat());
            frame.extend([8, 0]);
            header.write(&mut frame)?;
            frame.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
            frame.extend([9; 16]);
        }
        _ => {
            // Behind a fragment header or options of a hop.
            let kind = dice.one(&[44, 0]);
            frame.extend([dice.one(&MACS), dice.one(&MACS)].concat());
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, kind, 64]);
            frame.extend([dice.one(&V6), dice.one(&V6)].concat());
            frame.extend([dice.one(&[6, 17, 58]), 0, 0, dice.one(&[0, 1]), 0, 0, 0, 9]);
            frame.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
            frame.extend([9; 16]);
        }
    }
    match dice.next() % 6 {
        0 => {
            let at = 12 + dice.next() % (frame.len() - 12);
            frame[at] = dice.next() as u8;
            // Not a tag, which are added where they are wanted.
            if [[0x81, 0], [0x88, 0xa8], [0x91, 0]].contains(&[frame[12], frame[13]]) {
                frame[12] = 8;
            }
        }
        1 => frame.truncate(14 + dice.next() % (frame.len() - 14)),
        _ => {}
    }
    Ok(frame)
}

/// With a VLAN tag.
fn tagged(frame: &[u8], vlan: u8) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0x60, vlan], &frame[12..]].concat()
}

struct Rig {
    vnicd: Vnicd,
    driver: Numbered,
    sent: u64,
}

impl Rig {
    /// What a capture keeps of frames that the guest sends.
    fn capture(&mut self, name: &str, frames: &[Vec<u8>], args: &[&str]) -> Result<Vec<Vec<u8>>> {
        let path = self.vnicd.dir().join(name);
        let args = [&["capture", "-w", path.to_str().context("a path")?], args].concat();
        let capture = self.vnicd.spawn_vnicctl(&args)?;
        capture.wait_for_line("capturing ", PATIENCE)?;
        for frame in frames {
            eventually("there is room for a frame", || Ok(self.driver.pairs[0].offer_frame(frame)?.is_some()))?;
        }
        self.sent += frames.len() as u64;
        eventually("all frames are sent", || Ok(self.vnicd.counters("tx_packets")? == [self.sent]))?;
        capture.signal(Signal::TERM)?;
        capture.wait_output(PATIENCE)?.ok("vnicctl capture")?;
        Ok(read(&path)?.frames.into_iter().map(|frame| frame.bytes).collect())
    }

    /// What libpcap finds in a file of such a capture.
    fn libpcap(&self, name: &str, filter: &str) -> Result<Vec<Vec<u8>>> {
        let out = self.vnicd.dir().join("found.pcap");
        let mut command = Command::new("tcpdump");
        command.args(["-Z", "root", "-r"]).arg(self.vnicd.dir().join(name)).arg("-w").arg(&out).arg(filter);
        Process::spawn(command)?.wait_output(PATIENCE)?.ok("tcpdump")?;
        let bytes = std::fs::read(out)?;
        let mut reader = PcapReader::new(&bytes[..])?;
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            frames.push(packet?.data.to_vec());
        }
        Ok(frames)
    }
}

#[test]
fn frames_are_judged_as_libpcap_judges_them() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("discard").args(["--queue-pairs=1"]).control().start()?;
    let driver = Numbered::start(vnicd.socket(), VERSION_1 | EVENT_IDX, 1, 256)?;
    let mut rig = Rig { vnicd, driver, sent: 0 };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let plain: Vec<_> = (0..600).map(|_| frame(&mut dice)).collect::<Result<_>>()?;
    let with_tags: Vec<_> = plain.iter().map(|frame| tagged(frame, dice.one(&[5, 6, 7]))).collect();
    ensure!(rig.capture("plain", &plain, &[])? == plain, "the frames");
    ensure!(rig.capture("tagged", &with_tags, &[])? == with_tags, "the frames with tags");
    let all = [plain, with_tags].concat();
    for (filter, of_tagged) in BEHIND_TAGS
        .iter()
        .map(|filter| (filter, format!("vlan and ({filter})")))
        .chain(OF_TAGS.iter().map(|filter| (filter, (*filter).to_owned())))
    {
        let expected = [rig.libpcap("plain", filter)?, rig.libpcap("tagged", &of_tagged)?].concat();
        ensure!(!expected.is_empty() && expected.len() < all.len(), "{filter} tells nothing apart");
        let got = rig.capture("filtered", &all, &["--filter", filter])?;
        let odd = got.iter().find(|frame| !expected.contains(frame));
        let missing = expected.iter().find(|frame| !got.contains(frame));
        ensure!(got == expected, "{filter}: {} frames, not {}; {odd:02x?} {missing:02x?}", got.len(), expected.len());
    }
    Ok(())
}
