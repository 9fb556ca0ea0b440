//! Quantization of the weights of a model while it loads, on threads of its own.

use super::{PANEL, Scheme, widen};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::os::floats;
use crate::os::pool::Pool;
use crate::os::simd;
use crate::os::thread::{ThreadOptions, physical_cores};
use std::sync::{Mutex, PoisonError};

/// Tasks for each thread: enough to balance threads of different speeds.
const TASKS_PER_THREAD: usize = 4;

/// Threads that quantize, and the floats that each works on.
pub struct Quantizer {
    pool: Pool,
    rows: Vec<Mutex<Vec<f32>>>,
}

impl Quantizer {
    /// A quantizer with `threads` threads (0 = one per physical core), the caller of [`Quantizer::quantize`] being one of
    /// them.
    ///
    /// # Errors
    /// `Memory`; `Internal` when a thread cannot be started.
    pub fn new(threads: usize, options: ThreadOptions) -> Result<Quantizer> {
        let pool = Pool::new(if threads == 0 { physical_cores() } else { threads }, options)?;
        let rows = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Ok(Quantizer { pool, rows })
    }

    /// Quantizes the matrix `[out_features, in_features]`, stored row by row in `bytes`, into `panels`. The result is the
    /// same on every machine and may be kept in a file. A large matrix may be quantized in pieces of whole panels.
    ///
    /// # Errors
    /// `Memory`; `Internal` when `bytes` or `panels` have not the size of the matrix, or no kernel reads the type.
    pub fn quantize(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        [out_features, in_features]: [usize; 2],
        scheme: Scheme,
        panels: &mut [u8],
    ) -> Result<()> {
        let row_bytes = dtype.bytes(in_features).unwrap_or(0);
        let size = out_features.checked_mul(row_bytes);
        if size != Some(bytes.len()) || !dtype.is_weight() {
            let message = format!("{} bytes are no matrix of {out_features} x {in_features} {dtype}", bytes.len());
            return Err(Error::internal(message));
        }
        let expected = scheme.bytes(out_features, in_features);
        if expected != Some(panels.len()) {
            return Err(Error::internal(format!("panels of {} bytes, expected {expected:?}", panels.len())));
        }
        if panels.is_empty() {
            return Ok(());
        }
        for rows in &mut self.rows {
            let (rows, count) = (rows.get_mut().unwrap_or_else(PoisonError::into_inner), PANEL * in_features);
            rows.clear();
            rows.try_reserve_exact(count).map_err(|_| Error::memory("rows to quantize", count as u64 * 4))?;
            rows.resize(count, 0.0);
        }
        let (panel_bytes, all, own) = (scheme.panel_bytes(in_features), out_features.div_ceil(PANEL), &self.rows);
        let panels_each = all.div_ceil(self.pool.threads() * TASKS_PER_THREAD);
        // The calling thread belongs to the host and takes part with the default floating-point environment, whatever
        // the host has set.
        floats::with_default(|| {
            self.pool.run_parts(panels, panels_each * panel_bytes, &|index, part, thread| {
                let mut rows = own[thread].lock().unwrap_or_else(PoisonError::into_inner);
                let first = index * panels_each;
                for (panel, to) in (first..).zip(part.chunks_exact_mut(panel_bytes)) {
                    let outs = panel * PANEL..out_features.min((panel + 1) * PANEL);
                    let (from, rows) =
                        (&bytes[outs.start * row_bytes..outs.end * row_bytes], &mut rows[..outs.len() * in_features]);
                    simd::with_avx2(
                        #[inline(always)]
                        || {
                            widen(dtype, from, in_features, rows);
                            scheme.quantize(rows, in_features, to);
                        },
                    );
                }
            });
        });
        Ok(())
    }
}
