//! Ethernet addresses, in words.

use std::str::FromStr;

use serde::Deserialize;

use crate::words::from_string;

/// A unicast MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
            Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(Self(mac)),
            _ => Err(format!("'{text}' is no unicast MAC address: write six bytes such as 52:54:00:12:34:56")),
        }
    }
}

/// Unicast MAC addresses, one at least, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Macs(pub Vec<Mac>);

impl FromStr for Macs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

from_string!(Mac, Macs);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!("52:54:00:12:34:5f".parse(), Ok(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])));
        for bad in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "53:54:00:12:34:56", "00:00:00:00:00:00", "5:4:0:1:2:3"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
            assert!(format!("52:54:00:12:34:5f,{bad}").parse::<Macs>().is_err(), "{bad}");
        }
        assert_eq!("52:54:00:12:34:5f,02:00:00:00:00:01".parse::<Macs>().unwrap().0.len(), 2);
    }
}
