//! The CPU backend: buffers, weights used in place, and a thread pool that runs the kernels of one tier.
//!
//! Each operation splits its output among tasks, and a task writes only its own part, so the result does not depend on
//! how many threads there are or which of them runs a task. The kernels that tasks call come from the tier's function
//! table ([`kernels::Kernels`]); this file only splits the work and hands out slices.

#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod attention;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
mod best;
mod device;
mod elements;
mod experts;
pub mod head_products;
mod heads;
pub mod kernels;
pub mod kv;
pub mod linear;
mod memory;
#[cfg(target_arch = "aarch64")]
pub mod neon;
mod norm;
pub mod portable;
pub mod recurrent;
pub mod reference;
mod reserve;
mod rotary;
mod sampling;
#[cfg(target_arch = "x86_64")]
mod vector;

use super::*;
use crate::dtype::DType;
use crate::encoding::{Encoding, f8};
use crate::error::{Error, Result, Status};
use crate::os::pool::Pool;
use crate::os::thread::ThreadOptions;
use crate::sampling::{AllowedTokens, SamplingOutput};
pub use device::CpuDevice;
use kernels::{Elements, Kernels};
use kv::Group;
use linear::Matrix;
use memory::Buffer;
pub use reserve::scratch_bytes;
pub use sampling::TierPasses;
use std::cell::UnsafeCell;
use std::ops::Range;

/// Instruction set of the CPU kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// The fastest tier that this processor supports.
    #[default]
    Auto,
    /// Plain f32 loops: the specification that every other tier is tested against.
    Reference,
    /// Blocked loops that the compiler vectorizes for the baseline of the target.
    Portable,
    /// Arm NEON.
    Neon,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 with bf16 and VNNI.
    Avx512,
    /// Intel AMX. Opening a backend requests Linux's permission for the process, which cannot be revoked (`os::tiles`).
    Amx,
}

/// Precision of matrix products and attention, where a tier has a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// f32 inputs for weights stored as floats, and no rounding to bf16 in attention. Parity with other implementations
    /// is measured in this mode.
    F32,
    /// bf16 inputs for bf16 weights where the tier has instructions for them; f32 for other float weights.
    #[default]
    Bf16,
}

/// Multiply-adds per task below which work is not split further: handing a task to a thread costs about 2 µs.
const TASK_WORK_MIN: usize = 1 << 15;
/// Tasks per thread: enough to balance threads that run at different speeds.
const TASKS_PER_THREAD: usize = 4;
/// Elements per task of an element-wise operation.
const ELEMENTS_PER_TASK: usize = 1 << 13;

/// The tiers that this processor supports, slowest first.
pub fn tiers() -> Vec<Tier> {
    [Tier::Reference, Tier::Portable, Tier::Neon, Tier::Avx2, Tier::Avx512, Tier::Amx]
        .into_iter()
        .filter(|&t| kernels_of(t).is_some())
        .collect()
}

fn kernels_of(tier: Tier) -> Option<&'static Kernels> {
    match tier {
        Tier::Reference => Some(&reference::KERNELS),
        Tier::Portable => Some(&portable::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::present().then(avx2::kernels),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => avx512::present().then_some(&avx512::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Tier::Amx => amx::present().then_some(&amx::KERNELS),
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => Some(&neon::KERNELS),
        _ => None,
    }
}

/// The function table of a tier, after requesting permission where the tier needs it (AMX).
fn choose(tier: Tier) -> Result<&'static Kernels> {
    if tier == Tier::Auto {
        let fastest_first = tiers().into_iter().rev();
        return Ok(fastest_first.map(choose).find_map(Result::ok).unwrap_or(&portable::KERNELS));
    }
    let kernels = kernels_of(tier).ok_or_else(|| {
        let there = tiers();
        format!("cpu tier {tier:?} is not available on this processor or in this build; there are {there:?}")
    });
    #[cfg(target_arch = "x86_64")]
    let kernels = kernels.and_then(|kernels| match tier {
        Tier::Amx => amx::permit().map(|()| kernels).map_err(|error| {
            format!("the system refused this process the registers of AMX ({error}); Auto or Avx512 need none")
        }),
        _ => Ok(kernels),
    });
    kernels.map_err(|message| Error::new(Status::Unsupported, message).about("cpu_tier"))
}

