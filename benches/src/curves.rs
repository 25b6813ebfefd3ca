//! Draws how one quantity depends on another: panels of curves, both axes logarithmic.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::plot::{Area, GRAY, OTHERS, OURS, THEIRS, amount};

const PANEL: (u32, u32) = (560, 420);
const HEAD: u32 = 84;

/// Points of one subject.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Whose, as the legend says it.
    pub name: String,
    /// 0 to 3: the subject's colour.
    pub subject: usize,
    /// A value beside the main one, such as a tail: drawn hollow and thin.
    pub aside: bool,
    /// In order; what is not above zero is left out.
    pub points: Vec<(f64, f64)>,
}

/// Curves over the same axes.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// What the axes count, x and y.
    pub units: [String; 2],
    /// What is drawn.
    pub curves: Vec<Curve>,
}

/// Writes an SVG file: panels side by side below a title and the legend of the first.
pub fn draw(title: &str, panels: &[Panel], path: &Path) -> Result<()> {
    draw_all(title, panels, path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw_all(title: &str, panels: &[Panel], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let columns = panels.len().max(1);
    let root = SVGBackend::new(path, (PANEL.0 * u32::try_from(columns)?, HEAD + PANEL.1)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    head.draw_text(title, &("sans-serif", 21).into_font().color(&BLACK), (20, 14))?;
    for (at, curve) in panels.first().map_or(&[][..], |panel| &panel.curves).iter().enumerate() {
        let x = 28 + 150 * i32::try_from(at)?;
        head.draw(&dot((x, 58), curve))?;
        head.draw_text(&curve.name, &("sans-serif", 16).into_font().color(&color(curve)), (x + 14, 50))?;
    }
    for (area, panel) in body.split_evenly((1, columns)).iter().zip(panels) {
        draw_panel(panel, area)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(panel: &Panel, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
    let area = area.margin(6, 10, 12, 16);
    let (caption, chart) = area.split_vertically(30);
    caption.draw_text(&panel.title, &("sans-serif", 17).into_font().color(&BLACK), (10, 0))?;
    let drawn = |curve: &Curve| curve.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect::<Vec<_>>();
    let all: Vec<(f64, f64)> = panel.curves.iter().flat_map(drawn).collect();
    let range = |values: Vec<f64>| range(&values).log_scale();
    let (xs, ys) = all.into_iter().unzip();
    let mut chart = ChartBuilder::on(&chart)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(range(xs), range(ys))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(GRAY)
        .x_desc(&panel.units[0])
        .y_desc(&panel.units[1])
        .x_label_formatter(&|value| amount(*value))
        .y_label_formatter(&|value| amount(*value))
        .label_style(("sans-serif", 13).into_font().color(&GRAY))
        .draw()?;
    for curve in &panel.curves {
        let width = if curve.aside { 1 } else { 2 };
        chart.draw_series(LineSeries::new(drawn(curve), color(curve).mix(0.6).stroke_width(width)))?;
        chart.draw_series(drawn(curve).into_iter().map(|point| dot(point, curve)))?;
    }
    Ok(())
}

/// What an axis shows of these values: some more, and whole decades if it were less than one, so that what is flat looks
/// flat and the axis has labels.
fn range(values: &[f64]) -> Range<f64> {
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN_POSITIVE), |(a, z), v| (a.min(*v), z.max(*v)));
    let (from, to) = (min.min(max) / 1.5, max * 1.5);
    if to / from >= 10.0 { from..to } else { 10f64.powf(from.log10().floor())..10f64.powf(to.log10().ceil()) }
}

fn color(curve: &Curve) -> RGBColor {
    match curve.subject {
        0 => OURS,
        1 => THEIRS,
        other => OTHERS[other % OTHERS.len()],
    }
}

fn dot<C>(at: C, curve: &Curve) -> Circle<C, i32> {
    let style = color(curve);
    Circle::new(at, 5, if curve.aside { style.stroke_width(1) } else { style.filled() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_shows_a_decade_at_least() {
        assert_eq!(range(&[30.0, 600.0]), 20.0..900.0);
        assert_eq!(range(&[50.0, 60.0]), 10.0..100.0);
        assert_eq!(range(&[10.0]), 1.0..100.0);
        let nothing = range(&[]);
        assert!(nothing.start > 0.0 && nothing.start < nothing.end);
    }

    #[test]
    fn panels_and_legend_are_drawn_whatever_the_points() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve {
            name: name.into(),
            subject: 1,
            aside: name == "tail",
            points: points.to_vec(),
        };
        let curves = vec![curve("middle", &[(1e3, 5.0), (1e6, 2e4), (0.0, 1.0)]), curve("tail", &[])];
        let panel = |title: &str, curves| Panel { title: title.into(), units: ["pps".into(), "us".into()], curves };
        let file = tempfile::NamedTempFile::new().unwrap();
        draw("all", &[panel("left", curves), panel("right", Vec::new())], file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        for text in ["all", "left", "right", "middle", "tail", "pps", "us"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
