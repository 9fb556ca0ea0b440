//! What a rendering may use: work, bytes and stack. The engine's own fuel counts its instructions; everything that one
//! instruction can make or walk asks here, so that a hostile template ends in an error, not in a hang, an exhausted
//! memory or an overflowed stack.

use super::marks::{self, Text};
use crate::limits;
use minijinja::value::{Object, Value};
use minijinja::{Error, ErrorKind, State};
use std::ops::Range;
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
const BYTES_PER_STEP: u64 = 256;

/// Bytes looked at one by one that cost one step.
const BYTES_PER_HEAVY_STEP: u64 = 16;

/// Where the rendering's [`Meter`] is among its variables.
pub(super) const METER: &str = "__py_meter";

/// The allowance of one rendering. Texts count when they are made; lists and dicts while they live.
#[derive(Debug)]
pub(super) struct Meter {
    /// What is left, in bytes walked or copied.
    work: AtomicU64,
    bytes: AtomicUsize,
    stack_base: usize,
}

impl Object for Meter {}

impl Meter {
    /// An allowance of so many steps for a rendering that begins at this depth of the stack.
    pub(super) fn new(fuel: u64) -> Arc<Meter> {
        let stack_base = stack_position();
        let work = AtomicU64::new(fuel.saturating_mul(BYTES_PER_STEP));
        Arc::new(Meter { work, bytes: AtomicUsize::new(0), stack_base })
    }

    /// The meter of a running template. It is looked up by name once; that would cost more the deeper blocks nest.
    pub(super) fn of(state: &mut State) -> R<Arc<Meter>> {
        if let Some(meter) = state.get_extension::<Arc<Meter>>() {
            return Ok(meter.clone());
        }
        let meter = state.lookup(METER).and_then(|v| v.downcast_object::<Meter>());
        let meter = meter.ok_or_else(|| fault("the rendering has no meter"))?;
        Ok(state.get_or_insert_extension(meter).clone())
    }

    /// One step of the rendering.
    pub(super) fn step(&self) -> R<()> {
        self.spend(BYTES_PER_STEP)
    }

    /// So many steps.
    pub(super) fn steps(&self, steps: usize) -> R<()> {
        self.spend((steps as u64).saturating_mul(BYTES_PER_STEP))
    }

    /// Walking or copying `bytes` bytes.
    pub(super) fn work(&self, bytes: usize) -> R<()> {
        self.spend(bytes as u64)
    }

    /// Looking at every character of `bytes` bytes.
    pub(super) fn heavy(&self, bytes: usize) -> R<()> {
        self.spend((bytes as u64).saturating_mul(BYTES_PER_STEP / BYTES_PER_HEAVY_STEP))
    }

    fn spend(&self, work: u64) -> R<()> {
        let rest = self.work.load(Relaxed).checked_sub(work).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
        self.work.store(rest, Relaxed);
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
    /// What of it is content.
    content: Vec<Range<usize>>,
    meter: Arc<Meter>,
}

impl Sink {
    pub(super) fn new(meter: &Arc<Meter>) -> Sink {
        Sink { text: String::new(), content: Vec::new(), meter: meter.clone() }
    }

    /// Adds text of the template's own.
    pub(super) fn push(&mut self, text: &str) -> R<()> {
        self.fits(text.len())?;
        self.meter.charge(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Adds text that is content, or none of it.
    pub(super) fn push_as(&mut self, text: &str, content: bool) -> R<()> {
        let start = self.text.len();
        self.push(text)?;
        if !content || text.is_empty() {
            return Ok(());
        }
        let end = self.text.len();
        match self.content.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => {
                self.meter.charge(size_of::<Range<usize>>())?;
                self.content.push(start..end);
            }
        }
        Ok(())
    }

    /// Adds text with what is known of it.
    pub(super) fn push_text(&mut self, text: Text) -> R<()> {
        if !text.is_marked() {
            return self.push(text.str());
        }
        text.runs().try_for_each(|(run, content)| self.push_as(run, content))
    }

    /// Fails for a text that would be longer than anything that may be rendered.
    fn fits(&self, more: usize) -> R<()> {
        match self.text.len().checked_add(more) {
            Some(len) if len <= limits::TEMPLATE_OUTPUT_BYTES_MAX => Ok(()),
            _ => Err(fault(format!("a text longer than {} bytes", limits::TEMPLATE_OUTPUT_BYTES_MAX))),
        }
    }

    /// Adds a character, which is content or not.
    pub(super) fn push_char(&mut self, c: char, content: bool) -> R<()> {
        self.push_as(c.encode_utf8(&mut [0; 4]), content)
    }

    pub(super) fn repeat(&mut self, text: Text, times: usize) -> R<()> {
        let bytes = text.len().saturating_mul(times);
        self.fits(bytes)?;
        if text.is_marked() {
            self.meter.room(bytes)?;
            return (0..if bytes > 0 { times } else { 0 }).try_for_each(|_| self.push_text(text));
        }
        self.meter.charge(bytes)?;
        if bytes > 0 {
            self.text.reserve(bytes);
            (0..times).for_each(|_| self.text.push_str(text.str()));
        }
        Ok(())
    }

    pub(super) fn text(&self) -> Text<'_> {
        Text::new(&self.text, &self.content)
    }

    /// The text as a value; already counted.
    pub(super) fn finish(self) -> Value {
        marks::value(self.text, self.content)
    }
}
