//! Gives the shared library its soname, so that programs bind to the ABI version and not to a file name, and has it note the
//! destructors of thread-locals itself (src/thread_exit.rs).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libastrai.so.1");
        let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|value| values.contains(&value.as_str()));
        if is("CARGO_CFG_TARGET_ENV", &["gnu"]) && is("CARGO_CFG_TARGET_ARCH", &["x86_64", "aarch64"]) {
            println!("cargo:rustc-cdylib-link-arg=-Wl,--defsym=__cxa_thread_atexit_impl=astrai_thread_exit");
        }
        link_the_soname();
    }
}

/// A program that was linked against the library where cargo leaves it finds it there under its soname, too. A convenience for
/// who builds with cargo alone: where it cannot be had, `make build` and an installation have that name all the same.
#[cfg(unix)]
fn link_the_soname() {
    // <target>/<profile>/build/<package>/out
    let out = std::env::var_os("OUT_DIR").map(std::path::PathBuf::from);
    if let Some(profile) = out.as_deref().and_then(|out| out.ancestors().nth(3)) {
        let _exists = std::os::unix::fs::symlink("libastrai.so", profile.join("libastrai.so.1"));
    }
}

#[cfg(not(unix))]
fn link_the_soname() {}
