//! Options that cannot be honoured, or only in part: an error when nothing of the option can be honoured, else a
//! warning in the log.

use super::api::{Delivery, Device, EngineOptions, Log, LogLevel, Type};
use super::duty::Duty;
use super::memory_plan::Sizing;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::memory;
use crate::os::thread::{self, ThreadOptions};

/// Checks all options against their ranges and against the features of this build.
///
/// # Errors
/// `Argument`, `Unsupported`.
pub(super) fn check(o: &EngineOptions) -> Result<()> {
    let limit = |name: &str, value: u32, max: usize| {
        if value as usize <= max {
            return Ok(());
        }
        Err(Error::argument(format!("option {name} is {value}, the limit is {max}")).about(name).numbers(
            Unit::Count,
            value as u64,
            max as u64,
        ))
    };
    limit("threads", o.threads, limits::THREADS_MAX)?;
    limit("max_running", o.max_running, limits::RUNNING_MAX)?;
    limit("max_waiting", o.max_waiting, limits::WAITING_MAX)?;
    limit("context_length", o.context_length, limits::CONTEXT_MAX)?;
    limit("page_tokens", o.page_tokens, limits::PAGE_TOKENS_MAX)?;
    limit("step_tokens", o.step_tokens, limits::STEP_TOKENS_MAX)?;
    limit("draft_tokens", o.speculation.draft_tokens, limits::DRAFT_TOKENS_MAX)?;
    if o.speculation.draft_tokens > 0 && !o.drafts() {
        let message = "option draft_tokens is set without speculation: there are no drafts";
        return Err(Error::argument(message).about("draft_tokens"));
    }
    Duty::new(o.duty_work_us, o.duty_interval_us)?;
    let unsupported = |name: &str, what: &str| {
        Err(Error::unsupported(format!("option {name}: {what} is not in this build")).about(name))
    };
    o.device.check(o.device_index)?;
    if o.wake.is_some() && o.delivery != Delivery::Poll {
        return Err(Error::argument(
            "option wake is set on an engine with a dispatch thread, which nothing has to wake",
        )
        .about("wake"));
    }
    if o.compute.is_quantized() {
        return Err(Error::argument("option compute is a quantized type; it takes f32 or bf16").about("compute"));
    }
    if matches!(o.weights, Type::F32 | Type::Bf16) {
        return unsupported("weights", "another float type than the stored one");
    }
    if o.weights_cache.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
        return Err(
            Error::argument("option weights_cache is empty; name a folder or leave it out").about("weights_cache")
        );
    }
    if matches!(o.kv, Type::Q5 | Type::Q4) {
        return unsupported("kv", "a cache of fewer than 8 bits");
    }
    Ok(())
}

/// Tries thread priority and affinity on a temporary thread and logs what the system does not grant.
///
/// # Errors
/// `Argument` when no processor of the mask may be used; `Memory` when no thread can be created.
pub(super) fn check_placing(options: ThreadOptions, log: Log) -> Result<()> {
    if options.priority == 0 && options.affinity_mask == 0 {
        return Ok(());
    }
    let refused = thread::try_placing(options)?;
    let asked = processors(options.affinity_mask);
    if refused.no_masks {
        let message = format!("option affinity_mask ({asked}) is not honoured: this system has no such masks");
        log(LogLevel::Warn, message);
    } else if refused.processors == options.affinity_mask && refused.processors != 0 {
        let allowed = thread::allowed_processors();
        let message = format!(
            "option affinity_mask names only processors that this process may not use ({asked}); it may use {}",
            processors(allowed)
        );
        let (asked, allowed) = (options.affinity_mask.count_ones(), allowed.count_ones());
        let error = Error::argument(message).about("affinity_mask");
        return Err(error.numbers(Unit::Count, asked.into(), allowed.into()));
    } else if refused.processors != 0 {
        let missing = processors(refused.processors);
        log(LogLevel::Warn, format!("option affinity_mask: this process may not use {missing}; it goes without"));
    }
    if let Some(granted) = refused.priority {
        let priority = options.priority;
        let message = format!(
            "option thread_priority is {priority}, the system grants {granted}: it has no such priority, or more than the \
             opener's needs a right (on Linux CAP_SYS_NICE, or a limit of nice)"
        );
        log(LogLevel::Warn, message);
    }
    Ok(())
}

/// The processor numbers of a mask, for messages.
fn processors(mask: u64) -> String {
    let numbers: Vec<String> = (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit: u32| bit.to_string()).collect();
    let plural = if numbers.len() == 1 { "processor" } else { "processors" };
    format!("{plural} {}", numbers.join(", "))
}

