//! What a bench must show, and whether it does.

#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::report::columns;

/// Where a value must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// There or below.
    AtMost(f64),
    /// There or above.
    AtLeast(f64),
    /// Not there, but below.
    Below(f64),
}

impl Bound {
    fn admits(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::Below(bound) => write!(f, "< {bound}"),
        }
    }
}

/// Something that must be so: one of its values at least lies where it must.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Of what.
    pub what: String,
    /// Values, none if they were not measured, and where they must lie.
    pub any_of: Vec<(Option<f64>, Bound)>,
}

impl Claim {
    /// A claim about one value.
    #[must_use]
    pub fn new(what: impl Into<String>, value: Option<f64>, bound: Bound) -> Self {
        Self { what: what.into(), any_of: vec![(value, bound)] }
    }

    /// Whether it is so; none as long as a value that was not measured might decide.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let each = || self.any_of.iter().map(|(value, bound)| value.map(|value| bound.admits(value)));
        if each().any(|holds| holds == Some(true)) {
            Some(true)
        } else if each().any(|holds| holds.is_none()) {
            None
        } else {
            Some(false)
        }
    }

    /// What it is about, what was found, what it must be, whether it is.
    #[must_use]
    pub fn row(&self) -> [String; 4] {
        let values = self.any_of.iter().map(|(value, _)| value.map_or("-".into(), |value| format!("{value:.3}")));
        let bounds = self.any_of.iter().map(|(_, bound)| bound.to_string());
        let join = |parts: Vec<String>| parts.join(" or ");
        let holds = match self.holds() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        [self.what.clone(), join(values.collect()), join(bounds.collect()), holds.into()]
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let values = self.any_of.iter().map(|(value, bound)| json!({ "value": value, "bound": bound }));
        json!({ "what": self.what, "any_of": values.collect::<Vec<_>>(), "holds": self.holds() })
    }
}

/// Claims as a table, under a heading.
#[must_use]
pub fn table(heading: &str, claims: &[Claim]) -> String {
    let header = [heading, "found", "must be", "holds"].map(String::from);
    let rows: Vec<_> = std::iter::once(header).chain(claims.iter().map(Claim::row)).collect();
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_is_enough_and_what_was_not_measured_is_open() {
        let claim = |values: [Option<f64>; 2]| Claim {
            what: "x".into(),
            any_of: vec![(values[0], Bound::AtMost(1.0)), (values[1], Bound::Below(1.0))],
        };
        let holds = |values| claim(values).holds();
        assert_eq!(holds([Some(1.0), Some(1.0)]), Some(true));
        assert_eq!(holds([Some(1.1), Some(0.9)]), Some(true));
        assert_eq!(holds([Some(1.1), Some(1.0)]), Some(false));
        assert_eq!(holds([Some(0.5), None]), Some(true));
        assert_eq!(holds([None, Some(2.0)]), None);
        assert_eq!(Claim::new("x", Some(0.98), Bound::AtLeast(0.98)).holds(), Some(true));
        assert_eq!(claim([None, Some(2.0)]).row(), ["x", "- or 2.000", "<= 1 or < 1", "not measured"]);
    }
}
