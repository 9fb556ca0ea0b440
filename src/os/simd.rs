//! Code compiled for wider instructions than those of the target, where the processor has them.

/// Runs `body` compiled for AVX2 where the processor has it. Only what is inlined into `body` gets the instructions; the
/// results are the same, since the compiler contracts and reorders nothing.
pub fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: just checked.
        return unsafe { compiled_for_avx2(body) };
    }
    body()
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn compiled_for_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}
