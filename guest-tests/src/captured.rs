//! Reads files of `vnicctl capture`, by another reader's code.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};

/// What is in a file.
#[derive(Debug, Default)]
pub struct File {
    /// The names of its interfaces.
    pub interfaces: Vec<String>,
    /// Its frames.
    pub frames: Vec<Captured>,
    statistics: Vec<(u64, u64)>,
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Captured {
    /// The name of its interface.
    pub interface: String,
    /// Whether the guest got it.
    pub to_guest: bool,
    /// Its length.
    pub len: usize,
    /// Its bytes, as far as they were kept.
    pub bytes: Vec<u8>,
}

impl File {
    /// Frames that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.statistics.iter().map(|(_, dropped)| dropped).sum()
    }

    /// Frames that were moved.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.statistics.iter().map(|(received, _)| received).sum()
    }
}

/// Reads a file to its end, which tells what was counted of each interface.
pub fn read(path: &Path) -> Result<File> {
    let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    let mut reader = PcapNgReader::new(&bytes[..])?;
    let mut file = File::default();
    let mut last = None;
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                file.interfaces.push(name.context("an interface without name")?);
            }
            Block::EnhancedPacket(packet) => {
                let to_guest = match packet.options[..] {
                    [EnhancedPacketOption::Flags(1)] => true,
                    [EnhancedPacketOption::Flags(2)] => false,
                    ref other => bail!("{other:?}"),
                };
                let age = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64() - packet.timestamp.as_secs_f64();
                ensure!((-5.0..300.0).contains(&age), "it is {age} s old");
                ensure!(last <= Some(packet.timestamp), "{last:?}, then {:?}", packet.timestamp);
                last = Some(packet.timestamp);
                let interface = file.interfaces.get(packet.interface_id as usize).context("no such interface")?.clone();
                let (len, bytes) = (packet.original_len as usize, packet.data.to_vec());
                file.frames.push(Captured { interface, to_guest, len, bytes });
            }
            Block::InterfaceStatistics(statistics) => {
                let mut counts = (0, 0);
                for option in &statistics.options {
                    match option {
                        InterfaceStatisticsOption::IsbIfRecv(n) => counts.0 = *n,
                        InterfaceStatisticsOption::IsbIfDrop(n) => counts.1 = *n,
                        _ => {}
                    }
                }
                file.statistics.push(counts);
            }
            other => bail!("{other:?}"),
        }
    }
    ensure!(file.statistics.len() == file.interfaces.len(), "the file has no end");
    Ok(file)
}