#[derive(Clone)]
struct StoredWeight {
    bytes: HostBytes,
    encoding: Encoding,
    in_features: usize,
}

impl StoredWeight {
    fn matrix(&self) -> Matrix<'_> {
        let bytes = (*self.bytes).as_ref();
        match self.encoding {
            Encoding::Stored(DType::ScaledF8(group)) => {
                Matrix::F8(f8::Rows { bytes, in_features: self.in_features, group })
            }
            Encoding::Stored(DType::Blocks(format)) => Matrix::Blocks(format, bytes),
            Encoding::Stored(dtype) => {
                Matrix::Stored(Elements::new(bytes, dtype).expect("alignment was checked when the weight was made"))
            }
            Encoding::Quantized(scheme) => Matrix::Panels(scheme, bytes),
        }
    }

    /// The elements of a weight that is read element by element: a vector or an embedding table.
    fn elements(&self) -> Elements<'_> {
        match self.matrix() {
            Matrix::Stored(elements) => elements,
            Matrix::Panels(..) | Matrix::Blocks(..) | Matrix::F8(_) => {
                unreachable!("only matrices of products are quantized")
            }
        }
    }
}

/// Scratch memory of one pool thread. No two running tasks have the same thread.
struct Scratch(UnsafeCell<Vec<f32>>);

// SAFETY: element `i` of `CpuBackend::scratch` is used by pool thread `i` alone.
unsafe impl Sync for Scratch {}

/// A pointer through which tasks write disjoint parts of one allocation.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: tasks write disjoint elements; each use states which.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Pointer to the first element. A method, so that closures capture the whole `Shared` instead of its field.
    fn start(self) -> *mut T {
        self.0
    }

    /// # Safety
    /// The range lies within the allocation and is not written while the slice lives.
    unsafe fn read<'a>(self, range: Range<usize>) -> &'a [T] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts(self.0.add(range.start), range.len()) }
    }

    /// # Safety
    /// The range lies within the allocation and no other task accesses it while the slice lives.
    unsafe fn slice<'a>(self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// Work on a range of items, with the index and the scratch of the thread that runs it.
type RangeTask<'a> = &'a (dyn Fn(Range<usize>, usize, &mut Vec<f32>) + Sync);

/// The CPU as a [`Backend`].
pub struct CpuBackend {
    kernels: &'static Kernels,
    compute: Compute,
    pool: Pool,
    scratch: Vec<Scratch>,
    buffers: Vec<Buffer>,
    weights: Vec<StoredWeight>,
    groups: Vec<Group>,
    cut: attention::Cut,
    /// Candidate lists of [`best::Search`], kept between calls to reuse their memory.
    best: Vec<(f32, u32)>,
    routes: experts::Routes,
    /// The sequences of a step, for operations on states.
    runs: Vec<recurrent::Run>,
    sampling: sampling::SamplingState,
    /// The step being filled in or computed.
    step: Step,
    /// The input rows of a product, converted to the type that its kernel reads.
    converted: Option<Buffer>,
    /// Rows, gate and up outputs of one expert; its bytes are not those of a tensor that was asked for.
    expert_rows: Option<Tensor>,
    /// Bytes reserved by [`Memory::reserve`].
    reserved: u64,
}

/// Number of compute threads for a configured count of `threads` (0 = one per physical core).
pub fn threads_of(threads: usize) -> usize {
    if threads == 0 { crate::os::thread::physical_cores() } else { threads }
}

