//! C options to the engine's, and the engine's facts to C: numbers to enums, sentinels to `None`, callbacks to
//! closures. What a value means is the engine's affair; here it is only whether it can be said in its types.

use super::guard;
use super::input::{self, CallerStruct, zeroed};
use super::types::*;
use super::user_data::UserData;
use crate::engine::{
    CpuTier, Delivery, Device, EngineOptions, LogFn, LogLevel, MemoryPlan, ProgressFn, RequestOptions, Speculation,
    Stats, TextOptions, Type, Usage, WakeFn,
};
use crate::error::{Error, Result};
use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::sync::Arc;

// SAFETY: repr(C), `struct_size` first, integers, nullable function pointers and raw pointers.
unsafe impl CallerStruct for astrai_engine_options {
    const NAME: &'static str = "astrai_engine_options";
    const SIZES: &'static [usize] = &[
        offset_of!(astrai_engine_options, user_data) + size_of::<usize>(),
        offset_of!(astrai_engine_options, weights_cache) + size_of::<usize>(),
        offset_of!(astrai_engine_options, draft_model),
        size_of::<Self>(),
    ];
    fn defaults() -> Self {
        astrai_engine_options { invariant: 1, ..zeroed() }
    }
}

// SAFETY: repr(C), `struct_size` first, integers, floats and raw pointers.
unsafe impl CallerStruct for astrai_request_options {
    const NAME: &'static str = "astrai_request_options";
    const SIZES: &'static [usize] = &[offset_of!(astrai_request_options, reasoning_tokens), size_of::<Self>()];
    fn defaults() -> Self {
        astrai_request_options {
            max_tokens: -1,
            top_k: -1,
            logprobs: -1,
            temperature: f32::NAN,
            top_p: f32::NAN,
            min_p: f32::NAN,
            repetition_penalty: f32::NAN,
            presence_penalty: f32::NAN,
            frequency_penalty: f32::NAN,
            reasoning_tokens: -1,
            xtc_probability: f32::NAN,
            xtc_threshold: f32::NAN,
            dry_multiplier: f32::NAN,
            dry_base: f32::NAN,
            dry_allowed_length: -1,
            dry_penalty_last_n: -1,
            draft_tokens: -1,
            ..zeroed()
        }
    }
}

// SAFETY: repr(C), `struct_size` first, integers and raw pointers.
unsafe impl CallerStruct for astrai_server_options {
    const NAME: &'static str = "astrai_server_options";
    fn defaults() -> Self {
        astrai_server_options { priority: -1, ..zeroed() }
    }
}

// SAFETY: repr(C), `struct_size` first, integers and raw pointers.
unsafe impl CallerStruct for astrai_info {
    const NAME: &'static str = "astrai_info";
    const SIZES: &'static [usize] = &[offset_of!(astrai_info, answer_format), size_of::<Self>()];
}

// SAFETY: repr(C), `struct_size` first, integers and raw pointers.
unsafe impl CallerStruct for astrai_part {
    const NAME: &'static str = "astrai_part";
}

// SAFETY: repr(C), `struct_size` first, integers.
unsafe impl CallerStruct for astrai_stats {
    const NAME: &'static str = "astrai_stats";
    const SIZES: &'static [usize] = &[offset_of!(astrai_stats, drafted_tokens), size_of::<Self>()];
}

// SAFETY: repr(C), `struct_size` first, integers.
unsafe impl CallerStruct for astrai_plan {
    const NAME: &'static str = "astrai_plan";
    const SIZES: &'static [usize] =
        &[offset_of!(astrai_plan, constraint_bytes), offset_of!(astrai_plan, state_bytes), size_of::<Self>()];
}

