//! A program that does nothing but write packets into a TAP, one `writev` each: what the kernel takes from a core that has
//! no other work.

#![forbid(unsafe_code)]

use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use guest_tests::NetNs;

use super::device::open_tap;
use super::sink::TAP;
use crate::machine;

/// Bytes of the virtio-net header before each frame.
const HEADER: usize = 10;

/// A thread that writes until this value is dropped.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    start: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    /// Makes the TAP; [`Writer::go`] has a thread on a CPU write these frames in turn.
    pub fn on(ns: &NetNs, cpu: usize, frames: &[Vec<u8>]) -> Result<Self> {
        let mut tap = ns.run_in(|| open_tap(TAP))??;
        // Header and frame in one piece, which the kernel takes quickest.
        let frames: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; HEADER], &frame[..]].concat()).collect();
        let [stop, start] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (stopped, started) = (stop.clone(), start.clone());
        let thread = thread::spawn(move || {
            machine::pin(None, cpu).map_err(std::io::Error::other)?;
            while !started.load(Ordering::Relaxed) && !stopped.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            for frame in frames.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if tap.write_vectored(&[IoSlice::new(frame)])? != frame.len() {
                    return Err(std::io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        });
        Ok(Self { stop, start, thread: Some(thread) })
    }

    /// Has it write.
    pub fn go(&self) {
        self.start.store(true, Ordering::Relaxed);
    }

    /// Ends it; an error if it could not write.
    pub fn end(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => Ok(result?),
            Some(Err(_)) => Err(anyhow!("the thread that writes panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever wanted to know has ended it.
        let _ = self.join();
    }
}
