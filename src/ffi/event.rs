//! Events as C sees them: a view into a Rust event, lent to a callback or owned by a pulled event.

use super::error::ErrorCell;
use super::guard::{Freed, guard};
use super::input;
use super::options;
use super::types::*;
use crate::engine::{Event, Part, PartEnd, PartKind};
use crate::error::{Error, Result, Status, Unit};
use std::ffi::c_char;
use std::mem;
use std::ptr;

/// An event struct with what its pointers point to. `c` is first: its address is the event's address.
#[repr(C)]
pub(super) struct EventCell {
    c: astrai_event,
    magic: u64,
    usage: astrai_usage,
    error: Option<ErrorCell>,
    /// Owner of the arrays of a pulled event.
    event: Option<Box<Event>>,
    /// The event that is shown; NULL when there is none. Only read between `show` and the next one.
    shown: *const Event,
}

// SAFETY: the pointers in `c` and `shown` are written by `show` and read before the cell moves again; they point into the
// cell and at the event it shows, both of which are plain data.
unsafe impl Send for EventCell {}

/// Pulled: given to the caller, who frees it.
const OWNED: u64 = 0x6173_7472_6169_4576;
/// Shown to a callback, which must not keep it.
const LENT: u64 = 0x6173_7472_6169_456c;

impl EventCell {
    fn new(magic: u64) -> EventCell {
        // SAFETY: integers and raw pointers, for all of which zero is a value.
        let (c, usage) = unsafe { (mem::zeroed(), mem::zeroed()) };
        EventCell { c, magic, usage, error: None, event: None, shown: ptr::null() }
    }

    /// A cell that shows one event after another to a callback.
    pub(super) fn lent() -> EventCell {
        EventCell::new(LENT)
    }

    /// The struct for `event`; valid until the cell moves, is shown another event, or `event` goes.
    ///
    /// # Errors
    /// `Internal` for an event that was not terminated: those that the engine hands out are.
    pub(super) fn show(&mut self, event: &Event) -> Result<*const astrai_event> {
        let text = event.text_for_c().ok_or_else(|| Error::internal("an event's text has no NUL behind it"))?;
        self.usage = options::usage(event.usage.as_ref());
        self.error = event.error.clone().map(ErrorCell::embedded);
        self.point_at(event, text);
        self.shown = event;
        Ok(&raw const self.c)
    }

    fn point_at(&mut self, event: &Event, text: *const c_char) {
        self.c = astrai_event {
            struct_size: mem::size_of::<astrai_event>() as u32,
            kind: event.kind as i32,
            terminal: i32::from(event.terminal()),
            finish_reason: event.finish as i32,
            request_id: event.request_id,
            tag: event.tag,
            text,
            text_len: event.text.len(),
            // Token ids are below VOCAB_MAX, so the same bits are the same number.
            tokens: array(&event.tokens).cast::<i32>(),
            logprobs: array(&event.logprobs),
            token_count: u32::try_from(event.tokens.len()).unwrap_or(u32::MAX),
            top_count: event.top_count,
            top_tokens: array(&event.top_tokens).cast::<i32>(),
            top_logprobs: array(&event.top_logprobs),
            prompt_logprobs: array(&event.prompt_logprobs),
            prompt_count: event.prompt_logprobs.len(),
            usage: if event.usage.is_some() { &raw const self.usage } else { ptr::null() },
            error: self.error.as_ref().map_or(ptr::null(), |error| error.as_c()),
            first_token: event.first_token,
            first_byte: event.first_byte,
            complete: event.complete.map_or(-1, i32::from),
            format: event.format as i32,
            part_count: u32::try_from(event.part_count()).unwrap_or(u32::MAX),
            reserved: 0,
            embedding: array(&event.embedding),
            embedding_len: event.embedding.len(),
        };
    }
}

