//! The CPU's time stamp counter: the cheapest clock there is, in ticks of its own.

#![allow(unsafe_code)]

/// Ticks since some time in the past: the time stamp counter on x86_64, the virtual counter on aarch64.
#[inline]
pub(super) fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86_64 CPU has it, and the kernel lets programs read it.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: it reads a register that programs may read, and changes nothing.
        unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
        ticks
    }
}
