//! Sets of VLANs (IEEE 802.1Q), in words: `0,5,10-20`. 0 is a frame without a tag.

use std::str::FromStr;

use serde::Deserialize;

use crate::words::from_string;

/// Largest number of a VLAN.
const MAX_VLAN: u16 = 4094;

/// VLANs: ranges of their numbers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Vlans(Vec<(u16, u16)>);

impl Vlans {
    /// Whether the VLAN is one of these.
    #[must_use]
    pub fn contain(&self, vlan: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&vlan))
    }
}

impl FromStr for Vlans {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            (range.0 <= range.1 && range.1 <= MAX_VLAN).then_some(range)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| {
            format!("'{text}' is no list of VLANs: use numbers up to {MAX_VLAN} such as 0,5,10-20, where 0 is no tag")
        })
    }
}

from_string!(Vlans);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_a_set() {
        let vlans: Vlans = "0,5,10-20".parse().unwrap();
        let found: Vec<u16> = (0..100).filter(|vlan| vlans.contain(*vlan)).collect();
        assert_eq!(found, [vec![0, 5], (10..=20).collect()].concat());
        for text in ["", "4095", "5-3", "1,,2", "a", "-1", "1-2-3"] {
            assert!(text.parse::<Vlans>().unwrap_err().contains(&format!("'{text}'")));
        }
    }
}
