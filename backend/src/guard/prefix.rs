//! Sets of IP addresses, in words: `10.0.0.5,fd00::/64` (RFC 4632, RFC 4291).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

use crate::words::from_string;

/// Addresses, each with all that share so many first bits with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Prefixes {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Prefixes {
    /// Whether the address is one of these.
    #[must_use]
    pub fn contain_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.iter().any(|(prefix, mask)| u32::from(address) & mask == *prefix)
    }

    /// Whether the address is one of these.
    #[must_use]
    pub fn contain_v6(&self, address: Ipv6Addr) -> bool {
        self.v6.iter().any(|(prefix, mask)| u128::from(address) & mask == *prefix)
    }

    fn add(&mut self, text: &str) -> Option<()> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let len = len.map(str::parse::<u32>).transpose().ok()?;
        match address.parse().ok()? {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32u32.checked_sub(len.unwrap_or(32))?).unwrap_or(0);
                self.v4.push((u32::from(address) & mask, mask));
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128u32.checked_sub(len.unwrap_or(128))?).unwrap_or(0);
                self.v6.push((u128::from(address) & mask, mask));
            }
        }
        Some(())
    }
}

impl FromStr for Prefixes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut prefixes = Self { v4: Vec::new(), v6: Vec::new() };
        for part in text.split(',') {
            prefixes.add(part).ok_or_else(|| {
                format!("'{part}' is no address or prefix: use such as 10.0.0.5, 10.0.0.0/24, fd00::5 or fd00::/64")
            })?;
        }
        Ok(prefixes)
    }
}

from_string!(Prefixes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_are_a_set() {
        let set: Prefixes = "10.0.0.5,192.168.1.77/24,fd00::5,fe80::/10".parse().unwrap();
        for (address, is_in) in [
            ("10.0.0.5", true),
            ("10.0.0.6", false),
            ("192.168.1.3", true),
            ("192.168.2.3", false),
            ("fd00::5", true),
            ("fd00::6", false),
            ("febf::1", true),
            ("fec0::1", false),
        ] {
            let found = match address.parse().unwrap() {
                IpAddr::V4(address) => set.contain_v4(address),
                IpAddr::V6(address) => set.contain_v6(address),
            };
            assert_eq!(found, is_in, "{address}");
        }
        let all: Prefixes = "0.0.0.0/0,::/0".parse().unwrap();
        assert!(all.contain_v4([9; 4].into()) && all.contain_v6([9; 16].into()));
        for text in ["", "10.0.0.5/33", "10.0.0", "fd00::/129", "fd00::/-1", "host", "10.0.0.1,,"] {
            assert!(text.parse::<Prefixes>().is_err(), "{text}");
        }
    }
}
