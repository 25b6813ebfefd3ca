//! What a packed ring shows by one store, without any fence: a burst of used descriptors by the flags of its first, and
//! the place that an event area asks for by the flags beside it.
//!
//! The device is `PackedRing::{complete, publish, arm_kicks, needs_call}` in `backend/src/ring/packed.rs`. The driver
//! looks at the next descriptor alone, behind the one it processed last (virtio 1.3, 2.8.2), and writes its event area
//! as the device does (2.8.14).

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool as Seen;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use loom::thread;
use models::packed::{DESC, ENABLE, EventArea, Place, SIZE};
use models::{Plain, failure, holds, races};

/// How a device shows a burst.
#[derive(Clone, Copy, PartialEq)]
enum Publish {
    /// The first descriptor last and with release.
    FirstLast(Ordering),
    /// In the order of the ring, each with release but the ones behind the first.
    InOrder,
}

const BURST: usize = 3;

/// A device that uses a burst, and a driver that looks once; `seen` when it saw the burst.
fn burst(publish: Publish, seen: Arc<Seen>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let chains: Rc<[(Plain, AtomicU16); SIZE as usize]> = Rc::default();
        let places: Vec<Place> =
            std::iter::successors(Some(Place::START), |place| Some(place.next())).take(BURST).collect();
        for place in &places {
            chains[place.index()].1.store(place.avail_flags(), Relaxed);
        }
        let device = thread::spawn({
            let (chains, places) = (chains.clone(), places.clone());
            move || {
                places.iter().for_each(|place| chains[place.index()].0.write());
                let show = |place: Place, order| chains[place.index()].1.store(place.used_flags(), order);
                if publish == Publish::InOrder {
                    show(places[0], Release);
                }
                places[1..].iter().for_each(|place| show(*place, Relaxed));
                if let Publish::FirstLast(order) = publish {
                    show(places[0], order);
                }
            }
        });
        if chains[places[0].index()].1.load(Acquire) == places[0].used_flags() {
            for place in &places {
                assert_eq!(chains[place.index()].1.load(Relaxed), place.used_flags(), "{place:?} is not used");
                chains[place.index()].0.read();
            }
            seen.store(true, Ordering::Relaxed);
        }
        device.join().unwrap();
    }
}

#[test]
fn the_first_descriptor_shows_its_whole_burst() {
    let seen = Arc::new(Seen::new(false));
    holds(burst(Publish::FirstLast(Release), seen.clone()));
    assert!(seen.load(Ordering::Relaxed), "no driver saw the burst");
}

#[test]
fn the_first_descriptor_is_written_last_and_with_release() {
    races(burst(Publish::FirstLast(Relaxed), Arc::default()));
    let failure = failure(burst(Publish::InOrder, Arc::default()));
    assert!(failure.contains("is not used"), "{failure}");
}

/// One side asks for a place in an area that asked for everything, the other reads what is asked for.
fn event(written: Ordering, read: Ordering, seen: Arc<Seen>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let area = Rc::new(EventArea::new(ENABLE));
        let asks = thread::spawn({
            let area = area.clone();
            move || area.ask_for_in(written, Place::START)
        });
        if let (DESC, place) = area.read_in(read) {
            assert_eq!(place, Some(Place::START), "an older place");
            seen.store(true, Ordering::Relaxed);
        }
        asks.join().unwrap();
    }
}

#[test]
fn whoever_sees_that_a_place_is_asked_for_sees_which() {
    let seen = Arc::new(Seen::new(false));
    holds(event(Release, Acquire, seen.clone()));
    assert!(seen.load(Ordering::Relaxed), "nobody saw that a place was asked for");
    for (written, read) in [(Relaxed, Acquire), (Release, Relaxed)] {
        let failure = failure(event(written, read, Arc::default()));
        assert!(failure.contains("an older place"), "{failure}");
    }
}
