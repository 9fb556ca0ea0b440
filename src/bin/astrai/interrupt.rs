//! Ctrl-C. The first one during an answer cancels it; a second one, or one while we wait for input, ends the process
//! the way the system does.

use crate::failure::{Failure, Outcome};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C has done and shall do.
#[derive(Clone)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C.
    pub fn install() -> Outcome<Interrupt> {
        let interrupt = Interrupt { raised: Arc::new(AtomicBool::new(false)), idle: Arc::new(AtomicBool::new(false)) };
        // In this order: the default action looks at the flag before this signal raises it.
        flag::register_conditional_default(SIGINT, interrupt.raised.clone())
            .and_then(|_| flag::register_conditional_default(SIGINT, interrupt.idle.clone()))
            .and_then(|_| flag::register(SIGINT, interrupt.raised.clone()))
            .map_err(|e| Failure::Message(format!("cannot handle Ctrl-C: {e}")))?;
        Ok(interrupt)
    }

    /// Takes a request of the system to terminate for Ctrl-C, too.
    pub fn with_termination(self) -> Outcome<Interrupt> {
        flag::register_conditional_default(SIGTERM, self.raised.clone())
            .and_then(|_| flag::register(SIGTERM, self.raised.clone()))
            .map_err(|e| Failure::Message(format!("cannot handle SIGTERM: {e}")))?;
        Ok(self)
    }

    /// Whether Ctrl-C came since the last [`Interrupt::rearm`].
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Forgets a Ctrl-C that was acted on.
    pub fn rearm(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    /// Runs `wait`, which looks for no interrupt, so that Ctrl-C ends the process meanwhile.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.idle.store(true, Ordering::SeqCst);
        let value = wait();
        self.idle.store(false, Ordering::SeqCst);
        value
    }
}
