//! A ring with whatever a driver writes into it, and the verbs in whatever order.
//!
//! What must hold: no panic; slices lie inside guest memory; no more is taken than the ring has entries; a ring goes
//! on at its base; every page that the device writes to is marked while there is a log.

use arbitrary::Arbitrary;
use vnicd::memory::{copy_from_guest, copy_to_guest};
use vnicd::ring::{Access, Ring, RingError, RingLog, RingSetup};

use crate::guest::{BASE, Guest};

const DESC: u64 = BASE;
const AVAIL: u64 = BASE + 0x2000;
const USED: u64 = BASE + 0x3000;
const BUFFERS: u64 = BASE + 0x4000;

/// Descriptors that one call walks at most, those of its last chain left aside (`MAX_WALKED` of the ring).
const MAX_WALKED: usize = 8192;

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

#[derive(Arbitrary, Debug)]
enum Step {
    // The driver.
    Desc { index: u8, address: Address, len: u16, flags: u8, owner: u8, number: u8 },
    TableDesc { index: u8, address: Address, len: u16, flags: u8, number: u8 },
    Avail { slot: u8, head: u8 },
    AvailIdx(u16),
    Event(u16, u16),
    Write(u16, [u8; 8]),
    // The device.
    Take(u8, u16),
    Reserve(u8, u16),
    Complete(u16),
    CompleteUnwritten(u8),
    Publish,
    Untake(u16),
    ArmKicks,
    SuppressKicks,
    NeedsCall,
    ForgetCalls,
    Restart,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    Buffer(u16),
    Table,
    Ring(u16),
    Any(u64),
}

impl Address {
    fn get(self) -> u64 {
        match self {
            Self::Buffer(at) => BUFFERS + 0x1000 + u64::from(at),
            Self::Table => BUFFERS,
            Self::Ring(at) => BASE + u64::from(at % 0x4000),
            Self::Any(at) => at,
        }
    }
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
        for step in &case.steps {
            drive(guest, step, setup);
            let before = guest.snapshot();
            device.serve(step);
            device.check();
            let marked = guest.take_marks();
            if case.is_logged {
                let changed = guest.changed(&before);
                assert!(changed.is_subset(&marked), "{step:?}: {changed:x?} changed, {marked:x?} marked");
            } else {
                assert!(marked.is_empty(), "{step:?}: {marked:x?} marked");
            }
        }
    });
}

/// What the driver does in a step.
fn drive(guest: &Guest, step: &Step, setup: RingSetup) {
    let descriptor = |table: u64, index: u8, address: Address, len: u16, flags: u16, number: u8| {
        let (flags, number) = (flags.to_le_bytes(), u16::from(number).to_le_bytes());
        let rest = if setup.packed { [number, flags] } else { [flags, number] };
        let bytes = [&address.get().to_le_bytes()[..], &u32::from(len).to_le_bytes(), &rest.concat()].concat();
        guest.write(table + u64::from(index) * 16, &bytes);
    };
    match *step {
        Step::Desc { index, address, len, flags, owner, number } => {
            // Mostly the flags that mean something; whose a packed descriptor is.
            let owner = if setup.packed { u16::from(owner & 1) << 7 | u16::from(owner & 2) << 14 } else { 0 };
            descriptor(setup.desc, index, address, len, u16::from(flags & 7) | owner, number);
        }
        Step::TableDesc { index, address, len, flags, number } => {
            descriptor(BUFFERS, index, address, len, flags.into(), number);
        }
        Step::Avail { slot, head } => guest.write(setup.avail + 4 + u64::from(slot) * 2, &[head, 0]),
        Step::AvailIdx(idx) => guest.write(setup.avail + 2, &idx.to_le_bytes()),
        Step::Event(at, flags) if setup.packed => {
            guest.write(setup.avail, &[at.to_le_bytes(), flags.to_le_bytes()].concat());
        }
        Step::Event(at, flags) => {
            guest.write(setup.avail, &flags.to_le_bytes());
            guest.write(setup.avail + 4 + u64::from(setup.size) * 2, &at.to_le_bytes());
        }
        Step::Write(at, bytes) => guest.write(BASE + u64::from(at), &bytes),
        _ => {}
    }
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
                let slices = self.ring.taken().slices_of(0);
                let written = if writes { copy_to_guest(&vec![0xa5; written.into()], slices, 0) } else { 0 };
                self.ring.complete(written as u32);
                assert_eq!(self.ring.taken().len(), taken - 1);
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
        // A descriptor is at most a slice of either region.
        assert!(taken.buffers().len() <= 2 * (MAX_WALKED + 2 * size).max(size * size));
        let mut bytes = [0; 256];
        for at in 0..taken.len() {
            let slices = taken.slices_of(at);
            let len: usize = slices.iter().map(vnicd::memory::GuestSlice::len).sum();
            assert_eq!(len, taken.chains()[at].len as usize);
            copy_from_guest(slices, len.saturating_sub(bytes.len()), &mut bytes);
        }
    }
}
