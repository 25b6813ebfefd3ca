//! An AF_XDP uplink in words: `af-xdp=IFNAME[,queue=N][,mode=MODE][,steer=all|mac][,force][,fds=N[:N...]]`.

use std::collections::HashSet;

use crate::opener::XdpMode;

/// Queues of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpSpec {
    /// Name of the interface.
    pub interface: String,
    /// Its first queue.
    pub queue: u32,
    /// How frames come and go.
    pub mode: XdpMode,
    /// Whether only frames for the guest's address and for groups come.
    pub by_mac: bool,
    /// Whether even the interface of the default route is taken.
    pub force: bool,
    /// Sockets that somebody else opened.
    pub fds: Vec<i32>,
}

const USAGE: &str = "use queue=N, mode=auto|zerocopy|copy|skb, steer=all|mac, force or fds=N[:N...], each once";

impl XdpSpec {
    pub(super) fn parse(interface: &str, options: Option<&str>) -> Result<Self, String> {
        if interface.is_empty() {
            return Err("af-xdp= needs the name of an interface, such as af-xdp=eth1".into());
        }
        let mut spec = Self {
            interface: interface.to_owned(),
            queue: 0,
            mode: XdpMode::Auto,
            by_mac: false,
            force: false,
            fds: Vec::new(),
        };
        let mut seen = HashSet::new();
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            let wrong = || format!("'{option}' is no option of an AF_XDP uplink: {USAGE}");
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if !seen.insert(name) {
                return Err(wrong());
            }
            match (name, value) {
                ("queue", number) => spec.queue = number.parse().map_err(|_| wrong())?,
                ("mode", "auto") => spec.mode = XdpMode::Auto,
                ("mode", "zerocopy") => spec.mode = XdpMode::ZeroCopy,
                ("mode", "copy") => spec.mode = XdpMode::Copy,
                ("mode", "skb") => spec.mode = XdpMode::Skb,
                ("steer", "all") => spec.by_mac = false,
                ("steer", "mac") => spec.by_mac = true,
                ("fds", list) => spec.fds = file_descriptors(list).ok_or_else(wrong)?,
                ("force", "") if option == "force" => spec.force = true,
                _ => return Err(wrong()),
            }
        }
        if !spec.fds.is_empty() && (spec.by_mac || spec.force) {
            return Err(
                "fds= leaves steering to whoever opened the sockets: steer and force mean nothing with it".into()
            );
        }
        Ok(spec)
    }

    /// What it keeps others from using, in words.
    pub(super) fn holds(&self) -> Vec<String> {
        let fds = self.fds.iter().map(|fd| format!("AF_XDP socket of file descriptor {fd}"));
        fds.chain([format!("queue {} of '{}'", self.queue, self.interface)]).collect()
    }
}

/// Different numbers with colons between them.
fn file_descriptors(list: &str) -> Option<Vec<i32>> {
    let fds: Vec<i32> = list.split(':').map(|fd| fd.parse().ok()).collect::<Option<_>>()?;
    let different: HashSet<_> = fds.iter().collect();
    (different.len() == fds.len()).then_some(fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_read_and_nothing_else() {
        let plain = XdpSpec {
            interface: "eth1".into(),
            queue: 0,
            mode: XdpMode::Auto,
            by_mac: false,
            force: false,
            fds: vec![],
        };
        let parse = |options| XdpSpec::parse("eth1", options);
        assert_eq!(parse(None), Ok(plain.clone()));
        let all = XdpSpec { queue: 3, mode: XdpMode::Skb, by_mac: true, force: true, ..plain.clone() };
        assert_eq!(parse(Some("queue=3,mode=skb,steer=mac,force")), Ok(all));
        assert_eq!(parse(Some("fds=5:6,queue=1")), Ok(XdpSpec { queue: 1, fds: vec![5, 6], ..plain.clone() }));
        assert_eq!(parse(Some("mode=zerocopy")), Ok(XdpSpec { mode: XdpMode::ZeroCopy, ..plain }));
        for bad in [
            "",
            "queue=",
            "queue=-1",
            "queue=1,queue=2",
            "mode=fast",
            "steer=",
            "force=1",
            "fds=",
            "fds=3:3",
            "x=1",
            "fds=3,steer=mac",
            "fds=3,force",
        ] {
            let error = parse(Some(bad)).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{bad}: {error}");
        }
        assert!(XdpSpec::parse("", None).is_err());
    }
}
