//! The daemon that runs, if one does.

use serde_json::Value;

use vnicd::control::{DeviceStatus, Status};

use super::super::client::{Daemon, Error};
use super::finding::Finding;

/// Counters that say that frames are lost, why, and what to do.
const LOSSES: [(&str, &str, &str); 8] = [
    (
        "rx_dropped_offload",
        "frames for the guest need offloads that its driver did not take",
        "ethtool -K PEER tso off gso off",
    ),
    ("rx_dropped_too_large", "frames are larger than the guest's buffers", "give guest and uplink the same MTU"),
    (
        "tx_dropped_header",
        "the guest's driver writes headers that make no sense",
        "look at its driver: it is broken, or hostile",
    ),
    ("tx_dropped_mac", "the guest sends from Ethernet addresses that it may not have", "see --allowed-macs"),
    ("tx_dropped_ip", "the guest sends from IP addresses that it may not have", "see --allowed-ips"),
    ("tx_dropped_vlan", "the guest sends to VLANs that it may not reach", "see --allowed-vlans"),
    ("tx_dropped_down", "the uplink was down while the guest sent", "ip link set UPLINK up"),
    ("tx_dropped_refused", "the uplink refuses frames of the guest", "give guest and uplink the same MTU"),
];

pub(super) fn examine(daemon: &Daemon) -> Vec<Finding> {
    match daemon.ask_for::<Status>("status", Value::Null) {
        Ok(status) => {
            let what = format!("vnicd {} answers, process {}", status.version, status.pid);
            let mut findings = vec![Finding::good("daemon", what)];
            findings.extend(status.devices.iter().flat_map(of_device));
            findings
        }
        Err(error @ Error::NoDaemon { .. }) => {
            let mend = "start it, and name its socket here: vnicctl --control PATH doctor";
            vec![Finding::note("daemon", error.to_string(), mend)]
        }
        Err(error) => vec![Finding::bad("daemon", error.to_string(), "restart it, or take the vnicctl of its version")],
    }
}

fn of_device(device: &DeviceStatus) -> Vec<Finding> {
    let name = &device.name;
    let Some(pid) = device.front_end_pid else {
        let mend = "start the monitor; if it runs, it names another socket or has no right to this one";
        return vec![Finding::note(name, "no front end is connected", mend)];
    };
    let mut findings = vec![];
    if device.features.is_none() {
        let mend = "boot the guest, or load its driver: modprobe virtio_net";
        findings.push(Finding::note(
            name,
            format!("process {pid} is connected, and no driver has taken the device"),
            mend,
        ));
    } else if !device.pairs.iter().any(|pair| pair.rx_started && pair.tx_started) {
        let mend = "in the guest: ip link set INTERFACE up";
        findings.push(Finding::note(name, "the guest's driver runs no queue pair", mend));
    }
    let count = |counter: &str| -> u64 { device.pairs.iter().filter_map(|pair| pair.counters[counter].as_u64()).sum() };
    if count("rings_broken") > 0 {
        let mend = "the log says what was wrong; a reset of the guest's driver starts it again";
        findings.push(Finding::bad(name, "the guest's driver broke a ring", mend));
    }
    for (counter, what, mend) in LOSSES {
        if count(counter) > 0 {
            findings.push(Finding::note(name, format!("{what} ({counter} {})", count(counter)), mend));
        }
    }
    if findings.is_empty() {
        let what = format!(
            "process {pid} is connected and moves packets: {} to the guest, {} from it",
            count("rx_packets"),
            count("tx_packets")
        );
        findings.push(Finding::good(name, what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(front_end: Option<i32>, features: Option<&str>, started: bool, counters: Value) -> String {
        let mode = json!({
            "mode": "polling", "for_s": 3.21, "reason": "backlog", "setting": "auto", "setting_ends_in_s": null,
            "activity": "polling", "switches": {}, "waiting_s": 0.0, "draining_s": 0.0, "polling_s": 0.0,
            "polling_window_us": 0.0,
        });
        let status = json!({
            "name": "vm1", "uplink": "tap vm1", "front_end_pid": front_end, "features": features, "queue_pairs": 1,
            "pairs": [{ "id": "vm1/0", "rx_started": started, "tx_started": started, "worker": "vm1/0", "cpu": null,
                        "mode": mode, "counters": counters }],
        });
        of_device(&serde_json::from_value(status).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_daemon_knows_is_explained() {
        for (told, part) in [
            (device(None, None, false, json!({})), "no front end"),
            (device(Some(7), None, false, json!({})), "modprobe virtio_net"),
            (device(Some(7), Some("VERSION_1"), false, json!({})), "ip link set INTERFACE up"),
            (
                device(Some(7), Some("VERSION_1"), true, json!({ "rx_packets": 3, "tx_packets": 4 })),
                "3 to the guest, 4 from it",
            ),
            (device(Some(7), Some("VERSION_1"), true, json!({ "rings_broken": 1 })), "broke a ring"),
            (device(Some(7), Some("VERSION_1"), true, json!({ "tx_dropped_down": 9 })), "tx_dropped_down 9"),
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
