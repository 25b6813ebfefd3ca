//! One end of a flow on the host, on a thread of its own.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};

use crate::tools::{Flow, FlowReport};

/// A flow's end that runs.
#[derive(Debug)]
pub(super) struct End {
    flow: Arc<Flow>,
    thread: JoinHandle<Result<()>>,
}

impl End {
    /// Begins.
    pub(super) fn spawn(work: impl FnOnce(&Flow) -> Result<()> + Send + 'static) -> Self {
        let flow = Arc::new(Flow::default());
        let shared = flow.clone();
        Self { flow, thread: thread::spawn(move || work(&shared)) }
    }

    /// What it has moved so far.
    pub(super) fn moved(&self) -> u64 {
        self.flow.moved()
    }

    /// Tells it to end.
    pub(super) fn stop(&self) {
        self.flow.stop();
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// How it ended; what is known of it so far if it has not.
    pub(super) fn finish(self) -> FlowReport {
        if !self.has_ended() {
            return self.flow.report(None);
        }
        let end = self.thread.join().unwrap_or_else(|_| Err(anyhow!("a flow's thread panicked")));
        self.flow.report(Some(&end))
    }
}