impl CpuBackend {
    /// A backend with `threads` threads (0 = one per physical core) on `tier`. Fails with `Unsupported` if the
    /// processor or the system does not provide the tier.
    pub fn new(tier: Tier, compute: Compute, threads: usize, options: ThreadOptions) -> Result<CpuBackend> {
        let kernels = choose(tier)?;
        let pool = Pool::new(threads_of(threads), options)?;
        let scratch = (0..pool.threads()).map(|_| Scratch(UnsafeCell::new(Vec::new()))).collect();
        Ok(CpuBackend {
            kernels,
            compute,
            pool,
            scratch,
            buffers: Vec::new(),
            weights: Vec::new(),
            groups: Vec::new(),
            cut: Default::default(),
            best: Vec::new(),
            routes: Default::default(),
            runs: Vec::new(),
            sampling: Default::default(),
            step: Step::default(),
            converted: None,
            expert_rows: None,
            reserved: 0,
        })
    }

    /// The tier in use.
    pub fn tier(&self) -> Tier {
        self.kernels.tier
    }

    /// Number of compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn floats(&self, t: Tensor, elements: usize) -> &[f32] {
        &self.buffers[t.buffer as usize].floats()[t.offset..t.offset + elements]
    }

    fn floats_mut(&mut self, t: Tensor, elements: usize) -> &mut [f32] {
        &mut self.buffers[t.buffer as usize].floats_mut()[t.offset..t.offset + elements]
    }

    /// A pointer to `elements` floats of `t`; panics if they are not inside its buffer.
    fn shared(&mut self, t: Tensor, elements: usize) -> Shared<f32> {
        Shared(self.floats_mut(t, elements).as_mut_ptr())
    }

    /// Runs `task(range)` over `0..count`, split into ranges that are multiples of `grain`, in parallel if there is
    /// enough work. `work` is the cost of one item in multiply-adds.
    fn ranges(&mut self, count: usize, grain: usize, work: usize, task: &(dyn Fn(Range<usize>, &mut Vec<f32>) + Sync)) {
        self.ranges_by_thread(count, grain, work, &|range, _, scratch| task(range, scratch));
    }

    /// As [`CpuBackend::ranges`]; the task also receives the index of its thread, which is unique among running tasks.
    fn ranges_by_thread(&mut self, count: usize, grain: usize, work: usize, task: RangeTask) {
        let total = count.saturating_mul(work);
        let tasks = (total / TASK_WORK_MIN).clamp(1, self.pool.threads() * TASKS_PER_THREAD);
        let tasks = if self.pool.threads() == 1 { 1 } else { tasks };
        let step = count.div_ceil(tasks).div_ceil(grain).max(1) * grain;
        let scratch = &self.scratch;
        self.pool.run(count.div_ceil(step), &|index, thread| {
            // SAFETY: `thread` is unique among running tasks, so no other task uses this scratch.
            let scratch = unsafe { &mut *scratch[thread].0.get() };
            task(index * step..count.min((index + 1) * step), thread, scratch);
        });
    }
}

impl Memory for CpuBackend {
    fn name(&self) -> String {
        format!("CPU, {:?}, {} threads", self.kernels.tier, self.pool.threads())
    }

    fn reserved(&self) -> Reserved {
        let sum = |buffers: &mut dyn Iterator<Item = usize>| buffers.map(|b| b as u64).sum();
        let own = self.expert_rows.map(|t| t.buffer as usize);
        let tensors = self.buffers.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        Reserved {
            weights: sum(&mut self.weights.iter().map(|w| (*w.bytes).as_ref().len())),
            kv: sum(&mut self.groups.iter().map(|g| g.buffer.bytes().len())),
            tensors: sum(&mut tensors.map(|(_, b)| b.bytes().len())),
            scratch: self.reserved,
        }
    }

    fn alloc(&mut self, elements: usize, what: &str) -> Result<Tensor> {
        let bytes = elements.checked_mul(4).ok_or_else(|| Error::memory(what, u64::MAX))?;
        self.buffers.push(Buffer::zeroed(bytes, what)?);
        Ok(Tensor { buffer: (self.buffers.len() - 1) as u32, offset: 0 })
    }

    fn reserve(&mut self, max_shape: &MaxBatchShape) -> Result<()> {
        self.reserve_scratch(max_shape)
    }

