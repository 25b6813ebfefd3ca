//! Opens a port that others connect to.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};

/// The port at this address is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: choose another --metrics ADDR:PORT")]
pub(super) struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Opens the port that metrics are served on, non-blocking.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| BindError { address, source })
}
