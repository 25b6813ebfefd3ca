//! Gives up what the daemon does not need: first rights (capabilities, another user, paths and ports), before anything is
//! opened; then system calls, before anybody outside is heard. `docs/threat-model.md` says what for.
//!
//! Each of these goes as far as the kernel lets it, and one log line says how far.

mod calls;
mod caps;
mod landlock;
mod seccomp;
mod self_test;

use std::io;
use std::sync::OnceLock;

use rustix::thread::CapabilitySet;

use self::seccomp::Filters;

pub use self_test::self_test;

/// The filters, once this process is sandboxed.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// Why the daemon cannot be sandboxed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It may not change its user.
    #[error("cannot become user {uid}: start vnicd as root, or leave out --user")]
    User {
        /// The user.
        uid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Capabilities stay.
    #[error("cannot give up capabilities: start vnicd with --sandbox off if there is no other way")]
    Capabilities(#[source] io::Error),
    /// The filters are wrong.
    #[error("cannot make the filter of system calls: start vnicd with --sandbox off")]
    Filter(#[from] seccompiler::Error),
}

/// What the daemon needs of what it was started with.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// User and group to become.
    pub user: Option<(u32, u32)>,
    /// Whether it locks packet memory (AF_XDP).
    pub locks_memory: bool,
}

/// Rights that were given up.
#[derive(Debug)]
pub struct Shed {
    /// Version of Landlock, or why there is none.
    landlock: Result<i32, String>,
    left: CapabilitySet,
}

/// Gives up all capabilities but those that opening takes, and all system calls that it does not make.
///
/// # Errors
/// When the kernel refuses to take capabilities, or the filter is wrong. A kernel without filters is no error.
pub fn confine_opener(needed: CapabilitySet) -> io::Result<()> {
    caps::keep_only(needed)?;
    let filter = seccomp::opener_filter().map_err(io::Error::other)?;
    if let Err(e) = seccomp::install(&filter, true) {
        tracing::debug!("the opener may call anything: {e}");
    }
    Ok(())
}

/// Gives up all rights. To be called before any thread is started.
///
/// # Errors
/// When capabilities stay or the user cannot be changed. A kernel without Landlock is no error.
pub fn shed(needs: Needs) -> Result<Shed, SandboxError> {
    let may_lock = !needs.locks_memory || caps::unlimit_locked_memory();
    if let Some((uid, gid)) = needs.user {
        caps::become_user(uid, gid).map_err(|source| SandboxError::User { uid, source })?;
    }
    let keep = if may_lock { CapabilitySet::empty() } else { CapabilitySet::IPC_LOCK };
    let left = caps::keep_only(keep).map_err(SandboxError::Capabilities)?;
    let landlock = match landlock::restrict() {
        Ok(Some(version)) => Ok(version),
        Ok(None) => Err("the kernel has it not, or not switched on".into()),
        Err(e) => Err(e.to_string()),
    };
    Ok(Shed { landlock, left })
}

impl Shed {
    /// Restricts the system calls of this thread and of all that it starts, and says what there is now. To be called before
    /// any thread is started.
    ///
    /// # Errors
    /// When the filters are wrong. A kernel without them is no error.
    pub fn restrict_calls(self) -> Result<(), SandboxError> {
        let filters = Filters::new()?;
        let seccomp = FILTERS.get_or_init(|| filters).install_main();
        let capabilities = if self.left.is_empty() { "none" } else { "CAP_IPC_LOCK" };
        let landlock = self.landlock.map_or_else(|e| format!("none ({e})"), |version| format!("version {version}"));
        let calls = seccomp.as_ref().map_or_else(|e| format!("any ({e})"), |()| "listed".into());
        tracing::info!(capabilities, landlock, calls, "sandboxed");
        Ok(())
    }
}

/// Restricts the system calls of this thread to those of a worker, if the daemon is sandboxed.
pub fn confine_worker(name: &str) {
    if let Some(Err(e)) = FILTERS.get().map(Filters::install_worker) {
        tracing::debug!(worker = name, "it may call what the main thread may: {e}");
    }
}