/// The engine's options. The callbacks get `user_data` as long as its owner, the engine's handle, has it.
pub(super) fn engine(o: &astrai_engine_options, user_data: &Arc<UserData>) -> Result<EngineOptions> {
    let known = ASTRAI_ENGINE_NO_MMAP
        | ASTRAI_ENGINE_TEXT_ONLY
        | ASTRAI_ENGINE_GPU_LOW_PRIORITY
        | ASTRAI_ENGINE_GPU_BLOCKING_WAIT
        | ASTRAI_ENGINE_TOUCH_KV
        | ASTRAI_ENGINE_CONSTRAINTS;
    input::flags(o.flags, known, "astrai_engine_options.flags")?;
    let sources = ASTRAI_SPECULATE_OWN_TEXT | ASTRAI_SPECULATE_SHARED_TEXTS;
    input::flags(o.speculation, sources, "astrai_engine_options.speculation")?;
    let delivery = named(o.delivery, &[Delivery::Thread, Delivery::Poll], "delivery")?;
    if o.wake.is_some() && delivery != Delivery::Poll {
        return Err(Error::argument("wake is set without ASTRAI_DELIVER_POLL; nothing would call it").about("wake"));
    }
    let weights_cache = match o.weights_cache.is_null() {
        true => None,
        // SAFETY: NUL-terminated, by the contract of astrai_engine_open and astrai_engine_plan.
        false => Some(unsafe { input::c_string(o.weights_cache, "weights_cache") }?.into()),
    };
    let draft_model = match o.draft_model.is_null() {
        true => None,
        // SAFETY: NUL-terminated, by the contract of astrai_engine_open and astrai_engine_plan.
        false => Some(unsafe { input::c_string(o.draft_model, "draft_model") }?.into()),
    };
    Ok(EngineOptions {
        no_mmap: o.flags & ASTRAI_ENGINE_NO_MMAP != 0,
        text_only: o.flags & ASTRAI_ENGINE_TEXT_ONLY != 0,
        constraints: o.flags & ASTRAI_ENGINE_CONSTRAINTS != 0,
        touch_kv: o.flags & ASTRAI_ENGINE_TOUCH_KV != 0,
        device: named(o.device, &Device::ALL, "device")?,
        device_index: o.device_index,
        invariant: named(o.invariant, &[false, true], "invariant")?,
        gpu_low_priority: o.flags & ASTRAI_ENGINE_GPU_LOW_PRIORITY != 0,
        gpu_blocking_wait: o.flags & ASTRAI_ENGINE_GPU_BLOCKING_WAIT != 0,
        cpu_tier: named(o.cpu_tier, &TIERS, "cpu_tier")?,
        compute: named(o.compute, &TYPES, "compute")?,
        weights: named(o.weights, &TYPES, "weights")?,
        weights_cache,
        kv: named(o.kv, &TYPES, "kv")?,
        delivery,
        log_level: log_level(o.log_level)?,
        thread_priority: o.thread_priority,
        threads: o.threads,
        max_running: o.max_running,
        max_waiting: o.max_waiting,
        context_length: o.context_length,
        page_tokens: o.page_tokens,
        step_tokens: o.step_tokens,
        duty_work_us: o.duty_work_us,
        duty_interval_us: o.duty_interval_us,
        memory_budget: o.memory_budget,
        affinity_mask: o.affinity_mask,
        speculation: Speculation {
            own_text: o.speculation & ASTRAI_SPECULATE_OWN_TEXT != 0,
            shared_texts: o.speculation & ASTRAI_SPECULATE_SHARED_TEXTS != 0,
            draft_tokens: o.draft_tokens,
            always: false,
        },
        schedule_fn: None,
        draft_model,
        draft_fn: None,
        probe_fn: None,
        progress: progress(o.progress, user_data),
        log: log(o.log, user_data),
        wake: wake(o.wake, user_data),
        trace: None,
    })
}

/// Each list is in the order of the values in the header, as is [`Device::ALL`].
const TYPES: [Type; 6] = [Type::Auto, Type::F32, Type::Bf16, Type::Q8, Type::Q4, Type::Q5];
const TIERS: [CpuTier; 7] =
    [CpuTier::Auto, CpuTier::Reference, CpuTier::Portable, CpuTier::Neon, CpuTier::Avx2, CpuTier::Avx512, CpuTier::Amx];
const LOG_LEVELS: [LogLevel; 5] = [LogLevel::Off, LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];

fn named<T: Copy>(value: i32, values: &[T], field: &'static str) -> Result<T> {
    usize::try_from(value)
        .ok()
        .and_then(|index| values.get(index).copied())
        .ok_or_else(|| bad(field, value, format!("0 to {}", values.len().saturating_sub(1))))
}

