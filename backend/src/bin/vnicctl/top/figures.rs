//! Figures in a few characters.

/// A number with three digits: `7`, `0.25`, `12.3`, `456`, `7.89k`, `1.23M`. What is not known is `-`.
pub(super) fn amount(value: f64) -> String {
    scaled(value, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")])
}

/// A short time: `640ns`, `1.23us`, `45.6ms`, `7.89s`.
pub(super) fn latency(seconds: f64) -> String {
    scaled(seconds, &[(1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1.0, "s")])
}

/// A share in percent: `0.0`, `12.3`, `100`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent.is_nan() {
        "-".into()
    } else if percent > 99.95 {
        format!("{percent:.0}")
    } else {
        format!("{percent:.1}")
    }
}

/// A long time: `0.3s`, `42s`, `7m05s`, `3h07m`, `12d03h`.
pub(super) fn age(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    if value.is_nan() {
        return "-".into();
    }
    if value == 0.0 {
        return "0".into();
    }
    // 999.5 is written as 1.00 of the next unit.
    let fits = |(unit, _): &&(f64, &str)| value < unit * 999.5;
    let Some((unit, suffix)) = units.iter().find(fits).or(units.last()) else { return String::new() };
    let value = value / unit;
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    // 7.00 without a unit is 7.
    let text = if suffix.is_empty() { text.trim_end_matches(".00").trim_end_matches(".0") } else { &text };
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_right() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (7.0, "7"),
            (12.34, "12.3"),
            (456.4, "456"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (1_234_567.0, "1.23M"),
            (5e15, "5000T"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(amount(value), text, "{value}");
        }
        for (value, text) in [(6.4e-7, "640ns"), (1.234e-6, "1.23us"), (0.0456, "45.6ms"), (7.89, "7.89s")] {
            assert_eq!(latency(value), text, "{value}");
        }
        for (value, text) in [(0.0, "0.0"), (0.1234, "12.3"), (0.9994, "99.9"), (0.9996, "100"), (f64::NAN, "-")] {
            assert_eq!(percent(value), text, "{value}");
        }
        for (value, text) in
            [(0.34, "0.3s"), (42.9, "42s"), (425.0, "7m05s"), (11_220.0, "3h07m"), (1_047_600.0, "12d03h")]
        {
            assert_eq!(age(value), text, "{value}");
        }
    }
}
