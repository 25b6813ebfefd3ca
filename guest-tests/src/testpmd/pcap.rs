//! Capture files in the classic format of libpcap ("Savefile Format", pcap-savefile(5)), as far as testpmd's capture
//! port reads and writes them: this machine's byte order, Ethernet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Opens a file whose times are in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// The same with nanoseconds, as testpmd writes them.
const MAGIC_NANO: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
const MAX_FRAME: u32 = 65_535;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// Writes a capture file with these frames.
pub fn write(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let version = 2 | 4 << 16;
    let mut bytes: Vec<u8> = [MAGIC, version, 0, 0, MAX_FRAME, ETHERNET].iter().flat_map(|w| w.to_ne_bytes()).collect();
    for (at, frame) in (0..).zip(frames) {
        let len = frame.len() as u32;
        bytes.extend([at, 0u32, len, len].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(frame);
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads the frames of a file.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let known = bytes.len() >= FILE_HEADER && matches!(word(&bytes, 0), Some(MAGIC | MAGIC_NANO));
    ensure!(known, "{} is no capture file", path.display());
    let mut rest = &bytes[FILE_HEADER..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let cut = || format!("{} is cut off in frame {}", path.display(), frames.len());
        let [kept, len] = [8, 12].map(|at| word(rest, at));
        ensure!(kept == len, "frame {} was cut to {kept:?} of {len:?} bytes", frames.len());
        let end = FRAME_HEADER + kept.with_context(cut)? as usize;
        frames.push(rest.get(FRAME_HEADER..end).with_context(cut)?.to_vec());
        rest = &rest[end..];
    }
    Ok(frames)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.pcap");
        for frames in [vec![], vec![vec![1; 60]], vec![vec![2; 14], vec![], vec![3; 9000]]] {
            write(&path, &frames).unwrap();
            assert_eq!(read(&path).unwrap(), frames);
        }
        fs::write(&path, &fs::read(&path).unwrap()[..200]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("cut off in frame 2"));
    }
}
