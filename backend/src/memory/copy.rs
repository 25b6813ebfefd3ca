//! Copies between guest memory and private memory: small ones without a call.

#![allow(unsafe_code)]

use super::GuestSlice;
use super::window::Unaligned;

/// Up to this many bytes are copied here; the C library is as fast beyond.
const SMALL: usize = 128;

/// Copies `len` bytes.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`]: `from` can be read and `to` be written for `len` bytes, and they do not
/// overlap.
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    // A block from the start and one that ends with the last byte, which may cover some of it again.
    match len {
        // SAFETY: the caller vouches for both.
        0..16 => unsafe { std::ptr::copy_nonoverlapping(from, to, len) },
        // SAFETY: both blocks are inside `len`, for which the caller vouches.
        16..=32 => unsafe { copy_ends::<16>(from, to, len) },
        // SAFETY: as above.
        33..=64 => unsafe { copy_ends::<32>(from, to, len) },
        // SAFETY: as above.
        65..=SMALL => unsafe { copy_ends::<64>(from, to, len) },
        // SAFETY: the caller vouches for both.
        _ => unsafe { std::ptr::copy_nonoverlapping(from, to, len) },
    }
}

/// Copies the first and the last `N` of `len` bytes.
///
/// # Safety
/// As for [`copy_bytes`], and `len` is `N` at least.
#[inline]
unsafe fn copy_ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
    let last = len.wrapping_sub(N);
    // SAFETY: N is not more than len.
    unsafe { std::ptr::copy_nonoverlapping(from, to, N) };
    // SAFETY: last + N = len.
    unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(last), to.wrapping_add(last), N) };
}

