//! From words to an expression.
//!
//! `not` binds closest; `and` and `or` bind alike, from left to right, as in pcap-filter(7).

use std::net::IpAddr;

use super::packet::{ARP, IP, IP6};
use super::{Expr, Prefix, Side, WITH_PORTS};

/// Longest expression in bytes, which bounds how deep it is.
const MAX_LEN: usize = 4096;

const TERMS: &str = "arp, ip, ip6, tcp, udp, icmp, icmp6, host, net, port, src, dst, ether, vlan, not or (";

/// Reads an expression.
pub(super) fn expression(text: &str) -> Result<Expr, String> {
    if text.len() > MAX_LEN {
        return Err(format!("it is longer than {MAX_LEN} bytes"));
    }
    let words = words(text);
    let mut parser = Parser { words: &words, at: 0 };
    let expr = parser.expression()?;
    match parser.next() {
        None => Ok(expr),
        Some(word) => Err(format!("'{word}' is not expected there: and, or, or the end must come")),
    }
}

/// Words are what stands between blanks; brackets and signs are words of their own.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for mut piece in text.split_whitespace() {
        while let Some(at) = piece.find(['(', ')', '!', '&', '|']) {
            let (before, rest) = piece.split_at(at);
            let len = if rest.starts_with("&&") || rest.starts_with("||") { 2 } else { 1 };
            words.extend([before, &rest[..len]].into_iter().filter(|word| !word.is_empty()));
            piece = &rest[len..];
        }
        words.extend(Some(piece).filter(|word| !word.is_empty()));
    }
    words
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    fn takes(&mut self, words: &[&str]) -> bool {
        let is_next = self.words.get(self.at).is_some_and(|word| words.contains(word));
        self.at += usize::from(is_next);
        is_next
    }

    /// The next word, as what `read` makes of it.
    fn value<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
        match self.next() {
            Some(word) => read(word).ok_or_else(|| format!("'{word}' is no {what}")),
            None => Err(format!("{} must be followed by a {what}", self.last())),
        }
    }

    /// The last word, for whoever misses one behind it.
    fn last(&self) -> String {
        self.words.last().map_or_else(|| "nothing".into(), |word| format!("'{word}'"))
    }

    fn expression(&mut self) -> Result<Expr, String> {
        let mut left = self.term()?;
        loop {
            left = if self.takes(&["and", "&&"]) {
                Expr::And(left.into(), self.term()?.into())
            } else if self.takes(&["or", "||"]) {
                Expr::Or(left.into(), self.term()?.into())
            } else {
                return Ok(left);
            };
        }
    }

    fn term(&mut self) -> Result<Expr, String> {
        let v46 = |number| Expr::Protocol { number, v4: true, v6: true };
        Ok(match self.next() {
            None if self.words.is_empty() => return Err(format!("it is empty: write {TERMS}")),
            None => return Err(format!("{} is the end, but something must follow it: {TERMS}", self.last())),
            Some("not" | "!") => Expr::Not(self.term()?.into()),
            Some("(") => {
                let inner = self.expression()?;
                match self.next() {
                    Some(")") => inner,
                    Some(word) => return Err(format!("'{word}' is not expected there: and, or, or ) must come")),
                    None => return Err("a ( has no )".into()),
                }
            }
            Some("arp") => Expr::EtherType(ARP),
            Some("ip") => Expr::EtherType(IP),
            Some("ip6") => Expr::EtherType(IP6),
            Some("tcp") => self.with_ports(&[6])?.unwrap_or_else(|| v46(6)),
            Some("udp") => self.with_ports(&[17])?.unwrap_or_else(|| v46(17)),
            Some("icmp") => Expr::Protocol { number: 1, v4: true, v6: false },
            Some("icmp6") => Expr::Protocol { number: 58, v4: false, v6: true },
            Some("vlan") => Expr::Vlan(self.vlan()?),
            Some("ether") => {
                let side = self.side();
                match self.next() {
                    Some("host") => Expr::Ether(side, self.value("address such as 52:54:00:12:34:56", mac)?),
                    word => return Err(missing(word, "host and an address", "ether, src or dst")),
                }
            }
            Some(word @ ("src" | "dst" | "host" | "net" | "port")) => {
                self.at -= 1;
                let side = self.side();
                match self.next() {
                    Some("host") => Expr::Net(side, self.value("address (names are not looked up)", host)?),
                    Some("net") => Expr::Net(side, self.value("network such as 10.0.0.0/24 or fd00::/64", net)?),
                    Some("port") => Expr::Port(side, WITH_PORTS, self.port()?),
                    other => return Err(missing(other, "host, net or port", word)),
                }
            }
            Some(word) => return Err(format!("'{word}' begins nothing that is known here: write {TERMS}")),
        })
    }

    fn side(&mut self) -> Side {
        if self.takes(&["src"]) {
            Side::Src
        } else if self.takes(&["dst"]) {
            Side::Dst
        } else {
            Side::Either
        }
    }

    /// `[src|dst] port N` behind a protocol, if it is there.
    fn with_ports(&mut self, protocols: &'static [u8]) -> Result<Option<Expr>, String> {
        let side = self.side();
        if self.takes(&["port"]) {
            return Ok(Some(Expr::Port(side, protocols, self.port()?)));
        }
        match side {
            Side::Either => Ok(None),
            _ => Err(missing(self.next(), "port", "src or dst behind a protocol")),
        }
    }

    fn port(&mut self) -> Result<u16, String> {
        self.value("port from 0 to 65535 (names are not looked up)", |word| word.parse().ok())
    }

    /// The number behind `vlan`, if there is one.
    fn vlan(&mut self) -> Result<Option<u16>, String> {
        let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        if !self.words.get(self.at).is_some_and(is_number) {
            return Ok(None);
        }
        self.value("VLAN from 0 to 4095", |word| word.parse().ok().filter(|id| *id < 4096)).map(Some)
    }
}

fn missing(word: Option<&str>, what: &str, behind: &str) -> String {
    match word {
        Some(word) => format!("'{word}' is not expected there: {what} must follow {behind}"),
        None => format!("{what} must follow {behind}"),
    }
}

fn host(word: &str) -> Option<Prefix> {
    let address: IpAddr = word.parse().ok()?;
    Some(Prefix::new(address, bits(address)))
}

fn net(word: &str) -> Option<Prefix> {
    let (address, len) = word.split_once('/')?;
    let (address, len): (IpAddr, u32) = (address.parse().ok()?, len.parse().ok()?);
    let host = bits(address).checked_sub(len)?;
    // Bits of a host in a network are a slip.
    let is_net = match address {
        IpAddr::V4(address) => u32::from(address).trailing_zeros() >= host,
        IpAddr::V6(address) => u128::from(address).trailing_zeros() >= host,
    };
    is_net.then(|| Prefix::new(address, len))
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mac(word: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    word.split(':').map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}
