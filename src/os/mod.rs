//! What differs between operating systems. Nothing above this room names one.

pub mod thread;
