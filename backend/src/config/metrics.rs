//! Where metrics are given, and to whom.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;

/// An address and port to give metrics on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MetricsAddress(pub SocketAddr);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("'{text}' is no address and port: write them as in 127.0.0.1:9477 or [::1]:9477");
        text.parse().map(Self).map_err(wrong)
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Whether metrics may be given there: to other machines only if that was asked for.
pub(super) fn check(address: Option<MetricsAddress>, public: bool) -> Result<(), String> {
    match address {
        None if public => Err("--metrics-public means nothing without --metrics".into()),
        Some(MetricsAddress(address)) if !public && !address.ip().to_canonical().is_loopback() => Err(format!(
            "--metrics {address} lets other machines in: use 127.0.0.1:{}, or add --metrics-public",
            address.port()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_stay_on_this_machine_unless_they_are_let_out() {
        for own in ["127.0.0.1:9", "127.8.0.1:0", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(check(Some(own.parse().unwrap()), false), Ok(()), "{own}");
        }
        for public in ["0.0.0.0:9", "192.0.2.1:9", "[::]:9", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:9"] {
            let address = Some(public.parse().unwrap());
            let error = check(address, false).unwrap_err();
            assert!(error.contains(public) && error.contains("--metrics-public"), "{error}");
            assert_eq!(check(address, true), Ok(()), "{public}");
        }
        assert_eq!(check(None, false), Ok(()));
        assert!(check(None, true).is_err());
    }

    #[test]
    fn an_address_has_a_port_and_no_name() {
        for bad in ["", ":9", "127.0.0.1", "localhost:9", "::1:9", "127.0.0.1:99999"] {
            let error = bad.parse::<MetricsAddress>().unwrap_err();
            assert!(error.contains(&format!("'{bad}'")) && error.lines().count() == 1, "{error}");
        }
    }
}