/// Start of an array, NULL when it is empty.
fn array<T>(elements: &[T]) -> *const T {
    if elements.is_empty() { ptr::null() } else { elements.as_ptr() }
}

/// Gives a pulled event to the caller.
///
/// # Errors
/// `Internal`, as of [`EventCell::show`].
pub(super) fn give(event: Box<Event>) -> Result<*mut astrai_event> {
    let mut cell = Box::new(EventCell::new(OWNED));
    cell.show(&event)?;
    // The box of the event moves; the event, its text and its arrays do not.
    cell.event = Some(event);
    Ok(Box::into_raw(cell).cast())
}

/// [A] Looks at a part of an event, by an index below its part_count. While an answer is streamed, an event has of each part what is
/// new: text is to be appended. *out is filled as far as its struct_size. ERR_ARGUMENT: the event has no part index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_event_part(
    event: *const astrai_event,
    index: u32,
    out: *mut astrai_part,
    err: *mut *mut astrai_error,
) -> i32 {
    guard("astrai_event_part", err, || {
        let cell = event.cast::<EventCell>();
        if cell.is_null() || !cell.is_aligned() {
            return Err(Error::argument("event is NULL").about("event"));
        }
        // SAFETY: by the contract a live event of this library, all of which are cells.
        let cell = unsafe { &*cell };
        if ![OWNED, LENT].contains(&cell.magic) || cell.shown.is_null() {
            return Err(Error::new(Status::Handle, "the event given is not a live event: it was freed").about("event"));
        }
        // SAFETY: a pulled event's box lives with its cell; the event of a callback outlives the call that shows it.
        let event = unsafe { &*cell.shown };
        let part = event.part(index as usize).ok_or_else(|| {
            let count = event.part_count();
            Error::argument(format!("the event has {count} parts, and index is {index}")).about("index").numbers(
                Unit::Count,
                u64::from(index) + 1,
                count as u64,
            )
        })?;
        // SAFETY: NULL or a struct of the caller, by the contract.
        unsafe { input::write_struct(out, &part_of(&part)) }
    })
}

/// The struct of a part. Its texts have a NUL behind them: those of a part by [`crate::engine`], that of an event's text as well.
fn part_of(part: &Part) -> astrai_part {
    let text = |text: Option<&str>| match text {
        Some(text) if !text.is_empty() => (text.as_ptr().cast(), text.len()),
        _ => (c"".as_ptr(), 0),
    };
    let ((text, text_len), (name, name_len)) = (text(Some(part.text)), text(part.name));
    let (call_id, call_id_len) = match part.id {
        Some(id) if !id.is_empty() => (id.as_ptr().cast(), id.len()),
        _ => (c"".as_ptr(), 0),
    };
    astrai_part {
        struct_size: mem::size_of::<astrai_part>() as u32,
        kind: match part.kind {
            PartKind::Content => ASTRAI_PART_CONTENT,
            PartKind::Reasoning => ASTRAI_PART_REASONING,
            PartKind::Call => ASTRAI_PART_CALL,
        },
        index: u32::try_from(part.part).unwrap_or(u32::MAX),
        call: part.call.map_or(-1, |call| i32::try_from(call).unwrap_or(i32::MAX)),
        begins: i32::from(part.begins),
        ends: match part.end {
            None => ASTRAI_PART_OPEN,
            Some(PartEnd::Complete) => ASTRAI_PART_COMPLETE,
            Some(PartEnd::Unclosed) => ASTRAI_PART_UNCLOSED,
            Some(PartEnd::Malformed) => ASTRAI_PART_MALFORMED,
        },
        text,
        text_len,
        name,
        name_len,
        call_id,
        call_id_len,
    }
}

