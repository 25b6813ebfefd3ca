//! Moves a running guest into another QEMU.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Guest, GuestBuilder};
use crate::patience::Patience;

/// How long a migration may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a migration went, as QEMU tells it.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// How long the guest stood still.
    pub downtime: Duration,
    /// How long all of it took.
    pub total: Duration,
    /// How often guest memory was gone through for what was written since the time before.
    pub syncs: u64,
}

impl Guest {
    /// Moves the guest into a QEMU that `to` puts together, which must be like this one but for what is behind its network
    /// devices. Commands that run in the guest go on, but nothing more is heard of them.
    pub fn migrate(self, to: GuestBuilder) -> Result<(Self, Migration)> {
        let socket = self.sockets.join("migration");
        let uri = format!("unix:{}", socket.display());
        let next = to.qemu_args(["-incoming", &uri]).start()?;
        next.link.go_on_from(&self.link);
        // It listens before it greets.
        next.qmp(json!({ "execute": "query-status" }))?;
        // As fast as the machine can: both ends are on it.
        let parameters = json!({ "max-bandwidth": 10u64 << 30, "downtime-limit": 300 });
        self.qmp(json!({ "execute": "migrate-set-parameters", "arguments": parameters }))?;
        self.qmp(json!({ "execute": "migrate", "arguments": { "uri": uri } }))?;
        let mut patience = Patience::new(PATIENCE);
        let done = loop {
            let told = self.qmp(json!({ "execute": "query-migrate" }))?;
            match told["status"].as_str() {
                Some("completed") => break told,
                Some("failed" | "cancelled") => bail!("the migration failed: {told}"),
                _ if patience.is_over() => bail!("no end of the migration within {PATIENCE:?}: {told}"),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        next.wait_running()?;
        let number = |value: &Value| value.as_u64().with_context(|| format!("not all is told: {done}"));
        let migration = Migration {
            downtime: Duration::from_millis(number(&done["downtime"])?),
            total: Duration::from_millis(number(&done["total-time"])?),
            syncs: number(&done["ram"]["dirty-sync-count"])?,
        };
        self.quit()?;
        Ok((next, migration))
    }

    fn wait_running(&self) -> Result<()> {
        let mut patience = Patience::new(PATIENCE);
        while self.qmp(json!({ "execute": "query-status" }))?["status"] != "running" {
            if patience.is_over() {
                bail!("the guest that was migrated does not run\n{}", self.qemu.tail());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