/// The number of `value` in the header.
fn number<T: PartialEq>(value: T, values: &[T]) -> i32 {
    values.iter().position(|v| *v == value).and_then(|index| i32::try_from(index).ok()).unwrap_or(0)
}

/// A log level by its number.
pub(super) fn log_level(level: i32) -> Result<LogLevel> {
    named(level, &LOG_LEVELS, "log_level")
}

fn bad(field: &'static str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
    Error::argument(format!("{field} is {found}; expected {expected}")).about(field)
}

fn progress(progress: astrai_progress_fn, user_data: &Arc<UserData>) -> Option<ProgressFn> {
    let progress = progress?;
    let user_data = Arc::downgrade(user_data);
    Some(Box::new(move |done, total| {
        let Some(user_data) = user_data.upgrade() else { return false };
        // SAFETY: a function of the declared type, by the contract of astrai_engine_open.
        guard::callback(|| unsafe { progress(user_data.pointer(), done, total) }) == 0
    }))
}

fn log(log: astrai_log_fn, user_data: &Arc<UserData>) -> Option<LogFn> {
    let log = log?;
    let user_data = Arc::downgrade(user_data);
    Some(Arc::new(move |level, line| {
        // Requests may outlive the engine's handle; what they log after it has nowhere to go.
        let Some(user_data) = user_data.upgrade() else { return };
        let mut text = Vec::with_capacity(line.len() + 1);
        text.extend_from_slice(line.as_bytes());
        text.push(0);
        let start = text.as_ptr().cast::<c_char>();
        // SAFETY: a function of the declared type, by the contract of astrai_engine_open; the text outlives the call.
        guard::callback(|| unsafe { log(user_data.pointer(), level as i32, start, line.len()) });
    }))
}

fn wake(wake: astrai_wake_fn, user_data: &Arc<UserData>) -> Option<WakeFn> {
    let wake = wake?;
    let user_data = Arc::downgrade(user_data);
    Some(Arc::new(move || {
        let Some(user_data) = user_data.upgrade() else { return };
        // SAFETY: a function of the declared type, by the contract of astrai_engine_open.
        guard::callback(|| unsafe { wake(user_data.pointer()) });
    }))
}

/// The engine's options of one request. Whether it is ASTRAI_REQUEST_TO_ENGINE shows in its sink.
pub(super) fn request(o: &astrai_request_options) -> Result<RequestOptions> {
    let known = ASTRAI_REQUEST_SEEDED
        | ASTRAI_REQUEST_IGNORE_EOS
        | ASTRAI_REQUEST_PROMPT_LOGPROBS
        | ASTRAI_REQUEST_DEFER
        | ASTRAI_REQUEST_TO_ENGINE
        | ASTRAI_REQUEST_SPECIAL
        | ASTRAI_REQUEST_RAW_TEXT
        | ASTRAI_REQUEST_HOST_LOGITS
        | ASTRAI_REQUEST_EMBED;
    input::flags(o.flags, known, "astrai_request_options.flags")?;
    Ok(RequestOptions {
        draft_tokens: count(o.draft_tokens, "draft_tokens")?,
        host_logits: o.flags & ASTRAI_REQUEST_HOST_LOGITS != 0,
        embed: o.flags & ASTRAI_REQUEST_EMBED != 0,
        raw_text: o.flags & ASTRAI_REQUEST_RAW_TEXT != 0,
        tag: o.tag,
        defer: o.flags & ASTRAI_REQUEST_DEFER != 0,
        seed: (o.flags & ASTRAI_REQUEST_SEEDED != 0).then_some(o.seed),
        ignore_eos: o.flags & ASTRAI_REQUEST_IGNORE_EOS != 0,
        special: o.flags & ASTRAI_REQUEST_SPECIAL != 0,
        mid_text: false,
        prompt_logprobs: o.flags & ASTRAI_REQUEST_PROMPT_LOGPROBS != 0,
        max_tokens: count(o.max_tokens, "max_tokens")?,
        top_k: count(o.top_k, "top_k")?,
        priority: o.priority,
        logprobs: count(o.logprobs, "logprobs")?,
        deadline_ms: o.deadline_ms,
        reasoning_tokens: count(o.reasoning_tokens, "reasoning_tokens")?,
        queue_tokens: o.queue_tokens,
        temperature: real(o.temperature),
        top_p: real(o.top_p),
        min_p: real(o.min_p),
        repetition_penalty: real(o.repetition_penalty),
        presence_penalty: real(o.presence_penalty),
        frequency_penalty: real(o.frequency_penalty),
        xtc_probability: real(o.xtc_probability),
        xtc_threshold: real(o.xtc_threshold),
        dry_multiplier: real(o.dry_multiplier),
        dry_base: real(o.dry_base),
        dry_allowed_length: count(o.dry_allowed_length, "dry_allowed_length")?,
        dry_penalty_last_n: Some(o.dry_penalty_last_n),
        settings: None,
    })
}

