//! Quantization of weights on the threads of the pool.

use super::kernels::Elements;
use super::{CpuBackend, Shared, TASKS_PER_THREAD};
use crate::dtype::DType;
use crate::encoding::{PANEL, Scheme};
use crate::error::{Error, Result};
use crate::os::floats;

impl CpuBackend {
    /// See [`crate::backend::Backend::quantize`].
    pub(super) fn quantize_panels(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        [out_features, in_features]: [usize; 2],
        scheme: Scheme,
        to: &mut [u8],
    ) -> Result<()> {
        let wrong = || {
            Error::internal(format!("{} bytes are no matrix of {out_features} x {in_features} {dtype}", bytes.len()))
        };
        let from =
            Elements::new(bytes, dtype).filter(|all| all.len() == out_features * in_features).ok_or_else(wrong)?;
        if scheme.bytes(out_features, in_features) != Some(to.len()) {
            let expected = scheme.bytes(out_features, in_features);
            return Err(Error::internal(format!("panels of {} bytes, expected {expected:?}", to.len())));
        }
        self.reserve_threads(PANEL * in_features)?;
        let (bytes, panels) = (scheme.panel_bytes(in_features), out_features.div_ceil(PANEL));
        let all = Shared(to.as_mut_ptr());
        // Panels per task: a few tasks per thread, to balance threads of different speeds.
        let step = panels.div_ceil((self.pool.threads() * TASKS_PER_THREAD).min(panels).max(1)).max(1);
        // The calling thread belongs to the host and takes part with the default floating-point environment, whatever
        // the host has set.
        floats::with_default(|| {
            self.ranges(panels.div_ceil(step), 1, usize::MAX >> 24, &|range, local| {
                for panel in range.start * step..panels.min(range.end * step) {
                    let rows = panel * PANEL..out_features.min((panel + 1) * PANEL);
                    // SAFETY: there are `panels` panels, and no other task has this one.
                    let to = unsafe { all.slice(panel * bytes..(panel + 1) * bytes) };
                    quantize(
                        scheme,
                        from.slice(rows.start * in_features..rows.end * in_features),
                        in_features,
                        local,
                        to,
                    );
                }
            })
        });
        Ok(())
    }
}

/// Quantizes one panel, compiled for AVX2 where the processor has it. Every tier gives the same bytes, so the choice
/// depends on the processor alone.
fn quantize(scheme: Scheme, from: Elements, in_features: usize, local: &mut Vec<f32>, to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: just checked.
        return unsafe { quantize_avx2(scheme, from, in_features, local, to) };
    }
    quantize_plain(scheme, from, in_features, local, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantize_avx2(scheme: Scheme, from: Elements, in_features: usize, local: &mut Vec<f32>, to: &mut [u8]) {
    quantize_plain(scheme, from, in_features, local, to);
}

#[inline(always)]
fn quantize_plain(scheme: Scheme, from: Elements, in_features: usize, local: &mut Vec<f32>, to: &mut [u8]) {
    local.clear();
    match from {
        Elements::F32(from) => local.extend_from_slice(from),
        Elements::Bf16(from) => local.extend(from.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16))),
        Elements::F16(_) => local.extend((0..from.len()).map(|i| from.get(i))),
    }
    scheme.quantize(local, in_features, to);
}