/// [A] Frees an event from astrai_request_next, astrai_request_wait or astrai_engine_next, with all it points to; the last
/// lets the next event of its request come. NULL is fine; an event shown to a callback is left to the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn astrai_event_free(event: *mut astrai_event) {
    guard("astrai_event_free", ptr::null_mut(), || {
        let cell = event.cast::<EventCell>();
        if cell.is_null() || !cell.is_aligned() {
            return Ok(Freed);
        }
        // SAFETY: by the contract an event of this library, all of which are cells.
        let magic = unsafe { &mut (*cell).magic };
        if *magic == OWNED {
            *magic = 0;
            // SAFETY: `give` made it with Box and gave it away; zeroing the magic word makes this the only free.
            drop(unsafe { Box::from_raw(cell) });
        }
        Ok(Freed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EventKind, FinishReason, Usage};
    use crate::error::Status;

    fn delta() -> Event {
        let mut event = Event::empty(9, 77);
        event.text = "né".to_owned();
        event.tokens = vec![5, 300];
        event.logprobs = vec![-0.5, -1.5];
        event.top_count = 2;
        event.top_tokens = vec![5, 6, 300, 7];
        event.top_logprobs = vec![-0.5, -0.75, -1.5, -2.0];
        (event.first_token, event.first_byte) = (7, 30);
        event.terminate().unwrap();
        event
    }

    #[test]
    fn a_pulled_event_owns_what_it_points_to() {
        let event = Box::new(delta());
        let text = event.text.as_ptr();
        let event = give(event).unwrap();
        // SAFETY: just given; every array is as long as the event says.
        unsafe {
            let c = &*event;
            assert_eq!((c.struct_size as usize, c.kind, c.terminal), (mem::size_of::<astrai_event>(), 1, 0));
            assert_eq!((c.request_id, c.tag, c.token_count, c.top_count), (9, 77, 2, 2));
            assert_eq!((c.first_token, c.first_byte), (7, 30));
            assert_eq!(c.text.cast::<u8>(), text, "a long text is not copied");
            assert_eq!(std::slice::from_raw_parts(c.text.cast::<u8>(), c.text_len + 1), "né\0".as_bytes());
            assert_eq!(std::slice::from_raw_parts(c.tokens, 2), [5, 300]);
            assert_eq!(std::slice::from_raw_parts(c.top_tokens, 4), [5, 6, 300, 7]);
            assert_eq!(*c.top_logprobs.add(3), -2.0);
            assert!(c.prompt_logprobs.is_null() && c.usage.is_null() && c.error.is_null());
            astrai_event_free(event);
        }
    }

    #[test]
    fn only_text_with_a_nul_behind_it_is_shown() {
        let mut cell = EventCell::lent();
        let mut event = delta();
        assert!(cell.show(&event).is_ok());
        assert_eq!(cell.show(&event.clone()).unwrap_err().status, Status::Internal);
        event.text.clear();
        let c = cell.show(&event).unwrap();
        // SAFETY: the cell and the event live to the end of the test; text of no length is a NUL.
        unsafe { assert_eq!(((*c).text_len, *(*c).text), (0, 0)) };
    }

    #[test]
    fn a_lent_event_is_not_freed_and_its_error_neither() {
        let mut event = delta();
        event.kind = EventKind::Failed;
        event.finish = FinishReason::Error;
        event.tokens.clear();
        event.usage = Some(Usage { seed: 42, generated_tokens: 3, ..Usage::default() });
        event.error = Some(Error::new(Status::Device, "gone"));
        let mut cell = EventCell::lent();
        let c = cell.show(&event).unwrap().cast_mut();
        // SAFETY: the cell and the event live to the end of the test.
        unsafe {
            astrai_event_free(c);
            super::super::error::astrai_error_free((*c).error.cast_mut());
            assert_eq!(((*c).terminal, (*c).kind, (*c).finish_reason), (1, 4, 8));
            assert!((*c).tokens.is_null());
            assert_eq!(((*(*c).usage).seed, (*(*c).usage).generated_tokens), (42, 3));
            assert_eq!((*(*c).error).status, 29);
        }
    }
}
