//! What was found, and what to do about it.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    /// As it should be.
    Good,
    /// It may be meant so.
    Note,
    /// It does not work like this.
    Bad,
}

/// What was found about something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    /// What it is about: a device, the host.
    subject: String,
    pub(super) what: String,
    mend: Option<String>,
}

impl Finding {
    pub(super) fn good(subject: &str, what: impl Into<String>) -> Self {
        Self { grade: Grade::Good, subject: subject.into(), what: what.into(), mend: None }
    }

    pub(super) fn note(subject: &str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Note, subject: subject.into(), what: what.into(), mend: Some(mend.into()) }
    }

    pub(super) fn bad(subject: &str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Bad, subject: subject.into(), what: what.into(), mend: Some(mend.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Good => "ok  ",
            Grade::Note => "note",
            Grade::Bad => "BAD ",
        };
        writeln!(f, "{grade}  {}: {}", self.subject, self.what)?;
        self.mend.iter().try_for_each(|mend| writeln!(f, "      → {mend}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_with_what_to_do() {
        let bad = Finding::bad("vm1", "the bridge 'br0' is missing", "make it: ip link add br0 type bridge");
        assert_eq!(
            bad.to_string(),
            "BAD   vm1: the bridge 'br0' is missing\n      → make it: ip link add br0 type bridge\n"
        );
        assert_eq!(Finding::good("host", "Linux 6.1").to_string(), "ok    host: Linux 6.1\n");
    }
}
