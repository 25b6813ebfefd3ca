//! A hint to the CPU that a cache line will be read or written soon. It never faults, whatever the address.

#![allow(unsafe_code)]

/// Asks for the cache line at `ptr`, to be read.
#[inline]
pub(crate) fn prefetch<T>(ptr: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: a prefetch is a hint: an address that is not mapped is ignored; no register or flag changes.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = ptr;
}

/// Asks for the cache line at `ptr`, to be written: no other CPU keeps it.
#[inline]
pub(crate) fn prefetch_to_write<T>(ptr: *mut T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // The intrinsic asks for reading only, unless the whole program is built for CPUs that are known to have this
        // instruction.
        // SAFETY: a prefetch is a hint: an address that is not mapped is ignored, and so is the whole instruction by a
        // 64-bit CPU that does not know it; no register or flag changes.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: a prefetch is a hint: an address that is not mapped is ignored; no register or flag changes.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = ptr;
}