/// Length of all slices together, in bytes.
#[must_use]
pub fn total_len(slices: &[GuestSlice<'_>]) -> usize {
    slices.iter().map(GuestSlice::len).sum()
}

/// Copies from `slices`, from byte `skip` on, until `to` is full or they end; says how many bytes.
#[inline]
pub fn copy_from_guest(slices: &[GuestSlice<'_>], skip: usize, to: &mut [u8]) -> usize {
    if let Some(whole) = whole_piece(slices, skip, to.len()) {
        // SAFETY: the piece is valid for its length (see `get`), which is that of `to`; private memory and guest memory
        // never overlap.
        unsafe { copy_bytes(whole.cast_const(), to.as_mut_ptr(), to.len()) };
        return to.len();
    }
    copy_from_pieces(slices, skip, to)
}

#[cold]
fn copy_from_pieces(slices: &[GuestSlice<'_>], skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    each_piece(slices, skip, to.len(), |piece| {
        let into = to[done..].as_mut_ptr();
        // SAFETY: the slice is valid for its length (see `get`), `to` has as many bytes left; private memory and guest
        // memory never overlap.
        unsafe { copy_bytes(piece.iovec().iov_base.cast::<u8>(), into, piece.len()) };
        done += piece.len();
    });
    done
}

/// Appends `len` bytes of `slices`, from byte `skip` on, to `to`, or as many as there are; says how many.
#[inline]
pub fn append_from_guest(slices: &[GuestSlice<'_>], skip: usize, len: usize, to: &mut Vec<u8>) -> usize {
    to.reserve(len);
    if let Some(whole) = whole_piece(slices, skip, len) {
        let into = to.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the piece is valid for its length (see `get`), for which room was made; private memory and guest memory
        // never overlap.
        unsafe { copy_bytes(whole.cast_const(), into, len) };
        // SAFETY: these bytes were written just now, inside the capacity.
        unsafe { to.set_len(to.len() + len) };
        return len;
    }
    append_pieces(slices, skip, len, to)
}

#[cold]
fn append_pieces(slices: &[GuestSlice<'_>], skip: usize, len: usize, to: &mut Vec<u8>) -> usize {
    to.reserve(len);
    let before = to.len();
    each_piece(slices, skip, len, |piece| {
        let into = to.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the slice is valid for its length (see `get`); the pieces together are `len` bytes at most, for which
        // room was made; private memory and guest memory never overlap.
        unsafe { copy_bytes(piece.iovec().iov_base.cast::<u8>(), into, piece.len()) };
        // SAFETY: these bytes were written just now, inside the capacity.
        unsafe { to.set_len(to.len() + piece.len()) };
    });
    to.len() - before
}

/// Where the `len` bytes from `skip` on are, if the first slice holds them all: mostly it does.
#[inline]
fn whole_piece(slices: &[GuestSlice<'_>], skip: usize, len: usize) -> Option<*mut u8> {
    let first = slices.first()?;
    let left = first.len().checked_sub(skip)?;
    (left >= len).then(|| first.iovec().iov_base.wrapping_byte_add(skip).cast())
}

/// Calls `f` with the pieces of `slices` that lie in the `len` bytes from `skip` on.
#[inline]
fn each_piece(slices: &[GuestSlice<'_>], mut skip: usize, mut len: usize, mut f: impl FnMut(GuestSlice<'_>)) {
    for slice in slices {
        if len == 0 {
            break;
        }
        let piece = slice.skip(skip).first(len);
        skip = skip.saturating_sub(slice.len());
        if !piece.is_empty() {
            len -= piece.len();
            f(piece);
        }
    }
}

/// The first twelve bytes of `slices` as little-endian numbers, if the first slice holds them all. Each byte is read exactly
/// once.
#[inline]
#[must_use]
pub fn read_twelve(slices: &[GuestSlice<'_>]) -> Option<(u64, u32)> {
    let first = slices.first().filter(|slice| slice.len() >= 12)?;
    let from = first.iovec().iov_base;
    // SAFETY: the slice is valid for its length (see `get`), which is 12 at least; the type has no alignment to keep.
    let low = unsafe { from.cast::<Unaligned<u64>>().read_volatile() }.0;
    // SAFETY: as above, eight bytes on.
    let high = unsafe { from.wrapping_byte_add(8).cast::<Unaligned<u32>>().read_volatile() }.0;
    Some((u64::from_le(low), u32::from_le(high)))
}

/// Copies `from` to `slices`, from byte `skip` on, until it is written or they end; says how many bytes.
#[inline]
pub fn copy_to_guest(from: &[u8], slices: &[GuestSlice<'_>], skip: usize) -> usize {
    if let Some(whole) = whole_piece(slices, skip, from.len()) {
        // SAFETY: the piece is valid for its length (see `get`), which is that of `from`; private memory and guest memory
        // never overlap.
        unsafe { copy_bytes(from.as_ptr(), whole, from.len()) };
        return from.len();
    }
    copy_to_pieces(from, slices, skip)
}

#[cold]
fn copy_to_pieces(from: &[u8], slices: &[GuestSlice<'_>], skip: usize) -> usize {
    let mut done = 0;
    each_piece(slices, skip, from.len(), |piece| {
        let from = from[done..].as_ptr();
        // SAFETY: the slice is valid for its length (see `get`), `from` has as many bytes left; private memory and guest
        // memory never overlap.
        unsafe { copy_bytes(from, piece.iovec().iov_base.cast::<u8>(), piece.len()) };
        done += piece.len();
    });
    done
}

/// Sees to it that `slices` begin with `header`, of ten or twelve bytes, as [`copy_to_guest`] does. What stands there
/// already is not written again: buffers come round with the header of the last frame, which mostly is the same, and a line
/// that the driver has read stays with both CPUs.
#[inline]
pub fn refresh_in_guest(header: &[u8], slices: &[GuestSlice<'_>]) {
    let same = match (header.first_chunk(), header.last_chunk(), slices.first()) {
        (Some(first), Some(last), Some(slice)) if slice.len() >= header.len() => {
            let from = slice.iovec().iov_base;
            // SAFETY: the slice is valid for its length (see `get`), which is that of the header at least, and that is
            // eight bytes at least; the type has no alignment to keep.
            let low = unsafe { from.cast::<Unaligned<u64>>().read_volatile() }.0;
            // SAFETY: as above, for the last four bytes.
            let high = unsafe { from.wrapping_byte_add(header.len() - 4).cast::<Unaligned<u32>>().read_volatile() }.0;
            low == u64::from_ne_bytes(*first) && high == u32::from_ne_bytes(*last)
        }
        _ => false,
    };
    if !same {
        copy_to_guest(header, slices, 0);
    }
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
