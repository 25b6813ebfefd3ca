//! Whether a daemon grows: what it uses whenever the same guests are with it.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::daemon::Daemon;
use crate::patience::Patience;

/// Room for what the allocator keeps.
const SLACK: u64 = 2 << 20;
/// Descriptors of rings that a guest may use now and did not then: two each, of up to four pairs more in all.
const RING_FDS: usize = 16;
/// How long descriptors and threads may take to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first time it is looked at so often, for a moment without anybody at its control socket.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// What a daemon used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) fds: usize,
    pub(super) threads: usize,
    pub(super) private_bytes: u64,
}

impl Size {
    fn of(daemon: &Daemon) -> Result<Self> {
        let usage = daemon.usage()?;
        Ok(Self { fds: usage.fds, threads: usage.threads.len(), private_bytes: usage.rss_private_bytes })
    }
}

/// What it used first, and last, by who was with it.
#[derive(Debug, Default)]
pub(super) struct Growth(BTreeMap<String, [Size; 2]>);

impl Growth {
    /// Looks at it, while `who` are with it.
    ///
    /// # Errors
    /// When it uses more than it did first with the same ones.
    pub(super) fn look(&mut self, daemon: &Daemon, who: String) -> Result<()> {
        let Some([first, last]) = self.0.get_mut(&who) else {
            let mut size = Size::of(daemon)?;
            for _ in 1..LOOKS {
                thread::sleep(PAUSE);
                let now = Size::of(daemon)?;
                (size.fds, size.threads) = (size.fds.min(now.fds), size.threads.min(now.threads));
            }
            self.0.insert(who, [size; 2]);
            return Ok(());
        };
        let mut patience = Patience::new(PATIENCE);
        loop {
            *last = Size::of(daemon)?;
            let is_more = last.fds > first.fds + RING_FDS || last.threads > first.threads;
            if !is_more && last.private_bytes <= first.private_bytes + SLACK {
                return Ok(());
            }
            if patience.is_over() {
                bail!("daemon {} has grown, with {who}: it used {first:?}, now {last:?}", daemon.name);
            }
            thread::sleep(PAUSE);
        }
    }

    /// What it used first and last, by who was with it.
    pub(super) fn seen(&self) -> impl Iterator<Item = (&str, &[Size; 2])> {
        self.0.iter().map(|(who, sizes)| (who.as_str(), sizes))
    }
}
