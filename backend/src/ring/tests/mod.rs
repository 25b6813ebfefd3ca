//! The rings against a driver model, against another implementation, and against hostile drivers.

mod differential;
mod driver;
mod hostile;
mod verbs;
