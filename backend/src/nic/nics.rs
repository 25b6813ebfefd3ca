//! The NICs that there are now: devices come and go while the daemon runs.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Nic;
use crate::worker::DeviceName;

/// The NICs that there are now, for all on the control thread who show or serve them. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Nics(Rc<RefCell<Vec<Arc<Nic>>>>);

impl Nics {
    /// All of them, in the order of the configuration as far as they were there at the start. To be let go of soon: who
    /// holds a NIC last waits for the end of its workers.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Nic>> {
        self.0.borrow().clone()
    }

    /// One more.
    pub fn add(&self, nic: Arc<Nic>) {
        self.0.borrow_mut().push(nic);
    }

    /// None.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// One less, if there is one of that name.
    pub fn remove(&self, name: DeviceName) {
        self.0.borrow_mut().retain(|nic| nic.name() != name);
    }
}

impl FromIterator<Arc<Nic>> for Nics {
    fn from_iter<T: IntoIterator<Item = Arc<Nic>>>(nics: T) -> Self {
        Self(Rc::new(RefCell::new(nics.into_iter().collect())))
    }
}
