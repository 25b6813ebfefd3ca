//! The devices that there are, and how they change while the daemon runs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use super::links::Reopened;
use super::{Device, Ended, EventLoop, Links, Shared};
use crate::config::{Config, DeviceOptions};
use crate::control::Reloaded;
use crate::nic::{Nic, Nics};
use crate::worker::DeviceName;

/// Threads that end devices. The kernel takes some ten milliseconds to take a TAP away, and takes several at a time.
const ENDERS: usize = 16;

/// All devices.
#[derive(Debug)]
pub struct Fleet {
    devices: Vec<(DeviceOptions, Device)>,
    nics: Nics,
    /// What is opened again when its interface comes back.
    reopened: Reopened,
    shared: Shared,
    ended: Ended,
}

impl Fleet {
    /// Opens what the devices of `config` need. Nothing is served yet. `ended` is told when one has served the only front
    /// end that it can have.
    ///
    /// # Errors
    /// When something cannot be opened.
    pub fn open(config: &Config, shared: Shared, ended: Ended) -> Result<Self, Box<dyn Error>> {
        let (nics, reopened) = (Nics::default(), Rc::new(RefCell::default()));
        let mut fleet = Self { devices: Vec::new(), nics, reopened, shared, ended };
        config.devices.iter().try_for_each(|options| fleet.add(options))?;
        Ok(fleet)
    }

    /// Their NICs, now and whenever they are looked at.
    #[must_use]
    pub fn nics(&self) -> Nics {
        self.nics.clone()
    }

    /// What watches their interfaces.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn links(&self) -> io::Result<Links> {
        Links::watch(self.nics.clone(), self.reopened.clone())
    }

    /// Lets front ends in from now on.
    ///
    /// # Errors
    /// When the kernel gives no eventfd or thread.
    pub fn serve(&mut self, events: &mut EventLoop) -> io::Result<()> {
        self.devices.iter_mut().try_for_each(|(_, device)| device.serve(events, self.ended.clone()))
    }

    /// Becomes what `config` says: devices whose options are the same are not touched. One that cannot be opened is left
    /// out, and the others go on.
    pub fn change_to(&mut self, config: &Config, events: &mut EventLoop) -> Reloaded {
        let is_wanted = |options: &DeviceOptions| config.devices.contains(options);
        let names = |devices: &[(DeviceOptions, Device)]| devices.iter().map(|(options, _)| options.name).collect();
        let before: HashSet<DeviceName> = names(&self.devices);
        let wanted: HashSet<DeviceName> = config.devices.iter().map(|options| options.name).collect();
        let mut reloaded = Reloaded::default();
        // What one gives up another may want.
        let removed: Vec<_> = self.devices.extract_if(.., |(options, _)| !is_wanted(options)).collect();
        removed.iter().for_each(|(_, device)| device.part());
        for (options, device) in removed {
            if !wanted.contains(&options.name) {
                reloaded.removed.push(options.name.to_string());
            }
            self.nics.remove(options.name);
            self.reopened.borrow_mut().retain(|(name, _)| *name != options.name);
            device.close(events);
        }
        let there: HashSet<DeviceName> = names(&self.devices);
        for options in config.devices.iter().filter(|options| !there.contains(&options.name)) {
            let name = options.name.to_string();
            let ended = self.ended.clone();
            let served = self.add(options).and_then(|()| match self.devices.last_mut() {
                Some((_, device)) => device.serve(events, ended).map_err(Into::into),
                None => Ok(()),
            });
            match served {
                Ok(()) if before.contains(&options.name) => reloaded.changed.push(name),
                Ok(()) => reloaded.added.push(name),
                Err(e) => {
                    tracing::error!(device = name, "cannot be opened: {e}");
                    reloaded.failed.push((name, e.to_string()));
                }
            }
        }
        // It fails only when the counter is full, and then whoever reads it is woken already.
        let _ = rustix::io::write(&self.shared.changed, &1u64.to_ne_bytes());
        reloaded
    }

    /// Has all front ends go, without waiting until they have: the rings of all stop at the same time.
    pub fn part(&self) {
        self.devices.iter().for_each(|(_, device)| device.part());
    }

    /// The NICs of all, which nobody else may have any more.
    fn take(&mut self) -> Vec<Arc<Nic>> {
        self.reopened.borrow_mut().clear();
        self.nics.clear();
        self.devices.drain(..).map(|(_, device)| device.nic().clone()).collect()
    }

    fn add(&mut self, options: &DeviceOptions) -> Result<(), Box<dyn Error>> {
        let mut device = Device::open(options, &self.shared)?;
        self.nics.add(device.nic().clone());
        self.reopened.borrow_mut().extend(device.take_queues().map(|queues| (options.name, queues)));
        self.devices.push((options.clone(), device));
        Ok(())
    }
}

impl Drop for Fleet {
    /// Ends all devices, several at a time.
    fn drop(&mut self) {
        let mut nics = self.take();
        let share = nics.len().div_ceil(ENDERS);
        if nics.len() <= 1 {
            return;
        }
        thread::scope(|scope| {
            while !nics.is_empty() {
                let some = nics.split_off(nics.len().saturating_sub(share));
                // Without a thread they end here.
                let _ = thread::Builder::new().spawn_scoped(scope, move || drop(some));
            }
        });
    }
}
