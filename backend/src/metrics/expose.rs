//! Writes all families for all devices.
//!
//! A lane has the labels `device` and `pair`, and `direction` where it is one direction of its pair.

use std::fmt::Display;

use super::families::{FAMILIES, Source};
use super::text::{Label, Text};
use super::views::DeviceView;
use crate::worker::{Direction, QueueId};

/// Writes samples of one family for one device or lane.
pub(super) struct Sampler<'a> {
    text: &'a mut Text,
    name: &'static str,
    /// The labels of that device or lane.
    of: &'a [Label<'a>],
}

impl Sampler<'_> {
    /// The only sample.
    pub(super) fn one(&mut self, value: impl Display) {
        self.write(self.name, None, value);
    }

    /// One of several samples, told apart by a label.
    pub(super) fn add(&mut self, label: Label<'_>, value: impl Display) {
        self.write(self.name, Some(label), value);
    }

    /// Writes a histogram whose count number n is of whole numbers below 2^n, those of the counts before left out.
    ///
    /// It has no sum, which nobody counts.
    pub(super) fn histogram(&mut self, counts: &[u64], first: usize, bound: impl Fn(u64) -> f64) {
        let (bucket, mut sum) = (format!("{}_bucket", self.name), 0);
        for (n, count) in counts.iter().enumerate() {
            sum += count;
            if n + 1 < counts.len() && n >= first {
                self.write(&bucket, Some(("le", &bound((1 << n) - 1))), sum);
            }
        }
        self.write(&bucket, Some(("le", &"+Inf")), sum);
        self.write(&format!("{}_count", self.name), None, sum);
    }

    fn write(&mut self, name: &str, label: Option<Label<'_>>, value: impl Display) {
        let labels: Vec<_> = self.of.iter().copied().chain(label).collect();
        self.text.sample(name, &labels, value);
    }
}

fn direction(id: QueueId) -> &'static str {
    if id.direction == Direction::Rx { "rx" } else { "tx" }
}

/// All metrics of these devices.
pub(super) fn expose(devices: &[DeviceView]) -> String {
    let mut text = Text::default();
    for family in FAMILIES {
        let name = family.name;
        text.family(name, family.kind, family.help);
        match family.source {
            Source::Build => text.sample(name, &[("version", &env!("CARGO_PKG_VERSION"))], 1),
            Source::Device(show) => {
                for device in devices {
                    show(device, &mut Sampler { text: &mut text, name, of: &[("device", &device.name)] });
                }
            }
            Source::Lane(show) => {
                for lane in devices.iter().flat_map(|device| &device.lanes) {
                    let (device, pair) = (lane.id.device.as_str(), lane.id.pair);
                    let labels: [Label<'_>; 3] =
                        [("device", &device), ("pair", &pair), ("direction", &direction(lane.id))];
                    let of = if lane.id.direction == Direction::Both { &labels[..2] } else { &labels[..] };
                    show(lane, &mut Sampler { text: &mut text, name, of });
                }
            }
        }
    }
    text.finish()
}
