//! What a rendering may use: work, bytes and stack. The engine's own fuel counts its instructions; everything that one
//! instruction can make or walk asks here, so that a hostile template ends in an error, not in a hang, an exhausted
//! memory or an overflowed stack.

use super::marks::{self, Text};
use crate::limits;
use minijinja::value::{Object, Value};
use minijinja::{Error, ErrorKind, State};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Result of anything a template does.
pub(super) type R<T> = Result<T, Error>;

/// The part of an object that says that it is no list and no map.
macro_rules! plain_object {
    () => {
        fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
            minijinja::value::ObjectRepr::Plain
        }
    };
}
pub(super) use plain_object;

/// A failure of the language.
#[cold]
pub(super) fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Memory that could not be had, in bytes.
#[derive(Debug)]
pub(super) struct Short(pub(super) usize);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot allocate {} bytes", self.0)
    }
}

impl std::error::Error for Short {}

#[cold]
fn short(bytes: usize) -> Error {
    fault("out of memory").with_source(Short(bytes))
}

/// Fails if there is no room for a block of so many bytes, which the engine is about to allocate without asking.
pub(super) fn try_block(bytes: usize) -> R<()> {
    if bytes < LARGE_BYTES {
        return Ok(());
    }
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| short(bytes))
}

/// Smallest block that is tried before the engine allocates it.
const LARGE_BYTES: usize = 16 << 10;
/// Bytes walked or copied that cost one step.
const BYTES_PER_STEP: u64 = 256;

/// Bytes looked at one by one that cost one step.
const BYTES_PER_HEAVY_STEP: u64 = 16;

/// Work between two looks at the clock, some milliseconds.
const WORK_PER_LOOK: u64 = BYTES_PER_STEP << 16;

/// Where the rendering's [`Meter`] is among its variables.
pub(super) const METER: &str = "__py_meter";

/// The allowance of one rendering. Texts count when they are made; lists and dicts while they live.
#[derive(Debug)]
pub(super) struct Meter {
    /// What is left, in bytes walked or copied.
    work: AtomicU64,
    bytes: AtomicUsize,
    /// Bytes of output.
    printed: AtomicUsize,
    stack_base: usize,
    started: Instant,
    /// Set by others when nobody wants the text any more.
    stop: Option<Arc<AtomicBool>>,
}

impl Object for Meter {}

impl Meter {
    /// An allowance of so many steps for a rendering that begins at this depth of the stack.
    pub(super) fn new(fuel: u64, stop: Option<Arc<AtomicBool>>) -> Arc<Meter> {
        let stack_base = crate::os::stack::position();
        let work = AtomicU64::new(fuel.saturating_mul(BYTES_PER_STEP));
        let (bytes, printed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Meter { work, bytes, printed, stack_base, started: Instant::now(), stop })
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
        let before = self.work.load(Relaxed);
        let rest = before.checked_sub(work).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
        self.work.store(rest, Relaxed);
        if before / WORK_PER_LOOK == rest / WORK_PER_LOOK { Ok(()) } else { self.look_up() }
    }

    /// Whether somebody wants the rendering to end, or the time is over.
    #[cold]
    fn look_up(&self) -> R<()> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Relaxed)) {
            return Err(fault("the rendering was stopped"));
        }
        if self.started.elapsed() > Duration::from_millis(limits::TEMPLATE_MS_MAX) {
            let most = limits::TEMPLATE_MS_MAX;
            return Err(fault(format!("it ran longer than {most} ms; it loops, or works on too much text")));
        }
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

    /// Counts `bytes` bytes that are printed. The output doubles when it is full: that block is tried first.
    pub(super) fn print(&self, bytes: usize) -> R<()> {
        let before = self.printed.fetch_add(bytes, Relaxed);
        let after = before.saturating_add(bytes);
        if after.next_power_of_two() == before.next_power_of_two() {
            return Ok(());
        }
        try_block(after.next_power_of_two().saturating_mul(2))
    }

    /// Takes `bytes` until the result is dropped.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> R<Held> {
        self.charge(bytes)?;
        Ok(Held { meter: self.clone(), bytes })
    }

    /// Fails when the recursion has used its share of the thread's stack.
    pub(super) fn stack(&self) -> R<()> {
        if self.stack_base.abs_diff(crate::os::stack::position()) > limits::TEMPLATE_STACK_BYTES_MAX {
            return Err(fault("maximum recursion depth exceeded"));
        }
        Ok(())
    }
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

    /// So many steps.
    pub(super) fn steps(&self, steps: usize) -> R<()> {
        self.meter.steps(steps)
    }

    /// Adds text of the template's own.
    pub(super) fn push(&mut self, text: &str) -> R<()> {
        self.make_room(text.len())?;
        self.meter.charge(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Room for the text, and for the copy of it that the value will be.
    fn make_room(&mut self, more: usize) -> R<()> {
        self.fits(more)?;
        let before = self.text.capacity();
        self.text.try_reserve(more).map_err(|_| short(more))?;
        if self.text.capacity() == before { Ok(()) } else { try_block(self.text.capacity()) }
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
            self.make_room(bytes)?;
            (0..times).for_each(|_| self.text.push_str(text.str()));
        }
        Ok(())
    }

    pub(super) fn text(&self) -> Text<'_> {
        Text::new(&self.text, &self.content)
    }

    /// The text as a value; already counted.
    pub(super) fn finish(self) -> Value {
        self.finish_as(false)
    }

    /// The text as a value, which is markup or not.
    pub(super) fn finish_as(self, markup: bool) -> Value {
        marks::value(self.text, self.content, markup)
    }

    /// Adds text as markup has it: escaped, unless it is markup already.
    pub(super) fn push_escaped(&mut self, text: Text) -> R<()> {
        if text.is_markup() {
            return self.push_text(text);
        }
        self.push_replaced(text, |c| match c {
            '&' => Some("&amp;".into()),
            '<' => Some("&lt;".into()),
            '>' => Some("&gt;".into()),
            '\'' => Some("&#39;".into()),
            '"' => Some("&#34;".into()),
            _ => None,
        })
    }

    /// Adds text with what `replacement` has for some of its characters.
    pub(super) fn push_replaced(
        &mut self,
        text: Text,
        replacement: impl Fn(char) -> Option<Cow<'static, str>>,
    ) -> R<()> {
        for (run, content) in text.runs() {
            let mut plain = 0;
            for (at, c) in run.char_indices() {
                if let Some(replacement) = replacement(c) {
                    self.push_as(run.get(plain..at).unwrap_or_default(), content)?;
                    self.push_as(&replacement, content)?;
                    plain = at + c.len_utf8();
                }
            }
            self.push_as(run.get(plain..).unwrap_or_default(), content)?;
        }
        Ok(())
    }
}
