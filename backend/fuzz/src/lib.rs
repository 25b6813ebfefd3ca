//! What the fuzz targets do with their bytes: each becomes a hostile driver or front end, and what must hold whatever
//! it does is asserted here.

#![forbid(unsafe_code)]

pub mod driver;
pub mod front_end;
pub mod guest;
pub mod message;
pub mod offload;
pub mod ring;
