//! Threads of the engine.
//!
//! On Unix they are made with `pthread_create`, not `std::thread::spawn`: the latter registers thread-local
//! destructors on the *spawning* thread, which keeps a shared library mapped after `dlclose` when a host thread opens
//! an engine. Every thread blocks asynchronous signals (they belong to the host), carries a name, has a stack of a size of
//! our own, and starts with the default floating-point environment whatever its creator had set (law 1).

use super::{floats, shortage, thread_exit};
use crate::error::{Error, Result, Status};
use crate::limits;
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

pub use super::stack::{aside, aside_with, on_caller, with_stack};

thread_local! {
    /// Whether [`spawn`] made this thread. No destructor, as everywhere here.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is one of the library's own.
pub fn is_ours() -> bool {
    OURS.get()
}

/// How a thread is placed and ranked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadOptions {
    /// Operating-system priority: negative is lower than the creating thread's, positive higher where the system allows
    /// it.
    pub priority: i32,
    /// Processors the thread may use, bit i = processor i; 0 = all.
    pub affinity_mask: u64,
}

/// Names of all engine threads begin with this.
pub const NAME_PREFIX: &str = "astrai-";

/// Processors this process may use, counting the hardware threads of a core once where the system says which they are.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut cores = std::collections::BTreeSet::new();
    for cpu in imp::allowed_cpus() {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let Ok(siblings) = std::fs::read_to_string(path) else { return logical };
        cores.insert(siblings);
    }
    if cores.is_empty() { logical } else { cores.len().min(logical) }
}

/// What the system did not grant a thread of [`ThreadOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Processors of the mask that it may not use; all of them when the mask was refused.
    pub processors: u64,
    /// The system has no masks of processors.
    pub no_masks: bool,
    /// The priority it has instead.
    pub priority: Option<i32>,
}

impl Refused {
    /// Where threads are neither placed nor ranked.
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "Linux has both"))]
    fn all(options: ThreadOptions) -> Refused {
        let priority = (options.priority != 0).then_some(0);
        Refused { processors: options.affinity_mask, no_masks: options.affinity_mask != 0, priority }
    }
}

/// What a thread of `options` would be refused: tried on one.
///
/// # Errors
/// `Memory` when no thread can be had.
pub fn try_placing(options: ThreadOptions) -> Result<Refused> {
    aside("placing", move || imp::place_current("astrai-placing", options))
}

/// Processors this process may use, bit i = processor i; those beyond the 64th have none. All where the system does not say.
pub fn allowed_processors() -> u64 {
    known_processors().unwrap_or(u64::MAX)
}

/// As [`allowed_processors`]; `None` where the system does not say.
fn known_processors() -> Option<u64> {
    let allowed = imp::allowed_cpus();
    (!allowed.is_empty()).then(|| allowed.iter().filter(|&&cpu| cpu < 64).fold(0, |mask, cpu| mask | 1 << cpu))
}

/// How many hardware threads engine threads of this mask may use.
pub fn usable_processors(affinity_mask: u64) -> usize {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    match known_processors() {
        Some(allowed) if affinity_mask & allowed != 0 => (affinity_mask & allowed).count_ones() as usize,
        _ => all,
    }
}

/// A started thread.
pub struct JoinHandle(imp::RawThread);

impl JoinHandle {
    /// Waits for the thread to end.
    pub fn join(self) {
        self.0.join();
    }

    /// Whether the caller is this thread.
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }

    /// Lets the thread end on its own.
    pub fn detach(self) {
        self.0.detach();
    }
}

