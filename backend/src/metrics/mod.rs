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

pub use server::MetricsServer;
