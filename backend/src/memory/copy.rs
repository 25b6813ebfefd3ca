//! Copies of packets: small ones without a call.

#![allow(unsafe_code)]

/// Up to this many bytes are copied here; the C library is faster beyond.
const SMALL: usize = 256;
const BLOCK: usize = 16;
/// Bytes of a virtio-net header.
const HEADER: usize = 12;

/// Copies `len` bytes.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`]: `from` can be read and `to` be written for `len` bytes, and they do not
/// overlap.
#[inline]
pub(super) unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    if len == HEADER {
        // SAFETY: the caller vouches for both.
        return unsafe { std::ptr::copy_nonoverlapping(from, to, HEADER) };
    }
    if !(BLOCK..=SMALL).contains(&len) {
        // SAFETY: the caller vouches for both.
        return unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    }
    // Whole blocks from the start, and one that ends with the last byte and may cover some of these again.
    let mut at = 0;
    while at < len - BLOCK {
        // SAFETY: at + BLOCK < len.
        unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(at), to.wrapping_add(at), BLOCK) };
        at += BLOCK;
    }
    let last = len - BLOCK;
    // SAFETY: last + BLOCK = len.
    unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(last), to.wrapping_add(last), BLOCK) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_not_a_byte_more() {
        let from: Vec<u8> = (0..1024u32).map(|n| (n * 7 + 1) as u8).collect();
        for len in 0..600 {
            let mut to = [0xa5; 700];
            // SAFETY: both are longer than `len`, and apart.
            unsafe { copy_bytes(from.as_ptr(), to.as_mut_ptr(), len) };
            assert_eq!(to[..len], from[..len], "{len} bytes");
            assert!(to[len..].iter().all(|byte| *byte == 0xa5), "beyond {len} bytes");
        }
    }
}
