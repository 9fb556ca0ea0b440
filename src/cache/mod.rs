//! Slots, pages and page tables: integers only, no tensors. The scheduler is the one owner.

pub mod bitset;
pub mod pages;
pub mod slots;

pub use pages::{Page, PagePool};
pub use slots::{Handle, Slots};
