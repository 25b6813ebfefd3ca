//! A ring with whatever a driver writes into it, and the verbs in whatever order.
//!
//! What must hold: no panic; slices lie inside guest memory; no more is taken than the ring has entries; a ring goes
//! on at its base; every page that the device writes to is marked while there is a log.

use arbitrary::Arbitrary;
use vnicd::memory::{copy_from_guest, copy_to_guest};
use vnicd::ring::{Access, Ring, RingError, RingLog, RingSetup};

use crate::driver::{AVAIL, DESC, Driver, Step, USED};
use crate::guest::Guest;

/// Descriptors that one call walks at most, those of its last chain left aside (`MAX_WALKED` of the ring).
const MAX_WALKED: usize = 8192;

/// Slices of chains that were given back that are kept in any case (`FORGET_SLICES` of the ring).
const KEPT: usize = 16 * 32;

/// A ring and what happens to it.
#[derive(Arbitrary, Debug)]
pub struct Case {
    size: Size,
    in_order: bool,
    event_idx: bool,
    indirect: bool,
    writes: bool,
    header: bool,
    base: u32,
    /// Moves the parts of the ring, rarely to where they may be.
    moved: Option<[u16; 3]>,
    is_logged: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Size {
    Small(u8),
    PowerOfTwo(u8),
    Any(u16),
}

impl Case {
    fn setup(&self, packed: bool) -> RingSetup {
        let [desc, avail, used] = self.moved.unwrap_or_default();
        RingSetup {
            packed,
            in_order: self.in_order,
            size: match self.size {
                Size::Small(n) => (n % 16).into(),
                Size::PowerOfTwo(n) => 1 << (n % 16),
                Size::Any(n) => n,
            },
            desc: DESC + u64::from(desc),
            avail: AVAIL + u64::from(avail),
            used: USED + u64::from(used),
            event_idx: self.event_idx,
            indirect: self.indirect,
            access: if self.writes { Access::Write } else { Access::Read },
            min_chain_len: if self.header { 12 } else { 0 },
        }
    }
}

/// Runs a case.
pub fn run(case: Case, packed: bool) {
    Guest::with(|guest| {
        let setup = case.setup(packed);
        let log = case.is_logged.then(|| RingLog::new(guest.log.clone(), Some(setup.used)));
        let mut device = match Device::start(guest, setup, case.base, log.clone()) {
            Ok(device) => device,
            Err(RingError::Base { .. }) if packed => match Device::start(guest, setup, 0x8000, log) {
                Ok(device) => device,
                Err(_) => return,
            },
            Err(_) => return,
        };
        let mut driver = Driver { guest, setup, next: device.ring.base() as u16 };
        for step in &case.steps {
            if driver.drive(step) {
                continue;
            }
            let before = case.is_logged.then(|| guest.snapshot());
            device.serve(step);
            device.check();
            let Some(before) = before else { continue };
            let (changed, marked) = (guest.changed(&before), guest.take_marks());
            assert!(changed.is_subset(&marked), "{step:?}: {changed:x?} changed, {marked:x?} marked");
        }
        assert!(case.is_logged || guest.take_marks().is_empty(), "marked without a log");
    });
}

struct Device<'a> {
    guest: &'a Guest,
    ring: Ring,
    log: Option<RingLog>,
}

impl<'a> Device<'a> {
    fn start(guest: &'a Guest, setup: RingSetup, base: u32, log: Option<RingLog>) -> Result<Self, RingError> {
        let mut ring = Ring::new(&guest.table, setup, base)?;
        ring.set_log(log.clone());
        Ok(Self { guest, ring, log })
    }

    /// What the device does in a step.
    fn serve(&mut self, step: &Step) {
        let writes = self.ring.setup().access == Access::Write;
        let taken = self.ring.taken().len();
        let result = match *step {
            Step::Take(chains, bytes) => self.ring.take_burst(chains.into(), bytes.into()).map(drop),
            Step::Reserve(chains, bytes) => self.ring.reserve(chains.into(), bytes.into()).map(drop),
            Step::Complete(written) if taken > 0 => {
                let written = self.write_to(0, written);
                self.ring.complete(written);
                assert_eq!(self.ring.taken().len(), taken - 1);
                Ok(())
            }
            Step::CompleteBurst(n, written) => {
                let n = taken.min(n.into());
                let lens: Vec<_> = (0..n).map(|at| self.write_to(at, written)).collect();
                self.ring.complete_burst(&lens);
                assert_eq!(self.ring.taken().len(), taken - n);
                Ok(())
            }
            Step::CompleteUnwritten(n) => {
                self.ring.complete_unwritten(n.into());
                assert_eq!(self.ring.taken().len(), taken.saturating_sub(n.into()));
                Ok(())
            }
            Step::Publish => {
                self.ring.publish();
                assert!(!self.ring.publish(), "nothing is left to publish");
                Ok(())
            }
            Step::Untake(written) => {
                if writes {
                    let n = copy_to_guest(&vec![0x5a; written.into()], self.ring.taken().slices(taken), 0);
                    self.ring.mark_written(n);
                }
                self.ring.untake();
                assert!(self.ring.taken().is_empty());
                Ok(())
            }
            Step::ArmKicks => self.ring.arm_kicks().map(drop),
            Step::SuppressKicks => {
                self.ring.suppress_kicks();
                Ok(())
            }
            Step::NeedsCall => {
                self.ring.needs_call();
                Ok(())
            }
            Step::ForgetCalls => {
                self.ring.forget_calls();
                Ok(())
            }
            Step::Restart => {
                self.restart();
                Ok(())
            }
            _ => Ok(()),
        };
        if result.is_err() {
            // A broken ring is not touched again until it is set up anew.
            self.check();
            self.restart();
        }
    }

    /// Writes to taken chain number `at`, if the device may; says how many bytes.
    fn write_to(&self, at: usize, written: u16) -> u32 {
        if self.ring.setup().access == Access::Read {
            return 0;
        }
        copy_to_guest(&vec![0xa5; written.into()], self.ring.taken().slices_of(at), 0) as u32
    }

    fn restart(&mut self) {
        self.ring.publish();
        let (setup, base) = (*self.ring.setup(), self.ring.base());
        self.ring = Ring::new(&self.guest.table, setup, base).expect("a ring goes on at its base");
        self.ring.set_log(self.log.clone());
        // The used index of a split ring is what the driver may have overwritten.
        assert!(!setup.packed || self.ring.base() == base);
    }

    /// What was taken is what may be.
    fn check(&self) {
        let (taken, size) = (self.ring.taken(), usize::from(self.ring.setup().size));
        self.guest.assert_holds(taken);
        assert!(taken.len() <= size);
        assert_eq!(taken.bytes(), taken.chains().iter().map(|chain| chain.len as usize).sum::<usize>());
        // A descriptor is at most a slice of either region. Of chains that were given back no more slices are kept than
        // of those that were not, or so many.
        let held = 2 * (MAX_WALKED + 2 * size).max(size * size);
        assert!(taken.buffers().len() <= 2 * held.max(KEPT));
        let mut bytes = [0; 256];
        for at in 0..taken.len() {
            let slices = taken.slices_of(at);
            let len: usize = slices.iter().map(vnicd::memory::GuestSlice::len).sum();
            assert_eq!(len, taken.chains()[at].len as usize);
            copy_from_guest(slices, len.saturating_sub(bytes.len()), &mut bytes);
        }
    }
}
