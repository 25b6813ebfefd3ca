//! What front ends and drivers may choose from (virtio 1.3, 6; vhost-user, "Feature bits").

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const UPLINKS: [&str; 3] = ["tap=tap0", "discard", "loopback"];
/// Virtio features by bit.
const OFFERED: [(u32, &str); 2] = [(34, "RING_PACKED"), (35, "IN_ORDER")];
const NOT_OFFERED: [(u32, &str); 6] = [
    (33, "ACCESS_PLATFORM"),
    (36, "ORDER_PLATFORM"),
    (38, "NOTIFICATION_DATA"),
    (40, "RING_RESET"),
    (57, "HASH_REPORT"),
    (60, "RSS"),
];
/// `VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS`.
const INBAND_NOTIFICATIONS: u64 = 1 << 14;

#[test]
fn packed_rings_and_use_in_order_are_offered() -> Result<()> {
    for uplink in UPLINKS {
        let ns = NetNs::new()?;
        let vnicd = Vnicd::builder(&ns).uplink(uplink).start()?;
        let offered = Client::connect(vnicd.socket())?.front.get_features()?;
        for (bit, name) in OFFERED {
            ensure!(offered & (1 << bit) != 0, "{name} is not offered over {uplink}");
        }
    }
    Ok(())
}

#[test]
fn what_nothing_stands_behind_is_neither_offered_nor_accepted() -> Result<()> {
    for uplink in UPLINKS {
        let ns = NetNs::new()?;
        let vnicd = Vnicd::builder(&ns).uplink(uplink).start()?;
        for (bit, name) in NOT_OFFERED {
            let mut client = Client::connect(vnicd.socket())?;
            // From then on, answers are asked for.
            client.negotiate(0)?;
            let offered = client.front.get_features()?;
            ensure!(offered & (1 << bit) == 0, "{name} is offered over {uplink}");
            ensure!(client.front.set_features(offered | 1 << bit).is_err(), "{name} is accepted over {uplink}");
        }
    }
    Ok(())
}

/// Kicks and calls are eventfds, whichever message comes first.
#[test]
fn notifications_in_band_are_not_offered() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).start()?;
    for owner_first in [true, false] {
        let mut client = Client::connect(vnicd.socket())?;
        if owner_first {
            client.front.set_owner()?;
        }
        client.front.get_features()?;
        let offered = client.front.get_protocol_features().context("no protocol features")?;
        ensure!(offered.bits() & INBAND_NOTIFICATIONS == 0, "in-band notifications are offered: {offered:?}");
    }
    Ok(())
}