    fn weight(
        &mut self,
        bytes: HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight> {
        let wrong = |what: String| Err(Error::internal(format!("a weight of {out_features} x {in_features} {what}")));
        match encoding {
            Encoding::Stored(dtype @ (DType::Blocks(_) | DType::ScaledF8(_))) => {
                let (len, row) = ((*bytes).as_ref().len(), dtype.bytes(in_features));
                if row.and_then(|row| row.checked_mul(out_features)) != Some(len) {
                    return wrong(format!("in {dtype} has {len} bytes"));
                }
            }
            Encoding::Stored(dtype) => match Elements::new((*bytes).as_ref(), dtype) {
                None => return wrong(format!("{dtype} is not aligned")),
                Some(elements) if elements.len() != out_features * in_features => {
                    return wrong(format!("has {} elements", elements.len()));
                }
                Some(_) => {}
            },
            Encoding::Quantized(scheme) => {
                let (len, aligned) = ((*bytes).as_ref().len(), (*bytes).as_ref().as_ptr().align_offset(4) == 0);
                if scheme.bytes(out_features, in_features) != Some(len) || !aligned {
                    return wrong(format!(
                        "in {scheme:?} has {len} bytes, expected {:?}",
                        scheme.bytes(out_features, in_features)
                    ));
                }
            }
        }
        self.weights.push(StoredWeight { bytes, encoding, in_features });
        Ok(Weight { id: (self.weights.len() - 1) as u32, out_features, in_features })
    }

    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(self.floats(x, out.len()));
        Ok(())
    }

    fn rest(&mut self) {
        self.pool.rest();
    }
}

impl Cache for CpuBackend {
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages> {
        self.make_pages(shape)
    }

    fn touch_kv(&mut self, may: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        for piece in
            self.groups.iter_mut().flat_map(|g| g.buffer.bytes_mut().chunks_mut(crate::limits::TOUCH_PIECE_BYTES))
        {
            may(piece.len() as u64)?;
            piece.fill(0);
        }
        Ok(())
    }

    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()> {
        self.read_frame(pages, frame, out)
    }

    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()> {
        self.write_frame(pages, frame, bytes)
    }
}

impl Steps for CpuBackend {
    fn step(&mut self) -> &mut Step {
        &mut self.step
    }

    /// Nothing to do: the operations read the step where it was filled in.
    fn begin(&mut self) {}

    fn steps_in_flight(&self) -> usize {
        1
    }
}

impl Operations for CpuBackend {
    fn embed(&mut self, table: Weight, scale: f32, out: Tensor) {
        let width = table.in_features;
        let out = self.shared(out, self.step.tokens.len() * width);
        let table = self.weights[table.id as usize].matrix();
        for (row, &token) in self.step.tokens.iter().enumerate() {
            let token = token as usize;
            // SAFETY: the rows lie inside `out`, which was checked, and are written one after the other on this thread.
            let to = unsafe { out.slice(row * width..(row + 1) * width) };
            match table {
                Matrix::Stored(elements) => {
                    let from = elements.slice(token * width..(token + 1) * width);
                    to.iter_mut().enumerate().for_each(|(i, v)| *v = from.get(i));
                }
                other => other.widen_row(token, width, to),
            }
            if scale != 1.0 {
                to.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }

    fn rotary_angles(&mut self, inv_freq: &[f32], scale: f32, out: Tensor) {
        let positions = &self.step.positions;
        let out =
            &mut self.buffers[out.buffer as usize].floats_mut()[out.offset..][..positions.len() * 2 * inv_freq.len()];
        rotary::angles(positions, inv_freq, scale, out);
    }

    fn norm(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor) {
        self.norm_rows(x, norm, width, rows, out);
    }

    fn norm_heads(&mut self, x: Heads, norm: &Norm, rows: usize) {
        self.norm_each_head(x, norm, rows);
    }

    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        self.products(x, rows, group);
    }

    fn head_products(&mut self, products: &HeadProducts, rows: usize) {
        self.products_of_heads(products, rows);
    }

    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation) {
        self.gated_products(x, rows, gate, up, activation);
    }

