//! Making quantized weights, by all threads of the pool.

use super::kernels::Elements;
use super::{CpuBackend, Shared, TASKS_PER_THREAD};
use crate::dtype::DType;
use crate::encoding::{PANEL, Scheme};
use crate::error::{Error, Result};

impl CpuBackend {
    /// See [`crate::backend::Backend::quantize`].
    pub(super) fn quantize_panels(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        [outs, ins]: [usize; 2],
        scheme: Scheme,
        to: &mut [u8],
    ) -> Result<()> {
        let wrong = || Error::internal(format!("{} bytes are no matrix of {outs} x {ins} {dtype}", bytes.len()));
        let from = Elements::new(bytes, dtype).filter(|all| all.len() == outs * ins).ok_or_else(wrong)?;
        if scheme.bytes(outs, ins) != Some(to.len()) {
            let expected = scheme.bytes(outs, ins);
            return Err(Error::internal(format!("panels of {} bytes, expected {expected:?}", to.len())));
        }
        let (bytes, panels) = (scheme.panel_bytes(ins), outs.div_ceil(PANEL));
        let all = Shared(to.as_mut_ptr());
        // As many tasks as even out the threads' speeds.
        let step = panels.div_ceil((self.pool.threads() * TASKS_PER_THREAD).min(panels).max(1)).max(1);
        self.ranges(panels.div_ceil(step), 1, usize::MAX >> 24, &|range, local| {
            for panel in range.start * step..panels.min(range.end * step) {
                let rows = panel * PANEL..outs.min((panel + 1) * PANEL);
                local.clear();
                local.extend((rows.start * ins..rows.end * ins).map(|i| from.get(i)));
                // SAFETY: there are `panels` panels, and this one is this task's.
                scheme.quantize(local, ins, unsafe { all.slice(panel * bytes..(panel + 1) * bytes) });
            }
        });
        Ok(())
    }
}
