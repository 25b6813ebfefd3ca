//! Metrics for Prometheus: what workers count, in the text exposition format 0.0.4, over HTTP/1.1 (RFC 9112).
//!
//! They are served on the control thread, which reads counters and gauges and never makes a worker wait. Whoever may
//! connect may read; nothing can be changed here. `docs/metrics.md` explains each metric.

#![forbid(unsafe_code)]

mod client;
mod expose;
mod families;
mod http;
mod server;
#[cfg(test)]
mod tests;
mod text;
mod views;

use std::io;
use std::net::{SocketAddr, TcpListener};

pub use server::MetricsServer;

/// The port at this address is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: choose another --metrics ADDR:PORT")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Opens the port that metrics are served on.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| BindError { address, source })
}
