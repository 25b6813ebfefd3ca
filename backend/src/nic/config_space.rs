//! The device configuration that a driver reads (virtio 1.3, 5.1.4), for front ends that leave it to the back end.

use super::Nic;

/// Bytes of the configuration space that a front end may ask for (vhost-user, "Virtio device config space").
const LEN: usize = 256;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;
/// What a link's MTU is when nobody said otherwise (RFC 894).
const DEFAULT_MTU: u16 = 1500;

/// The `len` bytes at `offset`; none if they are not all inside.
#[must_use]
pub fn read(nic: &Nic, offset: u32, len: u32) -> Option<Vec<u8>> {
    let mut space = [0; LEN];
    space[..6].copy_from_slice(&nic.mac().unwrap_or_default());
    let status = if nic.link_up() { LINK_UP } else { 0 };
    space[6..8].copy_from_slice(&status.to_le_bytes());
    space[8..10].copy_from_slice(&(nic.rings() / 2).to_le_bytes());
    space[10..12].copy_from_slice(&nic.mtu().unwrap_or(DEFAULT_MTU).to_le_bytes());
    // Speed and duplex are unknown.
    space[12..17].fill(0xff);
    let start = usize::try_from(offset).ok()?;
    space.get(start..start.checked_add(usize::try_from(len).ok()?)?).map(<[u8]>::to_vec)
}
