//! What the harness and the agent in the guest say to each other: one JSON object a line over a serial port.

use serde::{Deserialize, Serialize};

/// From the harness to the agent. An agent runs any number of commands at a time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a shell line; `id` is never used twice in a boot.
    Run {
        /// Names the command in events and in `Kill`.
        id: u64,
        /// The line for `sh -c`.
        cmd: String,
    },
    /// Send a signal to all processes of a command.
    Kill {
        /// Which command.
        id: u64,
        /// Number of the signal.
        signal: i32,
    },
}

/// From the agent to the harness.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The guest has booted; commands of an earlier boot are gone.
    Ready,
    /// A command printed a line to standard output.
    Stdout {
        /// Which command.
        id: u64,
        /// The line without its end.
        line: String,
    },
    /// A command printed a line to standard error.
    Stderr {
        /// Which command.
        id: u64,
        /// The line without its end.
        line: String,
    },
    /// A command ended; nothing follows.
    Exit {
        /// Which command.
        id: u64,
        /// Exit code; 128 + N for signal N.
        status: i32,
    },
}
