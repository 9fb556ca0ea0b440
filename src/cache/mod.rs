//! Slots, pages and page tables: integers only, no tensors. The scheduler is the one owner.

pub mod bitset;
pub mod keep;
pub mod pages;
pub mod prefix;
pub mod slots;

pub use keep::Keep;
pub use pages::{NO_FRAME, Page, PagePool};
pub use prefix::PrefixTree;
pub use slots::{SequenceHandle, Slots};
