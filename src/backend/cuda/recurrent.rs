//! Operations on states: launch parameters.

use super::attention::HeadsArg;
use super::kernels::{Shape, arg};
use super::state::CudaBackend;
use crate::backend::{Conv, Heads, Recurrence, StatePart};
use crate::error::{Error, Result};

/// Most elements of a key, and tokens that an output of a convolution sees. Must match `kernels/recurrent.cu`.
const K_DIM_MAX: usize = 256;
const KERNEL_MAX: usize = 64;
/// Columns of a state that a block has.
const COLUMNS: usize = 32;

/// Must match `States` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct StatesArg {
    runs: u64,
    tables: u64,
    starts: u64,
    first: u64,
    frame: i64,
}

/// Must match `Conv` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct ConvArg {
    x: HeadsArg,
    before: HeadsArg,
    after: HeadsArg,
    out: HeadsArg,
    weight: u64,
    bias: u64,
    channels: i32,
    kernel: i32,
    silu: i32,
    states: StatesArg,
}

/// Must match `Recurrence` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct RecurrenceArg {
    q: HeadsArg,
    k: HeadsArg,
    v: HeadsArg,
    out: HeadsArg,
    steps: HeadsArg,
    parts: HeadsArg,
    step_bias: u64,
    decay: u64,
    skip: u64,
    q_scale: f32,
    k_scale: f32,
    step_least: f32,
    step_most: f32,
    decay_is_log: i32,
    tiled: i32,
    states: StatesArg,
}

/// Checks that there are kernels for keys of so many elements and convolutions over so many tokens.
///
/// # Errors
/// `Unsupported`.
pub fn check(k_dim: usize, kernel: usize) -> Result<()> {
    if k_dim <= K_DIM_MAX && kernel <= KERNEL_MAX {
        return Ok(());
    }
    let message = format!(
        "the CUDA backend has kernels for recurrences with keys of up to {K_DIM_MAX} elements and convolutions over up to \
         {KERNEL_MAX} tokens, the model has {k_dim} and {kernel}; choose the device cpu"
    );
    Err(Error::unsupported(message).about("device"))
}

impl CudaBackend {
    /// `elements` of the states, from the first of `part` on.
    fn states_arg(&self, part: StatePart, elements: usize) -> StatesArg {
        let group = &self.groups[part.pages.0 as usize];
        let shape = group.shape;
        assert!(part.layer < shape.layers && part.first + elements <= shape.k_dim, "{elements} elements at {part:?}");
        let (tables, starts) = self.inputs().tables(part.pages.0 as usize);
        StatesArg {
            runs: self.inputs().runs(),
            tables,
            starts,
            first: group.buffer.address + (part.layer * shape.k_dim + part.first) as u64 * 4,
            frame: (shape.layers * shape.k_dim) as i64,
        }
    }

    /// See [`crate::backend::Operations::conv`].
    pub(super) fn convolve(&mut self, conv: &Conv) {
        let (rows, channels, kernel) = (self.inputs().rows, conv.x.heads * conv.x.dim, conv.kernel);
        if rows == 0 {
            return;
        }
        assert!(kernel <= KERNEL_MAX && conv.weight.in_features == channels * kernel);
        let heads = |heads: Option<Heads>| heads.map_or_else(HeadsArg::default, |heads| self.heads_arg(heads, rows));
        let args = ConvArg {
            x: heads(Some(conv.x)),
            before: heads(conv.before),
            after: heads(conv.after),
            out: heads(Some(conv.out)),
            weight: self.vector(conv.weight),
            bias: conv.bias.map_or(0, |bias| self.vector(bias)),
            channels: channels as i32,
            kernel: kernel as i32,
            silu: i32::from(conv.silu),
            states: self.states_arg(conv.state, (kernel - 1) * channels),
        };
        let shape = Shape { grid: [self.inputs().runs, channels.div_ceil(128), 1], block: 128, shared: 0 };
        // SAFETY: the one parameter of the kernel; all places were checked, and tables name frames of the group.
        unsafe { self.submit(self.kernels.conv_rows, shape, &mut [arg(&args)]) };
        self.wrote(conv.out.tensor);
    }

    /// See [`crate::backend::Operations::recurrence`].
    pub(super) fn recur(&mut self, r: &Recurrence) {
        let (rows, k_dim, v_dim) = (self.inputs().rows, r.k.dim, r.v.dim);
        if rows == 0 {
            return;
        }
        assert!(k_dim <= K_DIM_MAX && r.q.dim == k_dim && r.v.heads.is_multiple_of(r.k.heads));
        let args = RecurrenceArg {
            q: self.heads_arg(r.q, rows),
            k: self.heads_arg(r.k, rows),
            v: self.heads_arg(r.v, rows),
            out: self.heads_arg(r.out, rows),
            steps: self.heads_arg(r.steps, rows),
            parts: r.parts.map_or_else(HeadsArg::default, |heads| self.heads_arg(heads, rows)),
            step_bias: self.vector(r.step_bias),
            decay: self.vector(r.decay),
            skip: r.skip.map_or(0, |skip| self.vector(skip)),
            q_scale: r.q_scale,
            k_scale: r.k_scale,
            step_least: r.step_range[0],
            step_most: r.step_range[1],
            decay_is_log: i32::from(r.decay_is_log),
            tiled: i32::from(r.tiled),
            states: self.states_arg(r.state, r.v.heads * k_dim * v_dim),
        };
        let shape = Shape {
            grid: [self.inputs().runs, r.v.heads, v_dim.div_ceil(COLUMNS)],
            block: 128,
            shared: (34 * k_dim + 256) * 4,
        };
        // SAFETY: as above.
        unsafe { self.submit(self.kernels.recurrence_rows, shape, &mut [arg(&args)]) };
        self.wrote(r.out.tensor);
    }
}