/// -1 is the model's default.
fn count(value: i32, field: &'static str) -> Result<Option<u32>> {
    match value {
        -1 => Ok(None),
        _ => u32::try_from(value).map(Some).map_err(|_| bad(field, value, "0 or more, or -1 for the default")),
    }
}

/// NaN is the model's default.
fn real(value: f32) -> Option<f32> {
    (!value.is_nan()).then_some(value)
}

/// Flags of the text functions.
pub(super) fn text(flags: u32, known: u32) -> Result<TextOptions> {
    input::flags(flags, known, "flags")?;
    Ok(TextOptions {
        special: flags & ASTRAI_TEXT_SPECIAL != 0,
        no_generation_prompt: flags & ASTRAI_TEXT_NO_GENERATION_PROMPT != 0,
        exact: false,
    })
}

/// What astrai_engine_info reports; the strings are the caller's to keep alive.
pub(super) fn info(
    info: &crate::engine::Info,
    [model_type, device_name, answer_format]: [*const c_char; 3],
) -> astrai_info {
    let token = |id: Option<u32>| id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
    astrai_info {
        struct_size: size_of::<astrai_info>() as u32,
        vocab_size: info.vocab_size,
        context_length: info.context_length,
        layers: info.layers,
        device: number(info.device, &Device::ALL),
        cpu_tier: number(info.cpu_tier, &TIERS),
        compute: number(info.compute, &TYPES),
        bos_token: token(info.bos_token),
        eos_token: token(info.eos_token),
        has_chat_template: i32::from(info.has_chat_template),
        model_type,
        device_name,
        answer_format,
    }
}

/// A struct of C: its size, the fields given, and those that the engine's struct has by the same names and types.
macro_rules! reported {
    ($c:ident { $($given:ident: $value:expr),* } from $engine:ident: $($field:ident)*) => {
        $c { struct_size: size_of::<$c>() as u32, $($given: $value,)* $($field: $engine.$field,)* }
    };
}

/// What astrai_engine_stats reports.
pub(super) fn stats(stats: &Stats) -> astrai_stats {
    reported! {
        astrai_stats {} from stats:
        running waiting stalled pages_used pages_cached pages_free prefix_tokens_seen prefix_tokens_hit preemptions
        evictions tokens_in tokens_out finished cancelled failed steps cleanup_us refill_us prefill_us decode_us queue_us
        log_dropped drafted_tokens accepted_tokens saved_us
    }
}

/// What astrai_engine_plan reports.
pub(super) fn plan(plan: &MemoryPlan) -> astrai_plan {
    reported! {
        astrai_plan { fits: u32::from(plan.fits) } from plan:
        context_length max_sequences weight_bytes kv_bytes workspace_bytes total_bytes available_bytes kv_tokens
        kv_bytes_per_token constraint_bytes state_bytes
    }
}

