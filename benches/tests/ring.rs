//! Each way through the rings carries packets with each peer, before anybody compares them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::ring::flatness::Knob;
use benches::ring::{Case, Lab, Path, Peer, RingKind, payload};

const TIME: Duration = Duration::from_millis(100);

#[test]
fn every_way_is_measured_with_every_peer_that_has_it() -> Result<()> {
    let mut lab = Lab::new(TIME)?;
    let [split, packed] = RingKind::main();
    for path in Path::ALL {
        let case = Case { queues: 2, frame_len: 1518, ..Case::new(path, packed) };
        let sample = lab.measure(&case, Peer::Testpmd)?.context("testpmd has all ways")?;
        ensure!(sample.mpps > 0.0, "{case}: {sample:?}");
        // A ring that is found full is waiting, which testpmd counts when it makes packets.
        ensure!(sample.efficiency.is_some() || path == Path::BackendToGuest, "{case}: {sample:?}");
        let case = Case::new(path, split);
        let sample = lab.measure(&case, Peer::Vnicd)?;
        ensure!(sample.is_some() == lab.daemon.can(&case, Peer::Vnicd), "{case}: {sample:?}");
        ensure!(sample.is_none_or(|sample| sample.mpps > 0.0), "{case}: {sample:?}");
    }
    payload::check(&lab)?;
    Ok(())
}

#[test]
fn the_load_generator_drives_both_peers() -> Result<()> {
    let mut lab = Lab::new(TIME)?;
    for (knob, value, peer) in
        [(Knob::Regions, 509, Peer::Vnicd), (Knob::Regions, 8, Peer::Testpmd), (Knob::Rings, 4, Peer::Vnicd)]
    {
        let cost = knob.measure(&mut lab, value, peer)?.context("it can be asked")?;
        ensure!(cost.ns > 0.0 && cost.ns.is_finite(), "{value} {knob}: {cost:?}");
    }
    ensure!(Knob::Regions.measure(&mut lab, 509, Peer::Testpmd)?.is_none());
    Ok(())
}
