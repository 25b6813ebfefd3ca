//! Quantities in words: a number, with k, M or G for thousands, millions and thousand millions.

use std::str::FromStr;

use serde::Deserialize;

/// A quantity of at least 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "InFile")]
pub struct Quantity(pub u64);

/// As it stands in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum InFile {
    Number(u64),
    Text(String),
}

impl TryFrom<InFile> for Quantity {
    type Error = String;

    fn try_from(value: InFile) -> Result<Self, String> {
        match value {
            InFile::Number(number) => number.to_string().parse(),
            InFile::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.chars().last() {
            Some('k') => (&text[..text.len() - 1], 1_000),
            Some('M') => (&text[..text.len() - 1], 1_000_000),
            Some('G') => (&text[..text.len() - 1], 1_000_000_000),
            _ => (text, 1),
        };
        let value = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|value| *value > 0);
        value
            .map(Self)
            .ok_or_else(|| format!("'{text}' is no quantity: use a number from 1 such as 5000, 100k, 20M, 1G"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_letters() {
        for (text, value) in [("1", 1), ("70", 70), ("5k", 5000), ("20M", 20_000_000), ("40G", 40_000_000_000)] {
            assert_eq!(text.parse(), Ok(Quantity(value)));
        }
        for (toml, value) in [("rate = 5000", 5000), ("rate = '5k'", 5000)] {
            let read: std::collections::HashMap<String, Quantity> = toml::from_str(toml).unwrap();
            assert_eq!(read["rate"], Quantity(value));
        }
        assert!(toml::from_str::<std::collections::HashMap<String, Quantity>>("rate = 0").is_err());
        for text in ["", "0", "0k", "k", "-1", "1.5M", "5m", "1K", "99999999999G", "1é"] {
            assert!(text.parse::<Quantity>().unwrap_err().contains(text), "{text}");
        }
    }
}