/// Starts a thread named `astrai-<name>` with [`limits::THREAD_STACK_BYTES`] of stack. A panic in `body` ends the thread
/// and nothing else; rooms that must react to one catch it themselves.
pub fn spawn(name: &str, options: ThreadOptions, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle> {
    spawn_with(name, options, limits::THREAD_STACK_BYTES, body)
}

/// Whether a thread that has just begun can run: glibc ends the process where it has no memory to note a thread-local with a
/// destructor, which dependencies have, and which only the shared library can help ([`thread_exit`]). So some is tried before:
/// what was given back serves such small blocks next.
fn can_run() -> bool {
    let mut tried: Vec<u8> = Vec::new();
    if tried.try_reserve_exact(limits::THREAD_START_BYTES).is_err() || shortage::is_noted() {
        return false;
    }
    drop(std::hint::black_box(tried));
    true
}

/// How a thread tells who made it whether it runs.
#[derive(Default)]
struct Started {
    runs: Mutex<Option<bool>>,
    told: Condvar,
}

impl Started {
    fn tell(&self, runs: bool) {
        *self.runs.lock().unwrap_or_else(PoisonError::into_inner) = Some(runs);
        self.told.notify_one();
    }

    fn wait(&self) -> bool {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *runs {
                Some(runs) => return runs,
                None => runs = self.told.wait(runs).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// As [`spawn`], with a stack of `stack_bytes`.
pub fn spawn_with(
    name: &str,
    options: ThreadOptions,
    stack_bytes: usize,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle> {
    let name = format!("{NAME_PREFIX}{name}");
    let own_name = name.clone();
    let started = Arc::new(Started::default());
    let tells = started.clone();
    let run = Box::new(move || {
        let all = || {
            OURS.set(true);
            let runs = can_run();
            tells.tell(runs);
            if !runs {
                return;
            }
            imp::place_current(&own_name, options);
            floats::reset();
            body();
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(all));
        thread_exit::run();
    });
    let thread = imp::spawn(&name, stack_bytes, run).map(JoinHandle).map_err(|e| {
        let mut error = Error::new(Status::Memory, format!("cannot start a thread: {e}"));
        error.os_code = e.raw_os_error().unwrap_or(0);
        error
    })?;
    if started.wait() {
        return Ok(thread);
    }
    thread.join();
    Err(Error::memory("a thread", limits::THREAD_START_BYTES as u64))
}

#[cfg(unix)]
mod imp {
    use super::{Refused, ThreadOptions};
    #[cfg(not(target_os = "linux"))]
    use std::ffi::CString;
    use std::ffi::c_void;
    use std::io;

    pub struct RawThread(libc::pthread_t);

    // SAFETY: the id of a thread may be used from any thread; of musl, and on macOS, it is a pointer only in its type.
    unsafe impl Send for RawThread {}
    // SAFETY: as above; sharing only compares it.
    unsafe impl Sync for RawThread {}

    impl RawThread {
        pub fn join(self) {
            // SAFETY: the thread was created joinable by `spawn`; taking `self` makes this the only join or detach.
            unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
        }

        pub fn is_current(&self) -> bool {
            // SAFETY: both ids are of live threads: ours, and one that is not joined while the handle exists.
            unsafe { libc::pthread_equal(self.0, libc::pthread_self()) != 0 }
        }

        pub fn detach(self) {
            // SAFETY: as in `join`.
            unsafe { libc::pthread_detach(self.0) };
        }
    }

    type Body = Box<dyn FnOnce() + Send>;

    extern "C" fn enter(argument: *mut c_void) -> *mut c_void {
        // SAFETY: `spawn` passes the address of a leaked Box<Body>, to exactly one thread.
        let body: Box<Body> = unsafe { Box::from_raw(argument.cast()) };
        // The body catches its own panics (`super::spawn`), so nothing unwinds into the C caller.
        body();
        std::ptr::null_mut()
    }

    pub fn spawn(_name: &str, stack_bytes: usize, body: Body) -> io::Result<RawThread> {
        let argument: *mut Body = Box::into_raw(Box::new(body));
        // SAFETY: zeroed signal sets and thread ids are valid storage for the calls that fill them.
        let (code, thread) = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            // Synchronous signals stay: blocking them would turn a fault into undefined behaviour.
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
                libc::sigdelset(&mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            let mut thread: libc::pthread_t = std::mem::zeroed();
            let code = create(&mut thread, stack_bytes, argument.cast());
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            (code, thread)
        };
        if code != 0 {
            // SAFETY: no thread was made, so the box is still ours.
            drop(unsafe { Box::from_raw(argument) });
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(RawThread(thread))
    }

    /// `pthread_create` with a stack of `stack_bytes`.
    ///
    /// # Safety
    /// `argument` is for [`enter`], which takes it over if this succeeds.
    unsafe fn create(thread: &mut libc::pthread_t, stack_bytes: usize, argument: *mut c_void) -> libc::c_int {
        // SAFETY: zeroed attributes are storage for `init`, and destroyed once if that succeeded.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            let mut code = libc::pthread_attr_init(&mut attributes);
            if code != 0 {
                return code;
            }
            code = libc::pthread_attr_setstacksize(&mut attributes, stack_bytes);
            if code == 0 {
                code = libc::pthread_create(thread, &attributes, enter, argument);
            }
            libc::pthread_attr_destroy(&mut attributes);
            code
        }
    }

    #[cfg(target_os = "linux")]
    pub fn place_current(name: &str, options: ThreadOptions) -> Refused {
        let mut refused = Refused::default();
        // 15 bytes and the NUL. On the stack: a thread that has just started should not need memory.
        let mut short = [0u8; 16];
        short.iter_mut().take(15).zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        // SAFETY: the name is NUL-terminated and at most 16 bytes with the NUL.
        unsafe { libc::pthread_setname_np(libc::pthread_self(), short.as_ptr().cast()) };
        if options.affinity_mask != 0 {
            // SAFETY: a zeroed cpu_set_t is the empty set; CPU_SET stays below 64 of its 1024 bits.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                for cpu in (0..64).filter(|i| options.affinity_mask >> i & 1 == 1) {
                    libc::CPU_SET(cpu, &mut set);
                }
                // The system leaves out what may not be used, and refuses a set without the rest.
                refused.processors = match libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &set) {
                    0 => options.affinity_mask & !super::allowed_processors(),
                    _ => options.affinity_mask,
                };
            }
        }
        if options.priority != 0 {
            // Linux ranks threads by nice value; higher niceness is lower priority. Normal is what the creator has,
            // which the thread inherited: a host that runs below others must not be overtaken by its engine.
            // SAFETY: gettid, getpriority and setpriority take and return integers; a refusal leaves the thread as it
            // was. getpriority cannot fail for the calling thread.
            unsafe {
                let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
                let normal = libc::getpriority(libc::PRIO_PROCESS, thread);
                let nice = normal.saturating_sub(options.priority);
                libc::setpriority(libc::PRIO_PROCESS, thread, nice.clamp(-20, 19));
                let granted = libc::getpriority(libc::PRIO_PROCESS, thread);
                refused.priority = (granted != nice).then(|| normal - granted);
            }
        }
        refused
    }

    #[cfg(not(target_os = "linux"))]
    pub fn place_current(name: &str, options: ThreadOptions) -> Refused {
        #[cfg(target_os = "macos")]
        if let Ok(name) = CString::new(name) {
            // SAFETY: names the calling thread with a NUL-terminated string.
            unsafe { libc::pthread_setname_np(name.as_ptr()) };
        }
        #[cfg(not(target_os = "macos"))]
        let _ = CString::new(name);
        Refused::all(options)
    }

    #[cfg(target_os = "linux")]
    pub fn allowed_cpus() -> Vec<usize> {
        // SAFETY: sched_getaffinity fills a zeroed set of the size it is given.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &mut set) != 0 {
                return Vec::new();
            }
            set
        };
        // SAFETY: CPU_ISSET reads a bit below the set's size.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    #[cfg(not(target_os = "linux"))]
    pub fn allowed_cpus() -> Vec<usize> {
        Vec::new()
    }
}

#[cfg(not(unix))]
mod imp {
    use super::{Refused, ThreadOptions};
    use std::io;

    pub struct RawThread(std::thread::JoinHandle<()>);

    impl RawThread {
        pub fn join(self) {
            let _ = self.0.join();
        }

        pub fn is_current(&self) -> bool {
            self.0.thread().id() == std::thread::current().id()
        }

        pub fn detach(self) {}
    }

    pub fn spawn(name: &str, stack_bytes: usize, body: Box<dyn FnOnce() + Send>) -> io::Result<RawThread> {
        std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(body).map(RawThread)
    }

    pub fn place_current(_name: &str, options: ThreadOptions) -> Refused {
        Refused::all(options)
    }

    pub fn allowed_cpus() -> Vec<usize> {
        Vec::new()
    }
}

/// A number that no other living thread has. Costs a look at the thread's own memory.
pub fn current_id() -> usize {
    thread_local! {
        static PLACE: u8 = const { 0 };
    }
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_thread_runs_its_body_and_a_panic_stays_inside() {
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let handle = spawn("test", ThreadOptions::default(), move || flag.store(is_ours(), Ordering::SeqCst)).unwrap();
        assert!(!handle.is_current() && !is_ours());
        handle.join();
        assert!(ran.load(Ordering::SeqCst));
        spawn("panics", ThreadOptions::default(), || panic!("stays inside")).unwrap().join();
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn an_engine_thread_computes_denormals_whatever_its_creator_set() {
        let flush_to_zero: u32 = 0x1f80 | 1 << 15 | 1 << 6;
        // SAFETY: sets MXCSR of this test's thread, restored below.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &flush_to_zero) };
        let kept = Arc::new(AtomicBool::new(false));
        let flag = kept.clone();
        let handle = spawn("denormal", ThreadOptions::default(), move || {
            let tiny = std::hint::black_box(f32::MIN_POSITIVE);
            flag.store(tiny / 2.0 != 0.0, Ordering::SeqCst);
        });
        floats::reset();
        handle.unwrap().join();
        assert!(kept.load(Ordering::SeqCst));
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(physical_cores() >= 1);
    }
}
