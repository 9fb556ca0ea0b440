//! What the package of the C libraries (`capi/`) asks of this room. Not in the header, not exported.

use super::guard;
use crate::os::thread;

/// Whether a panic on this thread would be reported by the library: inside an exported function, or on a thread of an engine.
pub fn reports_panics() -> bool {
    guard::is_inside() || thread::is_ours()
}
