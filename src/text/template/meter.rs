//! What a rendering may use: work, bytes and stack. The engine's own fuel counts its instructions; everything that one
//! instruction can make or walk asks here, so that a hostile template ends in an error, not in a hang, an exhausted
//! memory or an overflowed stack.

use crate::limits;
use minijinja::value::{Object, Value};
use minijinja::{Error, ErrorKind, State};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Result of anything a template does.
pub(super) type R<T> = Result<T, Error>;

/// A failure of the language.
#[cold]
pub(super) fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Bytes walked or copied that cost one step.
const BYTES_PER_STEP: usize = 256;

/// Where the rendering's [`Meter`] is among its variables.
pub(super) const METER: &str = "__py_meter";

/// The allowance of one rendering. Texts count when they are made; lists and dicts while they live.
#[derive(Debug)]
pub(super) struct Meter {
    steps: AtomicU64,
    bytes: AtomicUsize,
    stack_base: usize,
}

impl Object for Meter {}

impl Meter {
    /// A full allowance for a rendering that begins at this depth of the stack.
    pub(super) fn new() -> Arc<Meter> {
        let stack_base = stack_position();
        Arc::new(Meter { steps: AtomicU64::new(limits::TEMPLATE_FUEL), bytes: AtomicUsize::new(0), stack_base })
    }

    /// The meter of a running template.
    pub(super) fn of(state: &State) -> R<Arc<Meter>> {
        let meter = state.lookup(METER).and_then(|v| v.downcast_object::<Meter>());
        meter.ok_or_else(|| fault("the rendering has no meter"))
    }

    /// One step of the rendering.
    pub(super) fn step(&self) -> R<()> {
        self.spend(1)
    }

    /// Walking or copying `bytes` bytes.
    pub(super) fn work(&self, bytes: usize) -> R<()> {
        if bytes < BYTES_PER_STEP { Ok(()) } else { self.spend((bytes / BYTES_PER_STEP) as u64) }
    }

    fn spend(&self, steps: u64) -> R<()> {
        let rest = self.steps.load(Relaxed).checked_sub(steps).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
        self.steps.store(rest, Relaxed);
        Ok(())
    }

    /// Fails if `bytes` more bytes would be too many; for things about to be made.
    pub(super) fn room(&self, bytes: usize) -> R<()> {
        match self.bytes.load(Relaxed).checked_add(bytes) {
            Some(held) if held <= limits::TEMPLATE_MEMORY_BYTES_MAX => self.work(bytes),
            _ => Err(fault(format!(
                "the template makes more than {} bytes of text and values",
                limits::TEMPLATE_MEMORY_BYTES_MAX
            ))),
        }
    }

    /// Counts `bytes` bytes of text.
    pub(super) fn charge(&self, bytes: usize) -> R<()> {
        self.room(bytes)?;
        self.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Takes `bytes` until the result is dropped.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> R<Held> {
        self.charge(bytes)?;
        Ok(Held { meter: self.clone(), bytes })
    }

    /// Fails when the recursion has used its share of the thread's stack.
    pub(super) fn stack(&self) -> R<()> {
        if self.stack_base.abs_diff(stack_position()) > limits::TEMPLATE_STACK_BYTES_MAX {
            return Err(fault("maximum recursion depth exceeded"));
        }
        Ok(())
    }
}

/// Where the stack is now: the address of a local, compared and never followed.
#[inline(never)]
fn stack_position() -> usize {
    let local = 0u8;
    std::ptr::from_ref(std::hint::black_box(&local)).addr()
}

/// Bytes taken from a [`Meter`], given back on drop.
#[derive(Debug)]
pub(super) struct Held {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Held {
    pub(super) fn grow(&mut self, bytes: usize) -> R<()> {
        self.meter.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// Text being made, within the allowance.
pub(super) struct Sink {
    text: String,
    meter: Arc<Meter>,
}

impl Sink {
    pub(super) fn new(meter: &Arc<Meter>) -> Sink {
        Sink { text: String::new(), meter: meter.clone() }
    }

    pub(super) fn push(&mut self, text: &str) -> R<()> {
        self.fits(text.len())?;
        self.meter.charge(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Fails for a text that would be longer than anything that may be rendered.
    fn fits(&self, more: usize) -> R<()> {
        match self.text.len().checked_add(more) {
            Some(len) if len <= limits::TEMPLATE_OUTPUT_BYTES_MAX => Ok(()),
            _ => Err(fault(format!("a text longer than {} bytes", limits::TEMPLATE_OUTPUT_BYTES_MAX))),
        }
    }

    pub(super) fn push_char(&mut self, c: char) -> R<()> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    pub(super) fn repeat(&mut self, text: &str, times: usize) -> R<()> {
        let bytes = text.len().saturating_mul(times);
        self.fits(bytes)?;
        self.meter.charge(bytes)?;
        if bytes > 0 {
            self.text.reserve(bytes);
            (0..times).for_each(|_| self.text.push_str(text));
        }
        Ok(())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The text as a value; already counted.
    pub(super) fn finish(self) -> Value {
        Value::from(self.text)
    }
}
