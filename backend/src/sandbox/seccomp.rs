//! Filters of system calls (seccomp(2)), from the lists in `calls`.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::calls::{self, Call};

/// The filters of a daemon, ready to be installed.
#[derive(Debug)]
pub(super) struct Filters {
    /// Says that there is no clone3(2).
    no_clone3: BpfProgram,
    main: BpfProgram,
    worker: BpfProgram,
}

impl Filters {
    pub(super) fn new() -> Result<Self, seccompiler::Error> {
        Ok(Self {
            no_clone3: program(
                [(libc::SYS_clone3, Vec::new())].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::ENOSYS as u32),
            )?,
            main: allow_list(calls::of_main())?,
            worker: allow_list(calls::of_worker())?,
        })
    }

    /// Restricts this thread, and all that it starts.
    pub(super) fn install_main(&self) -> io::Result<()> {
        install(&self.no_clone3, false)?;
        install(&self.main, true)
    }

    /// Restricts this thread more.
    pub(super) fn install_worker(&self) -> io::Result<()> {
        install(&self.worker, true)
    }
}

/// The filter of the opener's process.
pub(super) fn opener_filter() -> Result<BpfProgram, seccompiler::Error> {
    allow_list(calls::of_opener())
}

/// Allows these calls, and refuses all others.
fn allow_list(calls: impl Iterator<Item = Call>) -> Result<BpfProgram, seccompiler::Error> {
    program(rules(calls)?, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn program(calls: Rules, other: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(calls, other, listed, arch)?.try_into()?)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(calls: impl Iterator<Item = Call>) -> Result<Rules, seccompiler::Error> {
    let mut all = Rules::new();
    for call in calls {
        let (number, conditions) = match call {
            Call::Any(number) => (number, Vec::new()),
            Call::OneOf(number, at, values) => {
                (number, values.iter().map(|value| (at, SeccompCmpOp::Eq, *value)).collect())
            }
            Call::Without(number, at, bits) => (number, vec![(at, SeccompCmpOp::MaskedEq(bits), 0)]),
            Call::With(number, at, bits) => (number, vec![(at, SeccompCmpOp::MaskedEq(bits), bits)]),
        };
        let rules = conditions.into_iter().map(|(at, op, value)| {
            SeccompRule::new(vec![SeccompCondition::new(at, SeccompCmpArgLen::Dword, op, value)?])
        });
        all.entry(number).or_default().extend(rules.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(all)
}

/// Installs a filter on this thread. `log` has the kernel note what it refuses.
pub(super) fn install(program: &[sock_filter], log: bool) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: the kernel copies the steps that the structure points to, as many as it says; both structures are the
    // kernel's own.
    let status = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stands_in_one_list_and_filters_fit() {
        let numbers = |call: Call| match call {
            Call::Any(n) | Call::OneOf(n, ..) | Call::Without(n, ..) | Call::With(n, ..) => n,
        };
        // Some are for both, each with arguments of its own.
        let shared = [libc::SYS_ioctl, libc::SYS_fcntl];
        let mut all: Vec<_> = calls::of_main().map(numbers).filter(|n| !shared.contains(n)).collect();
        let len = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), len, "a call stands twice");
        assert!(calls::of_worker().count() < len);
        // It waits for whoever changes an interface of the host.
        let may_wait =
            |call| matches!(call, Call::OneOf(libc::SYS_ioctl, _, values) if values.contains(&libc::TUNSETQUEUE));
        assert!(!calls::of_worker().any(may_wait) && calls::of_main().any(may_wait));
        let filters = Filters::new().unwrap();
        assert!(filters.worker.len() < filters.main.len() && filters.main.len() < 4096);
        assert!(opener_filter().unwrap().len() < 4096);
        let starts = [libc::SYS_execve, libc::SYS_clone, libc::SYS_clone3, libc::SYS_ptrace, libc::SYS_kill];
        assert!(!calls::of_opener().map(numbers).any(|n| starts.contains(&n)));
    }
}