/// Warns about options that are not used or not met, once the device is known.
pub(super) fn warn(options: &EngineOptions, sizing: &Sizing, log: Log) {
    if let Some(warning) = sizing.warning() {
        log(LogLevel::Warn, warning);
    }
    let on_gpu = sizing.choice.device.device().is_gpu();
    let mut unused = |name: &str, why: &str| log(LogLevel::Warn, format!("option {name} is not used: {why}"));
    if options.weights_cache.is_some() && !options.weights.is_quantized() {
        unused("weights_cache", "only quantized weights are kept, and option weights asks for none");
    }
    if on_gpu {
        let why = "the model runs on a GPU";
        if options.cpu_tier != Default::default() {
            unused("cpu_tier", why);
        }
        if options.threads > 1 {
            unused("threads", why);
        }
    } else {
        let why = "the model runs on the CPU";
        if options.device_index != 0 {
            unused("device_index", why);
        }
        if options.device == Device::Cpu && options.gpu_low_priority {
            unused("ASTRAI_ENGINE_GPU_LOW_PRIORITY", why);
        }
        if options.device == Device::Cpu && options.gpu_blocking_wait {
            unused("ASTRAI_ENGINE_GPU_BLOCKING_WAIT", why);
        }
        let usable = thread::usable_processors(options.affinity_mask);
        if options.threads as usize > usable {
            let asked = options.threads;
            let why = format!("option threads is {asked}, but they may use {usable} processors: they take turns");
            log(LogLevel::Warn, why);
        }
    }
    if options.step_tokens != 0 && (options.step_tokens as usize) < sizing.step_tokens {
        let (asked, used) = (options.step_tokens, sizing.step_tokens);
        let why = format!("option step_tokens is {asked}, but {used} are computed: each running request needs one");
        log(LogLevel::Warn, why);
    }
}

/// Warns about options that an engine opened for text only does not use.
pub(super) fn warn_text_only(options: &EngineOptions, log: Log) {
    let set = [
        ("device", options.device.is_gpu()),
        ("weights", options.weights != Type::Auto),
        ("weights_cache", options.weights_cache.is_some()),
        ("kv", options.kv != Type::Auto),
        ("context_length", options.context_length != 0),
        ("memory_budget", options.memory_budget != 0),
        ("ASTRAI_ENGINE_TOUCH_KV", options.touch_kv),
        ("constraints", options.constraints),
    ];
    for (name, _) in set.iter().filter(|(_, set)| *set) {
        log(LogLevel::Warn, format!("option {name} is not used: the engine was opened for text only"));
    }
}

/// Decides before each piece of the KV pages is written whether the free memory suffices for it.
pub(super) struct Touching<'a> {
    /// Bytes of all KV pages.
    pub total: u64,
    /// Bytes allowed so far.
    pub written: u64,
    /// Returns the free memory; `None` when unknown.
    pub available: &'a dyn Fn() -> Option<memory::Available>,
    /// Asked before each piece; false aborts.
    pub go_on: &'a mut dyn FnMut() -> bool,
}

impl Touching<'_> {
    /// Allows the next `bytes` bytes to be written.
    ///
    /// # Errors
    /// `Memory` with the bytes still to be written and the bytes free; `Aborted` by the progress callback.
    pub fn may(&mut self, bytes: u64) -> Result<()> {
        if !(self.go_on)() {
            return Err(Error::new(Status::Aborted, "writing the KV pages was aborted by the progress callback"));
        }
        if let Some(available) = (self.available)() {
            let enough = bytes.saturating_add(limits::TOUCH_SPARE_BYTES) <= available.bytes;
            if !enough {
                let (total, written, left) = (self.total, self.written, available.bytes);
                let (bound, needed) = (available.bound, self.total.saturating_sub(self.written));
                let message = format!(
                    "the KV pages take {total} bytes; {written} of them were written when {bound} left only {left} bytes of \
                     memory; lower memory_budget, context_length or max_running"
                );
                return Err(Error::new(Status::Memory, message).about("memory").numbers(Unit::Bytes, needed, left));
            }
        }
        self.written = self.written.saturating_add(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::{Available, Bound};
    use std::cell::Cell;

    #[test]
    fn an_engine_for_text_only_says_what_it_has_no_use_for() {
        let lines = |options: &EngineOptions| {
            let mut lines = Vec::new();
            warn_text_only(options, &mut |level, line| lines.push((level, line)));
            lines
        };
        assert!(lines(&EngineOptions { text_only: true, ..EngineOptions::default() }).is_empty());
        let options = EngineOptions { context_length: 64, weights: Type::Q8, ..EngineOptions::default() };
        let all = lines(&options);
        let told = |name| all.iter().any(|(level, line)| *level == LogLevel::Warn && line.contains(name));
        assert!(all.len() == 2 && told("option weights ") && told("option context_length "), "{all:?}");
    }

    #[test]
    fn pages_are_written_as_long_as_there_is_memory() {
        let left = Cell::new(limits::TOUCH_SPARE_BYTES + 250);
        let available = || {
            left.set(left.get() - 100);
            Some(Available { bytes: left.get(), bound: Bound::ControlGroup })
        };
        let asked = Cell::new(0);
        let mut go_on = || {
            asked.set(asked.get() + 1);
            asked.get() < 4
        };
        let mut touching = Touching { total: 1000, written: 0, available: &available, go_on: &mut go_on };
        touching.may(100).unwrap();
        let error = touching.may(100).unwrap_err();
        assert_eq!((error.status, error.unit, error.needed), (Status::Memory, Unit::Bytes, 900));
        assert_eq!(error.available, limits::TOUCH_SPARE_BYTES + 50);
        assert!(error.message.contains("100 of them were written") && error.message.contains("control group"));
        left.set(u64::MAX);
        touching.may(100).unwrap();
        assert_eq!(touching.may(100).unwrap_err().status, Status::Aborted);
    }

    #[test]
    fn processors_are_told_by_number() {
        assert_eq!(processors(0b1011), "processors 0, 1, 3");
        assert_eq!(processors(1 << 63), "processor 63");
    }
}