    fn activate(&mut self, x: Tensor, activation: Activation, elements: usize) {
        let kernels = self.kernels;
        // SAFETY: the tier was checked by `new`.
        self.each_part(x, elements, &|x| unsafe { (kernels.activate)(x, activation) });
    }

    fn place_heads(&mut self, placement: &Placement) {
        self.with_step(|backend, step| backend.place_rows(placement, step.ragged(placement.pages.0 as usize)));
    }

    fn attention(&mut self, attention: Attention) {
        self.with_step(|backend, step| backend.attend(attention, step.ragged(attention.pages.0 as usize)));
    }

    fn scale_by_position(&mut self, x: Tensor, width: usize, scale: PositionScale) {
        self.with_step(|backend, step| {
            let x = backend.shared(x, step.positions.len() * width);
            for (row, &position) in step.positions.iter().enumerate() {
                let factor = 1.0 + scale.beta * (position as f32 / scale.period).floor().ln_1p();
                // SAFETY: inside the tensor, which was checked; no task is running.
                unsafe { x.slice(row * width..(row + 1) * width) }.iter_mut().for_each(|x| *x *= factor);
            }
        });
    }

    fn gate_mul(&mut self, x: Tensor, dim: usize, gate: Heads, gating: Gating, rows: usize) {
        self.multiply_gates(x, dim, gate, gating, rows);
    }

    fn conv(&mut self, conv: &Conv) {
        self.convolve(conv);
    }

    fn recurrence(&mut self, recurrence: &Recurrence) {
        self.recur(recurrence);
    }

    fn clear(&mut self, x: Tensor, elements: usize) {
        self.floats_mut(x, elements).fill(0.0);
    }

    fn scale(&mut self, x: Tensor, factor: f32, elements: usize) {
        self.each_part(x, elements, &|x| x.iter_mut().for_each(|x| *x *= factor));
    }

    fn softcap(&mut self, x: Tensor, cap: f32, elements: usize) {
        let kernels = self.kernels;
        // SAFETY: the tier was checked by `new`.
        self.each_part(x, elements, &|x| unsafe { (kernels.softcap)(x, cap) });
    }

    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize) {
        self.each_pair(x, y, elements, &|x, y| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
    }

    fn experts(&mut self, experts: Experts, rows: usize) {
        experts::run(self, experts, rows);
    }

    fn gather(&mut self, x: Tensor, first: usize, rows: usize, width: usize, out: Tensor) {
        self.with_step(|backend, step| backend.gather_rows(x, &step.logits_indices[first..first + rows], width, out));
    }
}

impl CpuBackend {
    /// Runs `body` with the step; meanwhile `self.step` is empty.
    fn with_step(&mut self, body: impl FnOnce(&mut CpuBackend, &Step)) {
        let step = std::mem::take(&mut self.step);
        body(self, &step);
        self.step = step;
    }

    /// `out[i] = x[rows[i]]`, rows of `width` elements.
    fn gather_rows(&mut self, x: Tensor, rows: &[u32], width: usize, out: Tensor) {
        for (i, &row) in rows.iter().enumerate() {
            let from = Shared(self.floats(x.at(row as usize * width), width).as_ptr().cast_mut());
            // SAFETY: source and target are distinct tensors, both checked; no task is running.
            self.floats_mut(out.at(i * width), width).copy_from_slice(unsafe { from.read(0..width) });
        }
    }
}

impl Sampling for CpuBackend {
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()> {
        self.sampling.set_mask(mask)
    }

    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, softcap: Option<f32>) {
        self.with_step(|backend, step| backend.sample_rows(x, rows, head, softcap, &step.sampling));
    }

    fn copy_out(&mut self) -> Ticket {
        Ticket(0)
    }

    fn wait_sampled(&mut self, _ticket: Ticket, to: &mut SamplingOutput) -> Result<()> {
        self.sampling.copy_to(to);
        Ok(())
    }
}
