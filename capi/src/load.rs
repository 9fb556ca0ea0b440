//! What happens when the library is loaded, before anything of it runs. It allocates nothing.

use crate::{backup, panics};

/// Among the functions that the system's loader calls.
#[used]
#[cfg_attr(
    any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    ),
    unsafe(link_section = ".init_array")
)]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(windows, unsafe(link_section = ".CRT$XCU"))]
pub(crate) static ON_LOAD: extern "C" fn() = on_load;

extern "C" fn on_load() {
    panics::install();
    library::os::shortage::use_backups(backup::BACKUPS);
}
