//! A frame: nothing but two looks at the daemon and how a person wants them shown.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::widgets::Widget;

use super::Sort;
use super::rates::{self, Rates, Snapshot};
use super::table::{self, Column, MODES, Row, TRAFFIC};
use vnicd::control::PairStatus;
use vnicd::mode::Mode;

/// How far the second of two lines is set in.
const INDENT: u16 = 1;

/// A frame.
pub(super) struct View<'a> {
    snapshot: &'a Snapshot,
    lanes: Vec<(&'a PairStatus, Rates)>,
    sort: Sort,
    /// Lanes that stand above the first one shown.
    pub(super) scrolled: usize,
    /// Why there is nothing newer.
    pub(super) failure: Option<&'a str>,
    pub(super) colours: bool,
}

impl<'a> View<'a> {
    /// What happened from `before` to `now`.
    pub(super) fn new(before: Option<&Snapshot>, now: &'a Snapshot, sort: Sort) -> Self {
        let mut lanes = rates::lanes(before, now);
        let key: fn(&Rates) -> f64 = match sort {
            Sort::Name => |_| 0.0,
            Sort::Packets => Rates::packets,
            Sort::Bits => Rates::bits,
            Sort::Latency => |rates| rates.service_s(0.99),
            Sort::Drops => |rates| rates.drops,
        };
        // What is not known comes last; what is equal stays in the daemon's order.
        let key = |rates: &Rates| Some(key(rates)).filter(|value| !value.is_nan()).unwrap_or(-1.0);
        lanes.sort_by(|(_, a), (_, b)| key(b).total_cmp(&key(a)));
        Self { snapshot: now, lanes, sort, scrolled: 0, failure: None, colours: false }
    }

    /// Number of lanes.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Columns of the screen from which a lane has one line.
    pub(super) fn one_line_width(&self) -> u16 {
        table::width(MODES) + 1 + table::width(TRAFFIC)
    }

    /// Lines of the screen that show all lanes, one line each.
    pub(super) fn height(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap_or(u16::MAX).saturating_add(4)
    }

    fn title(&self) -> String {
        if let Some(failure) = self.failure {
            return failure.into();
        }
        let status = &self.snapshot.status;
        let front_ends = status.devices.iter().filter(|device| device.front_end_pid.is_some()).count();
        format!(
            "vnicd {}, process {}: {}, {} with a front end, {}",
            status.version,
            status.pid,
            counted(status.devices.len(), "device"),
            front_ends,
            counted(self.lanes.len(), "lane")
        )
    }

    fn keys(&self) -> String {
        let mark = |sort, text: &str| if sort == self.sort { format!("[{text}]") } else { format!(" {text} ") };
        format!(
            "q quit  ↑↓ scroll  sort:{}{}{}{}{}",
            mark(Sort::Name, "n name"),
            mark(Sort::Packets, "p packets"),
            mark(Sort::Bits, "b bits"),
            mark(Sort::Latency, "l p99"),
            mark(Sort::Drops, "d drops"),
        )
    }

    fn style(&self, style: Style) -> Style {
        // Without colours bold and reversed letters are left.
        if self.colours { style } else { Style { fg: None, bg: None, ..style } }
    }

    /// Puts `cell` of each column onto the lines of one row.
    fn put(&self, cells: impl Fn(&Column) -> (String, Style), area: Rect, wide: bool, buffer: &mut Buffer) {
        let mut at = (area.x, area.y);
        for (columns, starts_line) in [(MODES, false), (TRAFFIC, !wide)] {
            if starts_line {
                at = (area.x + INDENT, area.y + 1);
            }
            for column in columns {
                if at.0 + column.width > area.right() || at.1 >= area.bottom() {
                    break;
                }
                let (text, style) = cells(column);
                let width = usize::from(column.width);
                let text = if column.left { format!("{text:<width$}") } else { format!("{text:>width$}") };
                buffer.set_stringn(at.0, at.1, text, width, self.style(style));
                at.0 += column.width + 1;
            }
        }
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl Widget for &View<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let wide = area.width >= self.one_line_width();
        let row_height = if wide { 1 } else { 2 };
        let line = |y: u16| Rect { y: area.y + y, height: row_height, ..area }.intersection(area);
        let width = usize::from(area.width);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if area.height < 2 * row_height + 2 {
            buffer.set_stringn(area.x, area.y, "this screen is too low", width, bold);
            return;
        }
        buffer.set_stringn(area.x, area.y, self.title(), width, bold);
        self.put(|column| (column.head.into(), bold.add_modifier(Modifier::REVERSED)), line(1), wide, buffer);
        // Title, heads, totals and keys stand whatever the number of lanes.
        let room = usize::from((area.height - 2 - 2 * row_height) / row_height);
        let scrolled = self.scrolled.min(self.lanes.len().saturating_sub(room));
        let mut y = 1 + row_height;
        for (lane, rates) in self.lanes.iter().skip(scrolled).take(room) {
            let row = Row { name: &lane.id, lane: Some(lane), rates, polling: 0 };
            self.put(|column| ((column.cell)(&row), (column.style)(&row)), line(y), wide, buffer);
            y += row_height;
        }
        let polling = self.lanes.iter().filter(|(lane, _)| lane.mode.mode == Mode::Polling).count();
        let total = Rates::total(self.lanes.iter().map(|(_, rates)| rates));
        let row = Row { name: "all", lane: None, rates: &total, polling };
        self.put(|column| ((column.cell)(&row), bold.patch((column.style)(&row))), line(y), wide, buffer);
        buffer.set_stringn(area.x, area.bottom() - 1, self.keys(), width, Style::new());
    }
}
