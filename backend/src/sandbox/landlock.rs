//! Landlock (landlock(7)): no path is opened any more, no port listened on or connected to, and nobody outside is sent a
//! signal. Descriptors that are open, and those that the opener sends, are not affected.

#![forbid(unsafe_code)]

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetError,
    Scope,
};

/// The newest version that this is written for. Older kernels restrict what they know.
const NEWEST: ABI = ABI::V6;

/// Restricts this thread and those that it starts. Says which version of Landlock the kernel has, if it has any.
pub(super) fn restrict() -> Result<Option<i32>, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as i32),
        _ => None,
    })
}
