//! The metrics: their names, types and meanings, and where each comes from.
//!
//! Names follow Prometheus' conventions: base units, `_total` for what only grows.

use super::expose::Sampler;
use super::text::Kind;
use super::views::{DeviceView, LaneView};
use crate::mode::{Mode, Reason};

/// Of the service times, bounds below this power of two of nanoseconds are left out: nothing is done so fast.
const FASTEST_LOG2_NS: usize = 7;

/// A family of metrics.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) source: Source,
}

/// Where the samples of a family come from.
pub(super) enum Source {
    /// The daemon itself.
    Build,
    /// Each device.
    Device(fn(&DeviceView, &mut Sampler<'_>)),
    /// Each lane.
    Lane(fn(&LaneView, &mut Sampler<'_>)),
}

/// A family with one count of each lane.
macro_rules! count {
    ($name:literal, $help:literal, $counter:ident) => {
        Family {
            name: $name,
            kind: Kind::Counter,
            help: $help,
            source: Source::Lane(|lane, to| to.one(lane.counters.$counter.get())),
        }
    };
}

/// All families, in the order in which they are shown.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "vnicd_build_info",
        kind: Kind::Gauge,
        help: "Always 1; the label tells the version of the daemon.",
        source: Source::Build,
    },
    Family {
        name: "vnicd_front_end_connected",
        kind: Kind::Gauge,
        help: "Whether a front end is connected to the device.",
        source: Source::Device(|device, to| to.one(u8::from(device.front_end_connected))),
    },
    Family {
        name: "vnicd_front_ends_total",
        kind: Kind::Counter,
        help: "Front ends that connected, by whether they were served, or turned away because another one was there.",
        source: Source::Device(|device, to| {
            to.add(("outcome", &"served"), device.front_ends.served.get());
            to.add(("outcome", &"turned_away"), device.front_ends.turned_away.get());
        }),
    },
    Family {
        name: "vnicd_front_end_faults_total",
        kind: Kind::Counter,
        help: "What front ends did wrong, by whether the message was refused or their connection ended.",
        source: Source::Device(|device, to| {
            to.add(("outcome", &"refused"), device.front_ends.refused_messages.get());
            to.add(("outcome", &"ended"), device.front_ends.ended_for_fault.get());
        }),
    },
    Family {
        name: "vnicd_link_up",
        kind: Kind::Gauge,
        help: "Whether the uplink of the device can carry frames.",
        source: Source::Device(|device, to| to.one(u8::from(device.link_up))),
    },
    count!("vnicd_rx_packets_total", "Frames delivered to the guest.", rx_packets),
    count!(
        "vnicd_rx_segments_total",
        "Packets that these frames stand for: one that the guest is to segment counts as its segments.",
        rx_segments
    ),
    count!("vnicd_rx_bytes_total", "Bytes of frames delivered to the guest.", rx_bytes),
    Family {
        name: "vnicd_rx_dropped_total",
        kind: Kind::Counter,
        help: "Frames for the guest that were dropped, by reason.",
        source: Source::Lane(|lane, to| {
            to.add(("reason", &"offload"), lane.counters.rx_dropped_offload.get());
            to.add(("reason", &"too_large"), lane.counters.rx_dropped_too_large.get());
        }),
    },
    count!("vnicd_tx_packets_total", "Frames sent for the guest.", tx_packets),
    count!(
        "vnicd_tx_segments_total",
        "Packets that these frames stand for: one that is still to be segmented counts as its segments.",
        tx_segments
    ),
    count!("vnicd_tx_bytes_total", "Bytes of frames sent for the guest.", tx_bytes),
    Family {
        name: "vnicd_tx_dropped_total",
        kind: Kind::Counter,
        help: "Frames of the guest that were dropped, by reason.",
        source: Source::Lane(|lane, to| {
            to.add(("reason", &"header"), lane.counters.tx_dropped_header.get());
            to.add(("reason", &"mac"), lane.counters.tx_dropped_mac.get());
            to.add(("reason", &"ip"), lane.counters.tx_dropped_ip.get());
            to.add(("reason", &"vlan"), lane.counters.tx_dropped_vlan.get());
            to.add(("reason", &"down"), lane.counters.tx_dropped_down.get());
            to.add(("reason", &"refused"), lane.counters.tx_dropped_refused.get());
            to.add(("reason", &"disabled"), lane.counters.tx_dropped_disabled.get());
        }),
    },
    count!("vnicd_tx_held_total", "Times that what the guest sends had to wait for its limit.", tx_held),
    count!("vnicd_rx_held_total", "Times that what the guest gets had to wait for its limit.", rx_held),
    count!("vnicd_kicks_total", "Times that a kick of the driver woke the worker.", kicks),
    count!(
        "vnicd_kicks_suppressed_total",
        "Rounds that found chains of the driver without having been kicked for them.",
        kicks_suppressed
    ),
    count!("vnicd_calls_total", "Interrupts sent to the driver.", calls),
    count!("vnicd_calls_suppressed_total", "Bursts after which the driver wanted no interrupt.", calls_suppressed),
    count!("vnicd_wakeups_total", "Times that the worker woke up.", wakeups),
    count!("vnicd_rounds_total", "Rounds of the worker.", rounds),
    Family {
        name: "vnicd_polls_total",
        kind: Kind::Counter,
        help: "Rounds of polling mode, by whether they found something.",
        source: Source::Lane(|lane, to| {
            to.add(("found", &"nothing"), lane.counters.polls_empty.get());
            to.add(("found", &"packets"), lane.counters.polls_full.get());
        }),
    },
    count!("vnicd_rings_broken_total", "Rings that the driver broke.", rings_broken),
    Family {
        name: "vnicd_mode",
        kind: Kind::Gauge,
        help: "The mode: 1 for the one that it is in.",
        source: Source::Lane(|lane, to| {
            for mode in [Mode::Interrupt, Mode::Polling] {
                to.add(("mode", &mode), u8::from(lane.state.mode == mode));
            }
        }),
    },
    Family {
        name: "vnicd_mode_switches_total",
        kind: Kind::Counter,
        help: "Changes of mode, by reason.",
        source: Source::Lane(|lane, to| {
            for (reason, n) in Reason::ALL.iter().zip(lane.state.switches) {
                to.add(("reason", reason), n);
            }
        }),
    },
    Family {
        name: "vnicd_activity_seconds_total",
        kind: Kind::Counter,
        help: "Time asleep with kicks armed (waiting), moving packets in interrupt mode (draining), in polling mode.",
        source: Source::Lane(|lane, to| {
            for (activity, ns) in [
                ("waiting", lane.state.waiting_ns),
                ("draining", lane.state.draining_ns),
                ("polling", lane.state.polling_ns),
            ] {
                to.add(("activity", &activity), seconds(ns));
            }
        }),
    },
    Family {
        name: "vnicd_polling_window_seconds",
        kind: Kind::Gauge,
        help: "How long polling may find nothing before it ends, in mode auto.",
        source: Source::Lane(|lane, to| to.one(seconds(lane.state.polling_window_ns))),
    },
    Family {
        name: "vnicd_burst_packets",
        kind: Kind::Histogram,
        help: "Packets that a direction moved or dropped in a round, of rounds in which there were any.",
        source: Source::Lane(|lane, to| to.histogram(&lane.counters.burst_packets.get(), 1, |bound| bound as f64)),
    },
    Family {
        name: "vnicd_service_seconds",
        kind: Kind::Histogram,
        help: "Time from when the worker had last looked, or was woken, until it had served what it found.",
        source: Source::Lane(|lane, to| to.histogram(&lane.counters.service_ns.get(), FASTEST_LOG2_NS, seconds)),
    },
];

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