/// The usage that an event reports; zeros when it has none.
pub(super) fn usage(usage: Option<&Usage>) -> astrai_usage {
    let usage = usage.copied().unwrap_or_default();
    reported! {
        astrai_usage {} from usage:
        prompt_tokens cached_tokens generated_tokens preemptions reasoning_tokens seed queue_us first_token_us prefill_us decode_us total_us
        drafted_tokens accepted_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn structs_only_grew() {
        fn check<T: CallerStruct>() {
            assert!(T::SIZES.is_sorted_by(|a, b| a < b), "{}: {:?}", T::NAME, T::SIZES);
            assert_eq!(T::SIZES.last(), Some(&size_of::<T>()), "{}: add the size it has now", T::NAME);
        }
        check::<astrai_engine_options>();
        check::<astrai_request_options>();
        check::<astrai_info>();
        check::<astrai_part>();
        check::<astrai_stats>();
        check::<astrai_plan>();
        check::<astrai_server_options>();
    }

    #[test]
    fn request_defaults_leave_everything_to_the_model() {
        let o = request(&astrai_request_options::defaults()).unwrap();
        assert_eq!((o.seed, o.max_tokens, o.top_k, o.logprobs), (None, None, None, None));
        assert_eq!((o.temperature, o.top_p, o.min_p), (None, None, None));
        assert_eq!((o.repetition_penalty, o.presence_penalty, o.frequency_penalty), (None, None, None));
        assert!(!o.ignore_eos && !o.prompt_logprobs);
    }

    #[test]
    fn request_values_and_flags_cross() {
        let mut c = astrai_request_options::defaults();
        c.flags = ASTRAI_REQUEST_SEEDED | ASTRAI_REQUEST_IGNORE_EOS | ASTRAI_REQUEST_PROMPT_LOGPROBS;
        assert!(!request(&c).unwrap().defer);
        c.flags |= ASTRAI_REQUEST_DEFER;
        (c.seed, c.tag, c.max_tokens, c.logprobs, c.priority) = (0, 3, 0, 5, -2);
        (c.temperature, c.top_p) = (0.0, 0.5);
        let o = request(&c).unwrap();
        assert_eq!((o.seed, o.tag, o.max_tokens, o.logprobs, o.priority), (Some(0), 3, Some(0), Some(5), -2));
        assert_eq!((o.temperature, o.top_p, o.min_p), (Some(0.0), Some(0.5), None));
        assert!(o.ignore_eos && o.prompt_logprobs && o.defer && !o.special);
        c.flags = ASTRAI_REQUEST_SPECIAL;
        assert!(request(&c).unwrap().special);
        assert!(!request(&c).unwrap().embed);
        c.flags = ASTRAI_REQUEST_EMBED;
        assert!(request(&c).unwrap().embed);
    }

    #[test]
    fn unknown_flags_and_values_out_of_range_are_errors() {
        let mut c = astrai_request_options::defaults();
        c.flags = 1 << 30;
        assert_eq!(request(&c).unwrap_err().status, Status::Argument);
        c.flags = 0;
        c.max_tokens = -2;
        assert_eq!(request(&c).unwrap_err().subject, "max_tokens");
    }

    #[test]
    fn engine_numbers_cross_and_unknown_ones_are_errors() {
        let user_data = || Arc::new(UserData::new(std::ptr::null_mut(), None));
        let mut c = astrai_engine_options::defaults();
        (c.device, c.cpu_tier, c.compute, c.kv, c.log_level) = (1, 1, 1, 2, 4);
        c.flags = ASTRAI_ENGINE_TEXT_ONLY;
        let o = engine(&c, &user_data()).unwrap();
        assert_eq!((o.device, o.cpu_tier, o.compute, o.kv), (Device::Cpu, CpuTier::Reference, Type::F32, Type::Bf16));
        assert_eq!((o.log_level, o.text_only, o.no_mmap), (LogLevel::Debug, true, false));
        assert!(o.progress.is_none() && o.log.is_none());
        for (field, value) in [(0, 3), (1, 7), (2, 6), (3, 6), (4, 6), (5, 2), (6, 5), (0, -1)] {
            let mut c = astrai_engine_options::defaults();
            *[
                &mut c.device,
                &mut c.cpu_tier,
                &mut c.compute,
                &mut c.weights,
                &mut c.kv,
                &mut c.delivery,
                &mut c.log_level,
            ][field] = value;
            assert_eq!(engine(&c, &user_data()).err().unwrap().status, Status::Argument, "field {field} = {value}");
        }
        (c.duty_work_us, c.duty_interval_us) = (1, 2);
        let o = engine(&c, &user_data()).unwrap();
        assert_eq!((o.duty_work_us, o.duty_interval_us), (1, 2));
    }
}
