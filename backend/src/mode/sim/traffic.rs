//! What arrives when.

use super::{MS, SECOND, US};

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) at: u64,
    /// 0: uplink to guest. 1: guest to uplink.
    pub(super) way: usize,
    pub(super) segments: u32,
    pub(super) bytes: u64,
}

/// When the next frame comes, from when the last one did.
type Next = Box<dyn FnMut(u64) -> Option<u64>>;

/// A source of frames.
pub(super) struct Traffic {
    next: Next,
    at: Option<u64>,
    /// The next frame comes this long after the last one was served.
    think_ns: Option<u64>,
    count: u64,
    segments: u32,
    bytes: u64,
    ways: &'static [usize],
}

impl Traffic {
    pub(super) fn new(mut next: impl FnMut(u64) -> Option<u64> + 'static) -> Self {
        let at = next(0);
        Self { next: Box::new(next), at, think_ns: None, count: 0, segments: 1, bytes: 64, ways: &[0, 1] }
    }

    /// Nothing ever.
    pub(super) fn none() -> Self {
        Self::new(|_| None)
    }

    /// At random, on average `pps` of them.
    pub(super) fn poisson(pps: u64) -> Self {
        let mut random = Random(pps);
        let mut at = 0.0;
        Self::new(move |_| {
            at += -random.unit().ln() * SECOND as f64 / pps as f64;
            Some(at as u64)
        })
    }

    /// Every so often, `pps` of them.
    pub(super) fn even(pps: u64) -> Self {
        Self::switched(pps, 1, 0)
    }

    /// Evenly at `pps` for a time, then none for a time.
    pub(super) fn switched(pps: u64, on_ns: u64, off_ns: u64) -> Self {
        let mut n = 0u64;
        Self::new(move |_| {
            let on_time = (u128::from(n) * u128::from(SECOND) / u128::from(pps)) as u64;
            n += 1;
            Some(on_time + on_time / on_ns * off_ns)
        })
    }

    /// `size` of them at once, every `period_ns`.
    pub(super) fn batches(size: u64, period_ns: u64) -> Self {
        let mut n = 0u64;
        Self::new(move |_| {
            n += 1;
            Some(n / size * period_ns)
        })
    }

    /// In turn evenly at each rate for its time, from the beginning again after the last.
    pub(super) fn in_turn(steps: Vec<(u64, u64)>) -> Self {
        let whole: u64 = steps.iter().map(|(ns, _)| ns).sum();
        Self::new(move |last| {
            let mut from = last / whole * whole;
            for _ in 0..2 {
                for (ns, pps) in &steps {
                    let next = if *pps == 0 { u64::MAX } else { last.max(from) + SECOND / pps };
                    if last < from + ns && next < from + ns {
                        return Some(next);
                    }
                    from += ns;
                }
            }
            None
        })
    }

    /// From nothing to `pps` within `ns`, and down again.
    pub(super) fn ramp(pps: u64, ns: u64) -> Self {
        const STEPS: u64 = 50;
        let up = (1..=STEPS).map(|n| (ns / STEPS, pps * n / STEPS));
        Self::in_turn(up.clone().chain(up.rev()).collect())
    }

    /// One at a time: the next a while after the last was served.
    pub(super) fn ping_pong(think_ns: u64) -> Self {
        let mut first = Some(think_ns);
        Self { think_ns: Some(think_ns), ..Self::new(move |_| first.take()) }
    }

    /// At any time, in bursts of any size, a mixture of all that is above.
    pub(super) fn wild(seed: u64) -> Self {
        let mut random = Random(seed);
        let (mut left, mut gap) = (0, 0);
        Self::new(move |last| {
            if left == 0 {
                left = random.below(300) + 1;
                gap = [0, 100, US, 10 * US, 100 * US][random.below(5) as usize];
                let pause = [0, US, 50 * US, MS, 3 * MS, 30 * MS][random.below(6) as usize];
                return Some(last + random.below(pause + 1));
            }
            left -= 1;
            Some(last + random.below(2 * gap + 1))
        })
    }

    /// The same with frames of 64 KiB that are to be segmented.
    pub(super) fn of_large_frames(self) -> Self {
        Self { segments: 45, bytes: 65_226, ..self }
    }

    /// The same, later.
    pub(super) fn from(self, ns: u64) -> Self {
        let mut next = self.next;
        Self { next: Box::new(move |last| Some(next(last - ns)? + ns)), at: self.at.map(|at| at + ns), ..self }
    }

    /// The same in one direction only.
    pub(super) fn one_way(self, ways: &'static [usize]) -> Self {
        Self { ways, ..self }
    }

    pub(super) fn peek(&self) -> Option<u64> {
        self.at
    }

    /// The next frame, if it comes until `now`.
    pub(super) fn take(&mut self, now: u64) -> Option<Frame> {
        let at = self.at.filter(|at| *at <= now)?;
        self.at = (self.next)(at).map(|next| next.max(at));
        let way = self.ways[(self.count % self.ways.len() as u64) as usize];
        self.count += 1;
        Some(Frame { at, way, segments: self.segments, bytes: self.bytes })
    }

    pub(super) fn served(&mut self, now: u64) {
        if let Some(think_ns) = self.think_ns {
            self.at = Some(now + think_ns);
        }
    }
}

/// Numbers that look random (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Above 0, at most 1.
    pub(super) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}
