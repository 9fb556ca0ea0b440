//! Slots, pages and page tables: integers only, no tensors. The scheduler is the one owner.

pub mod bitset;
pub mod pages;
pub mod prefix;
pub mod slots;

pub use pages::{Page, PagePool};
pub use prefix::PrefixTree;
pub use slots::{SequenceHandle, Slots};
