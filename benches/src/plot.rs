//! Draws a report: a panel a quantity, both subjects run by run.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Better, Comparison, Report};
use crate::stats::{Summary, ratios};

pub(crate) const OURS: RGBColor = RGBColor(0, 90, 181);
pub(crate) const THEIRS: RGBColor = RGBColor(220, 90, 30);
/// Of further subjects.
pub(crate) const OTHERS: [RGBColor; 2] = [RGBColor(20, 140, 70), RGBColor(140, 60, 160)];
pub(crate) const GRAY: RGBColor = RGBColor(110, 110, 110);
const PANEL: (u32, u32) = (560, 300);
const HEAD: u32 = 84;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes an SVG file: two panels a row, runs from left to right, values from zero upwards.
pub fn runs(report: &Report, path: &Path) -> Result<()> {
    draw(report, path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw(report: &Report, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rows = report.comparisons.len().div_ceil(2);
    let height = HEAD + PANEL.1 * u32::try_from(rows)?;
    let root = SVGBackend::new(path, (2 * PANEL.0, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    draw_head(report, &head)?;
    for (panel, comparison) in body.split_evenly((rows, 2)).iter().zip(&report.comparisons) {
        draw_panel(comparison, panel)?;
    }
    root.present()?;
    Ok(())
}

fn draw_head(report: &Report, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
    area.draw_text(&report.title, &("sans-serif", 21).into_font().color(&BLACK), (20, 14))?;
    let label = TextStyle::from(("sans-serif", 16).into_font()).pos(Pos::new(HPos::Left, VPos::Center));
    for (at, (subject, color)) in report.subjects.iter().zip([OURS, THEIRS]).enumerate() {
        let x = 28 + 150 * i32::try_from(at)?;
        area.draw(&Circle::new((x, 58), 6, color.filled()))?;
        area.draw_text(subject, &label.color(&color), (x + 14, 58))?;
    }
    area.draw_text("line: median; ratio: of neighbouring runs", &label.color(&GRAY), (328, 58))?;
    Ok(())
}

fn draw_panel(comparison: &Comparison, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
    let Comparison { name, unit, better, ours, theirs } = comparison;
    let area = area.margin(6, 10, 12, 16);
    let (caption, chart) = area.split_vertically(46);
    caption.draw_text(name, &("sans-serif", 17).into_font().color(&BLACK), (10, 0))?;
    let direction = match better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
    };
    let ratio = Summary::of(&ratios(ours, theirs))
        .map(|s| format!("; ratio {:.2} ({:.2} to {:.2})", s.median, s.min, s.max))
        .unwrap_or_default();
    let note = format!("{unit}, {direction}{ratio}");
    caption.draw_text(&note, &("sans-serif", 14).into_font().color(&GRAY), (10, 23))?;

    let count = ours.len().max(theirs.len()) as f64;
    let top = ours.iter().chain(theirs).copied().fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&chart)
        .x_label_area_size(24)
        .y_label_area_size(58)
        .build_cartesian_2d(0.5..count + 0.5, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(GRAY)
        .y_labels(5)
        .x_labels(ours.len().clamp(2, 12))
        .x_label_formatter(&|run| if run.fract() == 0.0 { format!("run {run}") } else { String::new() })
        .y_label_formatter(&|value| amount(*value))
        .label_style(("sans-serif", 13).into_font().color(&GRAY))
        .draw()?;
    for (values, color, shift) in [(ours, OURS, -0.08), (theirs, THEIRS, 0.08)] {
        if let Some(summary) = Summary::of(values) {
            let ends = [(0.5, summary.median), (count + 0.5, summary.median)];
            chart.draw_series(LineSeries::new(ends, color.mix(0.6).stroke_width(2)))?;
        }
        let dots = values.iter().enumerate().map(|(run, value)| (run as f64 + 1.0 + shift, *value));
        chart.draw_series(dots.map(|dot| Circle::new(dot, 5, color.filled())))?;
    }
    Ok(())
}

/// A value on an axis: `12 k` for twelve thousand.
pub(crate) fn amount(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if value >= 10_000.0 {
        format!("{:.0} k", value / 1000.0)
    } else if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!([0.0, 0.5, 1500.0, 84_000.0, 2.5e6].map(amount), ["0", "0.5", "1500", "84 k", "2.5 M"]);
    }

    #[test]
    fn every_quantity_has_a_panel() {
        let mut report =
            Report { title: "a title".into(), subjects: ["new".into(), "old".into()], ..Report::default() };
        for name in ["one", "two", "three"] {
            for subject in [0, 1] {
                report.add(subject, name, "m", Better::Higher, 5.0);
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        runs(&report, file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        for text in ["a title", "new", "old", "one", "two", "three", "higher is better"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
