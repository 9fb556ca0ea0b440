//! What the test programs share. Each takes some of it.
#![allow(dead_code, reason = "each program takes some of it")]

pub mod constraints;
pub mod damaged;
pub mod eight_bit_floats;
pub mod embeddings;
pub mod fake;
pub mod gguf;
pub mod gguf_of_fixture;
pub mod jobs;
pub mod lines;
pub mod models;
pub mod mutate;
pub mod own_process;
pub mod parity;
pub mod plain_device;
pub mod programs;
pub mod random;
pub mod shared_library;
pub mod storm;
pub mod target;
