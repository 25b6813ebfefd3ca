//! The harness's end of the line to the agent: sends requests, sorts events to the commands they belong to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lines::{Lines, Stream};
use crate::patience::Patience;
use crate::protocol::{Event, Request};

/// A command in the guest, as far as events have told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    pub(crate) lines: Lines,
    end: Arc<OnceLock<Result<i32, &'static str>>>,
}

impl Job {
    /// Exit status, or why there will be none; `None` while it runs.
    pub(crate) fn end(&self) -> Option<Result<i32, &'static str>> {
        self.end.get().copied()
    }

    fn finish(&self, how: Result<i32, &'static str>) {
        let _ = self.end.set(how);
        self.lines.close();
    }
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<u64, Job>,
    last_id: u64,
    boots: u64,
    lost: bool,
}

/// The line to an agent.
#[derive(Debug)]
pub(crate) struct Link {
    to_agent: Mutex<UnixStream>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Link {
    /// Connects to QEMU's socket of the second serial port, which QEMU is about to make.
    pub(crate) fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let stream = connect(path, timeout)?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (from_agent, reader_shared) = (stream.try_clone()?, shared.clone());
        thread::spawn(move || read_events(from_agent, &reader_shared));
        Ok(Self { to_agent: Mutex::new(stream), shared })
    }

    /// Starts a shell line.
    pub(crate) fn run(&self, line: &str) -> Result<(u64, Job)> {
        let job = Job::default();
        let id = {
            let mut state = lock(&self.shared);
            if state.lost {
                bail!("QEMU has ended");
            }
            state.last_id += 1;
            let id = state.last_id;
            state.jobs.insert(id, job.clone());
            id
        };
        self.send(&Request::Run { id, cmd: line.into() })?;
        Ok((id, job))
    }

    /// Sends a signal to a command.
    pub(crate) fn kill(&self, id: u64, signal: i32) -> Result<()> {
        self.send(&Request::Kill { id, signal })
    }

    /// Goes on with the guest that `other` was the line to: as often booted, and its commands' ids are not used again.
    pub(crate) fn go_on_from(&self, other: &Self) {
        let (last_id, boots) = {
            let state = lock(&other.shared);
            (state.last_id, state.boots)
        };
        let mut state = lock(&self.shared);
        (state.last_id, state.boots) = (last_id, boots);
    }

    /// How often the agent has come up.
    pub(crate) fn boots(&self) -> u64 {
        lock(&self.shared).boots
    }

    /// Waits until the agent has come up `boots` times; false when the time is over.
    pub(crate) fn wait_boots(&self, boots: u64, timeout: Duration) -> bool {
        let wait = self.shared.1.wait_timeout_while(lock(&self.shared), timeout, |state| state.boots < boots);
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn send(&self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut stream = self.to_agent.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&line).context("cannot write to the guest's agent")
    }
}

/// Connects to a socket that may not be there yet.
pub(crate) fn connect(path: &Path, timeout: Duration) -> Result<UnixStream> {
    let mut patience = Patience::new(timeout);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if patience.is_over() => {
                return Err(error).with_context(|| format!("QEMU does not listen on {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn read_events(stream: UnixStream, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        // What is no event is what a reset cut off.
        if let Ok(event) = serde_json::from_slice(&line) {
            take(event, shared);
        }
        line.clear();
    }
    let mut state = lock(shared);
    state.lost = true;
    finish_all(&mut state, "QEMU ended while it ran");
}

fn take(event: Event, shared: &(Mutex<State>, Condvar)) {
    let mut state = lock(shared);
    match event {
        Event::Ready => {
            state.boots += 1;
            finish_all(&mut state, "the guest was booted while it ran");
            shared.1.notify_all();
        }
        Event::Stdout { id, line } => push(&state, id, Stream::Out, line),
        Event::Stderr { id, line } => push(&state, id, Stream::Err, line),
        Event::Exit { id, status } => {
            if let Some(job) = state.jobs.remove(&id) {
                job.finish(Ok(status));
            }
        }
    }
}

fn push(state: &State, id: u64, stream: Stream, line: String) {
    if let Some(job) = state.jobs.get(&id) {
        job.lines.push(stream, line);
    }
}

fn finish_all(state: &mut State, why: &'static str) {
    for (_, job) in state.jobs.drain() {
        job.finish(Err(why));
    }
}

fn lock(shared: &(Mutex<State>, Condvar)) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}
