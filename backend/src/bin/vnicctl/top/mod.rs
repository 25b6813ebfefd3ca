//! `vnicctl top`: what each queue pair is doing, second by second.

mod figures;
mod rates;
mod screen;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

use vnicd::control::Status;

use self::rates::Snapshot;
use self::screen::{Key, Screen};
use self::view::View;

/// How often keys and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// Options of `vnicctl top`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Print what happened in one interval as text, and end
    #[arg(long)]
    once: bool,

    /// What comes first
    #[arg(long, value_name = "WHAT", default_value = "name")]
    sort: Sort,
}

/// By what lanes are sorted. What is large comes first, except for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    Name,
    Packets,
    Bits,
    Latency,
    Drops,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use 0.1 to 3600 seconds".into()),
    }
}

/// Shows what `status` tells of the daemon until a person ends it; with `--once`, what it says is the text.
pub(crate) fn run<F>(options: &Options, status: F) -> Result<String, String>
where
    F: Fn() -> Result<Status, String> + Send + 'static,
{
    if options.once {
        let before = Snapshot::take(&status)?;
        thread::sleep(options.interval);
        let now = Snapshot::take(&status)?;
        return Ok(text(&View::new(Some(&before), &now, options.sort)));
    }
    // Not answered at all is said as by the other commands, and not in a screen of its own.
    let first = Snapshot::take(&status)?;
    let screen = Screen::open().map_err(|e| format!("{e}; --once needs none"))?;
    let looks = look_again(status, options.interval);
    watch(options.sort, screen, first, &looks).map_err(|e| format!("the terminal is out of order: {e}"))?;
    Ok(String::new())
}

/// A frame as text, wide enough for a line a lane.
fn text(view: &View<'_>) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, view.one_line_width(), view.height()));
    view.render(buffer.area, &mut buffer);
    let mut text = String::new();
    // The last line is about keys.
    for line in buffer.content.chunks(buffer.area.width.into()).take(usize::from(buffer.area.height) - 1) {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// Asks on a thread of its own: a daemon that does not answer must not keep the keys waiting.
fn look_again<F>(status: F, interval: Duration) -> Receiver<Result<Snapshot, String>>
where
    F: Fn() -> Result<Status, String> + Send + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut next = Instant::now();
        loop {
            next = (next + interval).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if sender.send(Snapshot::take(&status)).is_err() {
                return;
            }
        }
    });
    receiver
}

fn watch(
    mut sort: Sort,
    mut screen: Screen,
    first: Snapshot,
    looks: &Receiver<Result<Snapshot, String>>,
) -> std::io::Result<()> {
    let (mut before, mut now) = (None, first);
    let (mut scrolled, mut failure) = (0usize, None);
    loop {
        let mut view = View::new(before.as_ref(), &now, sort);
        (view.scrolled, view.failure, view.colours) = (scrolled, failure.as_deref(), screen.colours);
        screen.draw(&view)?;
        match screen.key(TICK)? {
            None => {}
            Some(Key::Quit) => return Ok(()),
            Some(Key::Sort(by)) => sort = by,
            Some(Key::Up(lines)) => scrolled = scrolled.saturating_sub(lines),
            Some(Key::Down(lines)) => scrolled = (scrolled + lines).min(view.lanes().saturating_sub(1)),
        }
        match looks.try_recv() {
            Ok(Ok(snapshot)) => {
                before = Some(std::mem::replace(&mut now, snapshot));
                failure = None;
            }
            Ok(Err(e)) => failure = Some(e),
            Err(_) => {}
        }
    }
}
