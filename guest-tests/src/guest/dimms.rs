//! Memory that is plugged into a guest while it runs, and taken out of it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Guest;
use crate::patience::Patience;

/// Their size: what Linux takes as a block of memory on x86, of which it uses whole ones only.
const DIMM_MIB: u32 = 128;
/// Places for them.
const SLOTS: u32 = 4;
/// How long a guest may take to let go of one, or to find it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A memory module of 128 MiB that a guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimm {
    id: String,
    slot: u64,
    address: u64,
}

/// What the guest does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// It may hold anything, network buffers included, and cannot be taken out again.
    Kernel,
    /// It holds nothing that cannot be moved out of it.
    Movable,
}

/// The part of `-m` that leaves room for modules beside `memory_mib`.
pub(super) fn room(memory_mib: u32) -> String {
    format!("slots={SLOTS},maxmem={}M", memory_mib + SLOTS * DIMM_MIB)
}

impl Dimm {
    /// QEMU's arguments for a guest that begins with it.
    pub(super) fn args(&self) -> Vec<String> {
        let Self { id, slot, address } = self;
        let memory = format!("memory-backend-memfd,id=memory-{id},size={DIMM_MIB}M,share=on");
        let dimm = format!("pc-dimm,id={id},memdev=memory-{id},slot={slot},addr={address},node=0");
        vec!["-object".into(), memory, "-device".into(), dimm]
    }

    fn sysfs(&self) -> String {
        format!("/sys/devices/system/memory/memory{}", self.address / (u64::from(DIMM_MIB) << 20))
    }
}

impl Guest {
    /// Plugs in a module of shared memory, which its network devices' back ends are told of, and has Linux use it.
    pub fn plug(&self, id: &str, zone: Zone) -> Result<Dimm> {
        let memory = json!({
            "qom-type": "memory-backend-memfd", "id": format!("memory-{id}"), "share": true,
            "size": u64::from(DIMM_MIB) << 20,
        });
        self.qmp(json!({ "execute": "object-add", "arguments": memory }))?;
        let dimm = json!({ "driver": "pc-dimm", "id": id, "memdev": format!("memory-{id}"), "node": 0 });
        self.qmp(json!({ "execute": "device_add", "arguments": dimm }))?;
        let told = self.dimm(id)?.with_context(|| format!("QEMU shows no dimm {id}"))?;
        let number = |name: &str| told[name].as_u64().with_context(|| format!("no {name} of a dimm: {told}"));
        let dimm = Dimm { id: id.into(), slot: number("slot")?, address: number("addr")? };
        let state = format!("{}/state", dimm.sysfs());
        let zone = match zone {
            Zone::Kernel => "online_kernel",
            Zone::Movable => "online_movable",
        };
        let line = format!("until test -e {state}; do sleep 0.05; done; echo {zone} > {state}; cat {state}");
        let state = self.run_for(&line, PATIENCE)?.ok(&line)?;
        ensure!(state.trim() == "online", "the guest does not use the module: it is {state}");
        Ok(dimm)
    }

    /// Takes a module out. Says whether the guest let it go.
    pub fn unplug(&self, dimm: &Dimm) -> Result<bool> {
        let line = format!("echo offline > {}/state", dimm.sysfs());
        if self.run_for(&line, PATIENCE)?.status != 0 {
            return Ok(false);
        }
        self.qmp(json!({ "execute": "device_del", "arguments": { "id": dimm.id } }))?;
        let mut patience = Patience::new(PATIENCE);
        while self.dimm(&dimm.id)?.is_some() {
            if patience.is_over() {
                bail!("the guest does not let go of module {}", dimm.id);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.qmp(json!({ "execute": "object-del", "arguments": { "id": format!("memory-{}", dimm.id) } }))?;
        Ok(true)
    }

    /// What QEMU tells of a module.
    fn dimm(&self, id: &str) -> Result<Option<Value>> {
        let Value::Array(dimms) = self.qmp(json!({ "execute": "query-memory-devices" }))? else { return Ok(None) };
        Ok(dimms.into_iter().map(|mut dimm| dimm["data"].take()).find(|data| data["id"] == id))
    }
}
