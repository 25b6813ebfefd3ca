//! Makes a frame one that its receiver takes: its checksum finished, its flags those that were negotiated, its length
//! not below what Ethernet has.

#![forbid(unsafe_code)]

use super::checksum::complete;
use super::{HeaderError, NetHeader, Offloads};

/// Least bytes of a frame on an Ethernet, without its check sequence (IEEE 802.3, 3.2.7).
pub const MIN_FRAME: usize = 60;

/// Finishes a frame in private memory, of one packet, for a receiver that takes `takes`. A receiver without checksum
/// offload gets a finished checksum and no flag (virtio 1.3, 5.1.6.4.1).
///
/// # Errors
/// When the frame is one to be cut into segments, or its checksum field lies outside.
pub fn finish(header: &mut NetHeader, frame: &mut [u8], takes: Offloads) -> Result<(), HeaderError> {
    if header.is_segmented() {
        return Err(HeaderError::Segmentation);
    }
    if takes.csum {
        return Ok(());
    }
    if let Some((start, offset)) = header.checksum()
        && !complete(frame, start, offset)
    {
        return Err(HeaderError::ChecksumOutside);
    }
    *header = NetHeader::default();
    Ok(())
}

/// Fills a frame of `len` bytes at the start of `buffer` up with zero to [`MIN_FRAME`] and says how long it is then. It
/// stays as it is where the buffer has no room for that.
#[must_use]
pub fn pad(buffer: &mut [u8], len: usize) -> usize {
    match buffer.get_mut(len..MIN_FRAME) {
        Some(padding) => {
            padding.fill(0);
            MIN_FRAME
        }
        None => len,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Spec, Sums, is_good};
    use super::*;

    #[test]
    fn a_checksum_is_finished_for_who_does_not_finish_it() {
        for (udp, v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let spec = Spec { udp, v6, sums: Sums::Partial, ..Spec::default() };
            let (mut header, mut frame) = (spec.header(), spec.frame());
            let takes = Offloads { csum: true, ..Offloads::default() };
            assert_eq!(finish(&mut header, &mut frame, takes), Ok(()));
            assert_eq!((header, &frame), (spec.header(), &spec.frame()));
            assert_eq!(finish(&mut header, &mut frame, Offloads::default()), Ok(()));
            assert_eq!(header, NetHeader::default());
            assert!(is_good(&frame), "{spec:?}");
            assert_eq!(frame, Spec { sums: Sums::Whole, ..spec }.frame());
        }
    }

    #[test]
    fn a_valid_checksum_stays_valid_unsaid() {
        let mut frame = Spec::default().frame();
        let valid = NetHeader([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut header = valid;
        assert_eq!(finish(&mut header, &mut frame, Offloads::ALL), Ok(()));
        assert_eq!(header, valid);
        assert_eq!(finish(&mut header, &mut frame, Offloads::default()), Ok(()));
        assert_eq!((header, frame), (NetHeader::default(), Spec::default().frame()));
    }

    #[test]
    fn what_cannot_be_finished_is_refused() {
        let mut frame = Spec::default().frame();
        for (start, offset) in [(frame.len() - 1, 0), (34, frame.len() - 35), (0xffff, 0xffff)] {
            let mut header = NetHeader::unfinished(start, offset);
            let finished = finish(&mut header, &mut frame, Offloads::default());
            assert_eq!(finished, Err(HeaderError::ChecksumOutside), "{start} {offset}");
        }
        let mut header = NetHeader::segmented(super::super::Segmentation::Udp, 10, 42, 34, 6);
        assert_eq!(finish(&mut header, &mut frame, Offloads::ALL), Err(HeaderError::Segmentation));
        assert_eq!(frame, Spec::default().frame());
    }

    #[test]
    fn short_frames_are_filled_up_with_zero() {
        let mut buffer = [7; 64];
        assert_eq!(pad(&mut buffer, 42), MIN_FRAME);
        assert_eq!(buffer[..42], [7; 42]);
        assert_eq!(buffer[42..60], [0; 18]);
        assert_eq!(buffer[60..], [7; 4]);
        assert_eq!(pad(&mut buffer, 60), 60);
        assert_eq!(pad(&mut buffer, 64), 64);
        assert_eq!(pad(&mut buffer[..50], 42), 42);
    }
}
