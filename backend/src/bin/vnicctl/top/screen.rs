//! The terminal: taken at the start, given back as it was at the end, at a panic and at a signal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Sort;
use super::view::View;

/// Lanes that a page key scrolls by.
const PAGE: usize = 8;

/// The whole terminal.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: DefaultTerminal,
    ended: Arc<AtomicBool>,
    /// Whether colours are wanted (no-color.org).
    pub(super) colours: bool,
}

/// What a person wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    Quit,
    Sort(Sort),
    Up(usize),
    Down(usize),
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Err(io::Error::other("top needs a terminal"));
        }
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            signal_hook::flag::register(signal, ended.clone())?;
        }
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // Gives the terminal back at a panic, too.
        Ok(Self { terminal: ratatui::try_init()?, ended, colours })
    }

    /// Draws a frame.
    pub(super) fn draw(&mut self, view: &View<'_>) -> io::Result<()> {
        self.terminal.draw(|frame| frame.render_widget(view, frame.area())).map(drop)
    }

    /// Waits for a key. A signal to end is one.
    pub(super) fn key(&self, timeout: Duration) -> io::Result<Option<Key>> {
        // Of a terminal that is gone crossterm reads nothing, again and again.
        let (mut is_gone, mut event) = (is_gone_within(Duration::ZERO)?, None);
        if !is_gone {
            event = next_event()?;
        }
        if !is_gone && event.is_none() {
            is_gone = is_gone_within(timeout)?;
            event = if is_gone { None } else { next_event()? };
        }
        if is_gone || self.ended.load(Ordering::Relaxed) {
            return Ok(Some(Key::Quit));
        }
        let Some(Event::Key(key)) =
            event.filter(|event| !matches!(event, Event::Key(key) if key.kind == KeyEventKind::Release))
        else {
            return Ok(None);
        };
        // The terminal is raw: Ctrl-C is a key.
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        Ok(match key.code {
            KeyCode::Char('c') if control => Some(Key::Quit),
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('n') => Some(Key::Sort(Sort::Name)),
            KeyCode::Char('p') => Some(Key::Sort(Sort::Packets)),
            KeyCode::Char('b') => Some(Key::Sort(Sort::Bits)),
            KeyCode::Char('l') => Some(Key::Sort(Sort::Latency)),
            KeyCode::Char('d') => Some(Key::Sort(Sort::Drops)),
            KeyCode::Up => Some(Key::Up(1)),
            KeyCode::Down => Some(Key::Down(1)),
            KeyCode::PageUp => Some(Key::Up(PAGE)),
            KeyCode::PageDown => Some(Key::Down(PAGE)),
            _ => None,
        })
    }
}

/// What the terminal has to tell now.
fn next_event() -> io::Result<Option<Event>> {
    match event::poll(Duration::ZERO) {
        Ok(true) => event::read().map(Some),
        Ok(false) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(e) => Err(e),
    }
}

/// Waits until the terminal has something to tell, or so long. Says whether it is gone.
fn is_gone_within(time: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut fds, Timespec::try_from(time).ok().as_ref()) {
        Ok(_) => Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
