//! Places in a packed virtqueue, and whose the descriptor at one is (virtio 1.3, 2.8.1).

/// Flags of a descriptor that say whose it is (virtio 1.3, 2.8.1).
pub(super) const F_AVAIL: u16 = 1 << virtio_bindings::virtio_ring::VRING_PACKED_DESC_F_AVAIL;
pub(super) const F_USED: u16 = 1 << virtio_bindings::virtio_ring::VRING_PACKED_DESC_F_USED;

/// An index into the ring and the wrap counter that goes with it: bits 0 to 14 and 15 (virtio 1.3, 2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u16);

impl Place {
    pub(super) const WRAP: u16 = 1 << 15;

    /// Where a ring goes on by its base: the place of the next available descriptor in the lower half, that of the next
    /// used one in the upper half (vhost-user, `VHOST_USER_SET_VRING_BASE`). That is the used place, so that what another
    /// back end had taken and not used is taken again. Some front ends leave the upper half zero; then both places are the
    /// lower half.
    pub(super) fn of_base(base: u32) -> Self {
        let (avail, used) = (base as u16, (base >> 16) as u16);
        Self(if used == 0 { avail } else { used })
    }

    /// The base of a ring whose two places are this one.
    pub(super) fn base(self) -> u32 {
        u32::from(self.0) << 16 | u32::from(self.0)
    }

    #[inline]
    pub(super) fn index(self) -> u16 {
        self.0 & !Self::WRAP
    }

    #[inline]
    pub(super) fn wrap(self) -> bool {
        self.0 & Self::WRAP != 0
    }

    /// The place `n` entries on, at most a whole ring of `size`.
    #[inline]
    pub(super) fn after(self, n: u16, size: u16) -> Self {
        let next = u32::from(self.index()) + u32::from(n);
        match next.checked_sub(size.into()) {
            None => Self(next as u16 | (self.0 & Self::WRAP)),
            Some(over) => Self(over as u16 | (!self.0 & Self::WRAP)),
        }
    }

    /// Entries from `earlier` to here, as far as two times round tells.
    pub(super) fn since(self, earlier: Self, size: u16) -> u32 {
        let number = |place: Self| u32::from(place.index()) + if place.wrap() { 0 } else { u32::from(size) };
        (number(self) + 2 * u32::from(size) - number(earlier)) % (2 * u32::from(size))
    }

    /// Flags of a descriptor here that the driver has made available.
    #[inline]
    pub(super) fn avail_flags(self) -> u16 {
        if self.wrap() { F_AVAIL } else { F_USED }
    }

    /// Flags of a descriptor here that the device has used.
    #[inline]
    pub(super) fn used_flags(self) -> u16 {
        if self.wrap() { F_AVAIL | F_USED } else { 0 }
    }
}
