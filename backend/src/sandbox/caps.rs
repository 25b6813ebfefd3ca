//! Capabilities (capabilities(7)), users and limits: given up, never got back.

#![forbid(unsafe_code)]

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

/// Gives up all capabilities but `keep`, and whatever a program that is started could give back. Says which are left.
pub(super) fn keep_only(keep: CapabilitySet) -> io::Result<CapabilitySet> {
    let held = capabilities(None)?.permitted;
    // Another user than before has them permitted, but not in effect.
    set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() })?;
    // The bounding set takes a right to change; without that, `no_new_privs` does as much.
    for capability in CapabilitySet::all().difference(keep).iter() {
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let left = held.intersection(keep);
    set_no_new_privs(true)?;
    // It fails on kernels that have no such set.
    let _ = clear_ambient_capability_set();
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() })?;
    Ok(left)
}

/// Becomes another user, in no group but the one given. Capabilities stay permitted, and are to be given up after.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_keep_capabilities(true)?;
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Lets the process lock as much memory as it likes; whether it may.
pub(super) fn unlimit_locked_memory() -> bool {
    let unlimited = Rlimit { current: None, maximum: None };
    getrlimit(Resource::Memlock) == unlimited || setrlimit(Resource::Memlock, unlimited).is_ok()
}
