//! Looks at a daemon's modes and counters through its control socket, often and at little cost.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::control::Control;
use crate::lab::eventually;

/// A connection to a control socket.
#[derive(Debug)]
pub struct Watch(Control);

/// What has a mode of its own, a queue pair or a direction of it, at one moment.
#[derive(Clone)]
pub struct Lane(Value);

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Watch {
    /// Connects.
    pub fn connect(control: &Path) -> Result<Self> {
        Control::connect(control).map(Self)
    }

    /// The lanes of all devices that have been started, with their counters.
    pub fn lanes(&mut self) -> Result<Vec<Lane>> {
        let mut status = self.0.call("status", json!({}))?;
        let Value::Array(devices) = status["devices"].take() else { bail!("no devices: {status}") };
        let lanes = |mut device: Value| match device["pairs"].take() {
            Value::Array(lanes) => lanes,
            _ => Vec::new(),
        };
        Ok(devices.into_iter().flat_map(lanes).map(Lane).collect())
    }

    /// The lane of this name.
    pub fn lane(&mut self, id: &str) -> Result<Lane> {
        let lanes = self.lanes()?;
        lanes.iter().find(|lane| lane.id() == id).cloned().with_context(|| format!("no lane {id}: {lanes:?}"))
    }

    /// Waits until a lane is in `mode`, and gives it.
    pub fn wait_for(&mut self, id: &str, mode: &str) -> Result<Lane> {
        self.wait_until(id, mode, |lane| lane.mode() == mode)
    }

    /// Waits until a lane is as wanted, and gives it.
    pub fn wait_until(&mut self, id: &str, what: &str, wanted: impl Fn(&Lane) -> bool) -> Result<Lane> {
        let mut last = None;
        eventually(&format!("{id}: {what}"), || Ok(wanted(last.insert(self.lane(id)?))))
            .with_context(|| format!("{last:?}"))?;
        last.context("it was looked at")
    }

    /// Fails if the lane's worker does anything in `time`, but for what one would do that was stopped and goes on.
    pub fn sleeps(&mut self, id: &str, time: Duration) -> Result<()> {
        let before = self.lane(id)?;
        std::thread::sleep(time);
        let after = self.lane(id)?;
        let did = |name: &str| after.count(name) - before.count(name);
        ensure!(did("rounds") <= 2 && did("wakeups") <= 2, "not asleep for {time:?}: {before:?}, then {after:?}");
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Lane {
    /// Its name.
    pub fn id(&self) -> String {
        text(&self.0["id"])
    }

    /// Its worker's name.
    pub fn worker(&self) -> String {
        text(&self.0["worker"])
    }

    /// Its worker's CPU, if that is pinned.
    pub fn cpu(&self) -> Option<u64> {
        self.0["cpu"].as_u64()
    }

    /// Its mode.
    pub fn mode(&self) -> String {
        text(&self.0["mode"]["mode"])
    }

    /// Why it is in this mode.
    pub fn reason(&self) -> String {
        text(&self.0["mode"]["reason"])
    }

    /// How often it has changed its mode.
    pub fn switches(&self) -> u64 {
        let switches = self.0["mode"]["switches"].as_object();
        switches.into_iter().flat_map(|by_reason| by_reason.values()).filter_map(Value::as_u64).sum()
    }

    /// How often it has changed its mode for this reason.
    pub fn switches_by(&self, reason: &str) -> u64 {
        self.0["mode"]["switches"][reason].as_u64().unwrap_or_default()
    }

    /// A counter.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn count(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {self:?}"))
    }
}
