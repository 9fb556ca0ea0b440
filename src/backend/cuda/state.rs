//! The state of the backend, and the lookup of device addresses for its operations.

use super::blaslt::{self, BlasLt};
use super::driver::Device;
use super::forms;
use super::graphs::Graphs;
use super::inputs::{self, Inputs};
use super::kernels::{Function, Kernels, Shape, arg, launch};
use super::memory::Buffer;
use super::sampling::{self, SamplingScratch};
use super::upload::{Arena, Uploader};
use crate::backend::cpu::Compute;
use crate::backend::cpu::kernels::Elements;
use crate::backend::cpu::linear::Matrix;
use crate::backend::device::DeviceOptions;
use crate::backend::{HostBytes, KvShape, MaxBatchShape, RandomWeight, Step, Tensor, Weight};
use crate::dtype::{BlockFormat, DType};
use crate::encoding::{Encoding, Scheme, f8};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::Arc;

/// Maximum bytes of partial results of split attention, unless one sequence needs more.
const PARTS_BYTES: usize = 64 << 20;
/// Number of product inputs kept in rounded form: a layer's normed rows, and the output of attention.
const ROUNDED_SLOTS: usize = 2;
/// Capacity for constants, in elements: the rotary frequencies of all kinds of layers.
const CONSTANTS: usize = 16 << 10;

/// The number format of a weight on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Bf16,
    F32,
    Q8,
    Q4,
    Blocks(BlockFormat),
}

/// A weight on the device.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub format: Format,
    /// Address of the matrix.
    pub matrix: u64,
    /// Address of the same as an f32 vector, if it has one row; otherwise 0.
    pub vector: u64,
}

/// The pages of a layer group. The buffer has one extra frame after the last, for the padding rows of decode steps.
pub struct Group {
    pub shape: KvShape,
    pub buffer: Buffer,
}

/// A product's input in the bf16 form that kernels read; `of` is the tensor it belongs to, with rows and width.
pub struct Rounded {
    pub buffer: Buffer,
    of: Option<(Tensor, usize, usize)>,
    used: u64,
}

/// Memory allocated by [`crate::backend::Memory::reserve`].
pub struct Scratch {
    pub rounded: [Rounded; ROUNDED_SLOTS],
    pub parts: Buffer,
    pub lists: ExpertLists,
    pub sampling: SamplingScratch,
    /// Rotary frequencies on the device, and their values on the host.
    pub constants: Buffer,
    pub constants_of: Vec<f32>,
    /// `[weights]`: the device address of every weight's matrix, by id; then those of vectors, 0 for a weight that is none.
    pub addresses: Buffer,
    /// Most rows of a step with one row of each sequence, all of them sampled.
    pub rows_max: usize,
    max_shape: MaxBatchShape,
}

/// Lists and activations of routed experts. An entry is a pair of a row and one of its experts.
pub struct ExpertLists {
    /// `[entries]`: the expert of each entry.
    pub chosen: Buffer,
    /// `[entries]`: the routing weight of each entry.
    pub weights: Buffer,
    /// `[experts]`: the number of entries of each expert.
    pub counts: Buffer,
    /// `[entries]`: the row of each slot, and the slot of each entry.
    pub rows: Buffer,
    pub of_entry: Buffer,
    /// `[tiles]`: slots processed by one block; and the number of tiles.
    pub tiles: Buffer,
    pub tile_count: Buffer,
    /// `[entries, inner]` each: outputs of the gate and up products.
    pub gate: Buffer,
    pub up: Buffer,
    /// `[entries, pitch(inner)]`: the rounded input of the down product.
    pub inner: Buffer,
    /// `[entries, hidden]`: the output of the down product.
    pub out: Buffer,
}

/// Sizes of the parts of [`Scratch`]; shared by the memory plan and the allocation.
struct ScratchSizes {
    rounded: usize,
    parts: usize,
    constants: usize,
    entries: usize,
    tiles: usize,
    experts: usize,
    inner: usize,
    hidden: usize,
}

impl ScratchSizes {
    fn of(l: &MaxBatchShape) -> ScratchSizes {
        let rows = l.rows.max(l.logits_rows);
        let row = (2 + l.v_dim).saturating_mul(4);
        let spans = l.positions.div_ceil(super::attention::SPAN_KEYS).max(1);
        let whole = l.rows.saturating_mul(l.heads).saturating_mul(spans).saturating_mul(row);
        let entries = l.rows.saturating_mul(l.chosen);
        ScratchSizes {
            rounded: rows.saturating_mul(forms::pitch(l.in_features)).saturating_mul(2),
            // Large enough at least for one sequence of maximum length.
            parts: whole.min(PARTS_BYTES.max(l.heads.saturating_mul(spans).saturating_mul(row))),
            constants: CONSTANTS * 4,
            entries,
            // The smallest tile has eight rows; each expert may have one partial tile.
            tiles: (entries / 8).saturating_add(l.experts),
            experts: l.experts,
            inner: l.expert_inner,
            hidden: if l.experts > 0 { l.hidden } else { 0 },
        }
    }

    fn bytes(&self) -> u64 {
        let lists = [
            (self.entries, 4 * 4),
            (self.experts, 4),
            (self.tiles, 12),
            (1, 4),
            (self.entries.saturating_mul(self.inner), 8),
            (self.entries.saturating_mul(forms::pitch(self.inner)), 2),
            (self.entries.saturating_mul(self.hidden), 4),
        ];
        let lists = lists.into_iter().map(|(count, bytes)| (count as u64).saturating_mul(bytes));
        let rest = [self.rounded * ROUNDED_SLOTS, self.parts, self.constants];
        rest.into_iter().map(|bytes| bytes as u64).chain(lists).fold(0, u64::saturating_add)
    }
}

/// Whether cuBLASLt may compute products.
fn wants_blas(options: &DeviceOptions) -> bool {
    !options.invariant && options.compute == Compute::Bf16
}

/// Device memory that [`crate::backend::Memory::reserve`] takes at most, in bytes.
pub fn scratch_bytes(options: &DeviceOptions, max_shape: &MaxBatchShape) -> u64 {
    let blas = if wants_blas(options) { blaslt::WORKSPACE_BYTES as u64 } else { 0 };
    let all = [ScratchSizes::of(max_shape).bytes(), inputs::bytes(max_shape), sampling::bytes(max_shape), blas];
    all.into_iter().fold(0, u64::saturating_add)
}

impl Scratch {
    fn new(device: &Arc<Device>, max_shape: &MaxBatchShape, weights: &[Stored], blocking: bool) -> Result<Scratch> {
        let s = ScratchSizes::of(max_shape);
        let what = "the workspace of a step";
        let bytes = |count: usize, each: usize| count.checked_mul(each).ok_or_else(|| Error::memory(what, u64::MAX));
        let buffer = |count: usize, each: usize| Buffer::zeroed(device, bytes(count, each)?, what);
        let rounded = || Ok(Rounded { buffer: buffer(s.rounded, 1)?, of: None, used: 0 });
        let addresses = buffer(weights.len(), 2 * 8)?;
        let (matrices, vectors) = (weights.iter().map(|w| w.matrix), weights.iter().map(|w| w.vector));
        let list: Vec<u8> = matrices.chain(vectors).flat_map(u64::to_ne_bytes).collect();
        addresses.write(0, &list)?;
        let entries_inner = bytes(s.entries, s.inner)?;
        Ok(Scratch {
            rounded: [rounded()?, rounded()?],
            parts: buffer(s.parts, 1)?,
            lists: ExpertLists {
                chosen: buffer(s.entries, 4)?,
                weights: buffer(s.entries, 4)?,
                counts: buffer(s.experts, 4)?,
                rows: buffer(s.entries, 4)?,
                of_entry: buffer(s.entries, 4)?,
                tiles: buffer(s.tiles, 12)?,
                tile_count: buffer(1, 4)?,
                gate: buffer(entries_inner, 4)?,
                up: buffer(entries_inner, 4)?,
                inner: buffer(bytes(s.entries, forms::pitch(s.inner))?, 2)?,
                out: buffer(bytes(s.entries, s.hidden)?, 4)?,
            },
            sampling: SamplingScratch::new(device, max_shape, blocking)?,
            constants: buffer(s.constants, 1)?,
            constants_of: crate::error::reserved(what, CONSTANTS)?,
            addresses,
            rows_max: max_shape.rows.min(max_shape.sequences).min(max_shape.logits_rows),
            max_shape: *max_shape,
        })
    }
}

/// An NVIDIA GPU as a [`Backend`](crate::backend::Backend).
pub struct CudaBackend {
    pub(super) options: DeviceOptions,
    pub(super) buffers: Vec<Buffer>,
    pub(super) weights: Vec<Stored>,
    pub(super) groups: Vec<Group>,
    arena: Arena,
    uploader: Option<Uploader>,
    /// The step being filled in or submitted.
    pub(super) step: Step,
    /// The step began with the requests of all its rows of logits.
    pub(super) asked_whole: bool,
    pub(super) inputs: Option<Inputs>,
    pub(super) scratch: Option<Scratch>,
    pub(super) graphs: Graphs,
    clock: u64,
    /// Computes large products, if the options allow it and cuBLASLt is installed.
    pub(super) blas: Option<BlasLt>,
    /// The first failure; it is kept, since a failed device does not recover.
    pub(super) failure: Option<Error>,
    pub(super) weight_bytes: u64,
    pub(super) tensor_bytes: u64,
    pub(super) kernels: Kernels,
    /// Declared last, to be dropped last: everything above lives on it.
    pub(super) device: Arc<Device>,
}

impl CudaBackend {
    /// Opens a device and loads the kernels. `weight_bytes` is the total of all weights to come.
    ///
    /// # Errors
    /// As for [`super::probe`]; `Memory`; `Device` when the kernels cannot be loaded.
    pub fn new(options: DeviceOptions, weight_bytes: u64, note: &mut dyn FnMut(String)) -> Result<CudaBackend> {
        let device = Device::open(options.index, options.low_priority, options.blocking_wait)?;
        let kernels = Kernels::load(&device)?;
        let blas = if wants_blas(&options) { BlasLt::open(&device).map_err(note).ok() } else { None };
        Ok(CudaBackend {
            options,
            buffers: Vec::new(),
            weights: Vec::new(),
            groups: Vec::new(),
            arena: Arena::new(weight_bytes),
            uploader: None,
            step: Step::default(),
            asked_whole: false,
            inputs: None,
            scratch: None,
            graphs: Graphs::default(),
            clock: 0,
            blas,
            failure: None,
            weight_bytes: 0,
            tensor_bytes: 0,
            kernels,
            device,
        })
    }

    /// Submits a kernel; does nothing after a failure.
    ///
    /// # Safety
    /// As for [`launch`].
    pub(super) unsafe fn submit(&mut self, function: Function, shape: Shape, params: &mut [*mut c_void]) {
        if self.failure.is_some() {
            return;
        }
        // SAFETY: the caller's promise.
        self.failure = unsafe { launch(&self.device, self.device.stream, function, shape, params) }.err();
        if let Some(stream) = self.graphs.capturing() {
            // SAFETY: the caller's promise; the memory is that of this backend, as whose part the graph runs.
            let captured = unsafe { launch(&self.device, stream, function, shape, params) };
            if captured.is_err() {
                self.graphs.give_up();
            }
        }
    }

    /// Whether the operations of the current step are not submitted: after a failure, when the inputs may be those of another
    /// step, and when a graph has them.
    pub(super) fn skips(&self) -> bool {
        self.failure.is_some() || self.graphs.replays()
    }

    /// Records an error, if it is the first.
    pub(super) fn note(&mut self, outcome: Result<()>) {
        if let (None, Err(error)) = (&self.failure, outcome) {
            self.failure = Some(error);
        }
    }

    /// Returns the recorded failure, which is kept: a failed device does not recover.
    pub(super) fn check_error(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// The address of a tensor of `elements` elements; checks that they lie within its buffer.
    pub(super) fn place(&self, t: Tensor, elements: usize) -> u64 {
        let buffer = &self.buffers[t.buffer as usize];
        assert!((t.offset + elements) * 4 <= buffer.bytes, "{elements} elements at {t:?} of {} bytes", buffer.bytes);
        buffer.address + t.offset as u64 * 4
    }

    pub(super) fn stored(&self, w: Weight) -> Stored {
        self.weights[w.id as usize]
    }

    /// The address of a vector's f32 form.
    pub(super) fn vector(&self, w: Weight) -> u64 {
        let stored = self.stored(w);
        assert!(w.out_features == 1 && stored.vector != 0, "a matrix where a vector is expected");
        stored.vector
    }

    pub(super) fn inputs(&self) -> &Inputs {
        self.inputs.as_ref().expect("reserved before the first step")
    }

    pub(super) fn scratch(&mut self) -> &mut Scratch {
        self.scratch.as_mut().expect("reserved before the first step")
    }

    /// Whether a slot has room for the rounded form of so many rows.
    pub(super) fn rounded_fits(&mut self, rows: usize, width: usize) -> bool {
        rows * forms::pitch(width) * 2 <= self.scratch().rounded[0].buffer.bytes
    }

    /// Assigns the least recently used slot to the rounded form of `x` and returns its address; the caller fills it.
    pub(super) fn round_into(&mut self, x: Tensor, rows: usize, width: usize) -> u64 {
        self.clock += 1;
        let clock = self.clock;
        let slots = &mut self.scratch().rounded;
        let oldest = if slots[0].used <= slots[1].used { &mut slots[0] } else { &mut slots[1] };
        assert!(rows * forms::pitch(width) * 2 <= oldest.buffer.bytes, "{rows} rows of {width} inputs");
        (oldest.of, oldest.used) = (Some((x, rows, width)), clock);
        oldest.buffer.address
    }

    /// The address of the rounded form of `x`, if a slot has it.
    pub(super) fn find_rounded(&mut self, x: Tensor, rows: usize, width: usize) -> Option<u64> {
        self.clock += 1;
        let clock = self.clock;
        let found =
            self.scratch().rounded.iter_mut().find(|slot| {
                slot.of.is_some_and(|(tensor, there, wide)| tensor == x && there >= rows && wide == width)
            })?;
        found.used = clock;
        Some(found.buffer.address)
    }

    /// Invalidates all rounded forms.
    pub(super) fn forget_rounded(&mut self) {
        self.scratch().rounded.iter_mut().for_each(|slot| slot.of = None);
    }

    /// Invalidates the rounded forms of tensors in the buffer of `t`, which was written.
    pub(super) fn wrote(&mut self, t: Tensor) {
        for slot in self.scratch.iter_mut().flat_map(|s| &mut s.rounded) {
            slot.of = slot.of.filter(|(tensor, ..)| tensor.buffer != t.buffer);
        }
    }

    /// Allocates memory for the largest step, and drops what only opening needs.
    pub(super) fn reserve_scratch(&mut self, max_shape: &MaxBatchShape) -> Result<()> {
        if max_shape.frequencies > CONSTANTS {
            let message = format!(
                "the model has {} rotary frequencies, the CUDA backend has room for {CONSTANTS}; choose the device cpu",
                max_shape.frequencies
            );
            return Err(Error::unsupported(message).about("device"));
        }
        super::recurrent::check(max_shape.state_dim, max_shape.conv_kernel)?;
        // The uploader's copies must have finished before it is dropped; this also reports their errors.
        self.device.wait()?;
        self.uploader = None;
        if let Some(blas) = &mut self.blas {
            blas.reserve(max_shape.rows.max(max_shape.logits_rows))?;
        }
        let blocking = self.options.blocking_wait;
        self.inputs = Some(Inputs::new(&self.device, max_shape, blocking)?);
        self.scratch = Some(Scratch::new(&self.device, max_shape, &self.weights, blocking)?);
        self.graphs.reserve(&self.device)?;
        self.step = Step::with_capacity(max_shape)?;
        self.device.wait()
    }

    pub(super) fn scratch_bytes(&self) -> u64 {
        self.scratch.as_ref().map_or(0, |s| scratch_bytes(&self.options, &s.max_shape))
    }

    /// Uploads a weight. With `elements`, blocks become bf16 or f32.
    pub(super) fn upload_weight(
        &mut self,
        bytes: &HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
        elements: bool,
    ) -> Result<Weight> {
        let bytes = (**bytes).as_ref();
        let wrong = |what: String| Error::internal(format!("a weight of {out_features} x {in_features} {what}"));
        let compute = self.options.compute;
        let row_bytes = |dtype: DType| {
            let row = dtype.bytes(in_features).filter(|row| row.checked_mul(out_features) == Some(bytes.len()));
            row.ok_or_else(|| wrong(format!("in {dtype} has {} bytes", bytes.len())))
        };
        let stored = match encoding {
            Encoding::Quantized(scheme) => {
                if scheme.bytes(out_features, in_features) != Some(bytes.len()) {
                    return Err(wrong(format!("in {scheme:?} has {} bytes", bytes.len())));
                }
                let format = if scheme == Scheme::Q8 { Format::Q8 } else { Format::Q4 };
                let panel = scheme.panel_bytes(in_features);
                let matrix = self.upload(out_features.div_ceil(16), panel, |rows, to| {
                    to.copy_from_slice(&bytes[rows.start * panel..rows.end * panel]);
                })?;
                Stored { format, matrix, vector: 0 }
            }
            Encoding::Stored(dtype @ DType::Blocks(format)) if compute == Compute::Bf16 && !elements => {
                let row_bytes = row_bytes(dtype)?;
                let pitch = forms::block_row_bytes(format, in_features);
                let pitch = pitch.ok_or_else(|| Error::memory("weights", u64::MAX))?;
                let matrix = self.upload(out_features, pitch, |rows, to| {
                    let rows = bytes[rows.start * row_bytes..rows.end * row_bytes].chunks_exact(row_bytes);
                    rows.zip(to.chunks_exact_mut(pitch)).for_each(|(row, to)| forms::put_blocks(format, row, to));
                })?;
                Stored { format: Format::Blocks(format), matrix, vector: 0 }
            }
            Encoding::Stored(dtype) => {
                let weights = match dtype {
                    DType::Blocks(format) => {
                        row_bytes(dtype)?;
                        Matrix::Blocks(format, bytes)
                    }
                    DType::ScaledF8(group) => {
                        row_bytes(dtype)?;
                        Matrix::F8(f8::Rows { bytes, in_features, group })
                    }
                    _ => {
                        let elements =
                            Elements::new(bytes, dtype).filter(|all| all.len() == out_features * in_features);
                        Matrix::Stored(elements.ok_or_else(|| wrong(format!("has {} bytes of {dtype}", bytes.len())))?)
                    }
                };
                let (format, matrix) = match compute {
                    Compute::Bf16 => (Format::Bf16, self.upload_bf16(weights, out_features, in_features)?),
                    Compute::F32 => (Format::F32, self.upload_f32(weights, out_features, in_features)?),
                };
                let vector = if out_features == 1 { self.upload_f32(weights, 1, in_features)? } else { 0 };
                Stored { format, matrix, vector }
            }
        };
        if let (Some(blas), Format::Bf16, 2..) = (&mut self.blas, stored.format, out_features) {
            blas.expect(out_features, forms::pitch(in_features));
        }
        self.weight_bytes += forms::weight_bytes(encoding, out_features, in_features, compute);
        self.weights.push(stored);
        Ok(Weight { id: (self.weights.len() - 1) as u32, out_features, in_features })
    }

    fn upload(
        &mut self,
        rows: usize,
        row_bytes: usize,
        write: impl Fn(std::ops::Range<usize>, &mut [u8]) + Sync,
    ) -> Result<u64> {
        let what = "weights";
        let bytes = rows.checked_mul(row_bytes).ok_or_else(|| Error::memory(what, u64::MAX))?;
        let address = self.arena.alloc(&self.device, bytes, what)?;
        if self.uploader.is_none() {
            self.uploader = Some(Uploader::new(&self.device)?);
        }
        let uploader = self.uploader.as_mut().expect("just made");
        uploader.rows(address, rows, row_bytes, write)?;
        Ok(address)
    }

    /// Creates a matrix of random numbers on the device.
    pub(super) fn make_random(
        &mut self,
        random: RandomWeight,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight> {
        let (k, compute) = (&self.kernels, self.options.compute);
        let pitch = if compute == Compute::Bf16 { forms::pitch(in_features) } else { in_features };
        let (format, function, bytes) = match encoding {
            Encoding::Quantized(scheme @ Scheme::Q8) => {
                (Format::Q8, k.fill_random_q8, scheme.bytes(out_features, in_features))
            }
            Encoding::Quantized(scheme @ Scheme::Q4) => {
                (Format::Q4, k.fill_random_q4, scheme.bytes(out_features, in_features))
            }
            Encoding::Stored(_) => {
                let elements = out_features.checked_mul(pitch);
                match compute {
                    Compute::Bf16 => (Format::Bf16, k.fill_random_bf16, elements.and_then(|n| n.checked_mul(2))),
                    Compute::F32 => (Format::F32, k.fill_random_f32, elements.and_then(|n| n.checked_mul(4))),
                }
            }
        };
        let bytes = bytes.ok_or_else(|| Error::memory("weights", u64::MAX))?;
        let size = |n: usize| {
            i32::try_from(n).map_err(|_| Error::internal(format!("a weight of {out_features} x {in_features}")))
        };
        let matrix = self.arena.alloc(&self.device, bytes, "weights")?;
        let (seed, deviation) = (random.seed, random.deviation);
        let (rows, width, pitched) = (size(out_features)?, size(in_features)?, size(pitch)?);
        let mut params = vec![arg(&matrix), arg(&seed), arg(&deviation), arg(&rows), arg(&width)];
        if matches!(encoding, Encoding::Stored(_)) {
            params.push(arg(&pitched));
        }
        // SAFETY: to, seed, deviation, rows, in_features of `fill_random_*`, and the pitch for stored formats; the
        // allocation has the bytes of that format.
        unsafe { launch(&self.device, self.device.stream, function, self.each_element(bytes / 4), &mut params) }?;
        self.weight_bytes += forms::weight_bytes(encoding, out_features, in_features, compute);
        self.weights.push(Stored { format, matrix, vector: 0 });
        Ok(Weight { id: (self.weights.len() - 1) as u32, out_features, in_features })
    }

    /// Uploads rows as bf16, padded with zeros to the pitch.
    fn upload_bf16(&mut self, weights: Matrix, out_features: usize, in_features: usize) -> Result<u64> {
        let (pitch, padding) = (forms::pitch(in_features), in_features * 2);
        self.upload(out_features, pitch * 2, |rows, to| {
            let mut wide = vec![0.0; in_features];
            for (row, to) in rows.zip(to.chunks_exact_mut(pitch * 2)) {
                match weights {
                    Matrix::Stored(Elements::Bf16(bits)) => {
                        to[..padding].copy_from_slice(as_bytes(&bits[row * in_features..(row + 1) * in_features]));
                    }
                    other => {
                        other.widen_row(row, in_features, &mut wide);
                        for (to, x) in to[..padding].chunks_exact_mut(2).zip(&wide) {
                            to.copy_from_slice(&half::bf16::from_f32(*x).to_bits().to_ne_bytes());
                        }
                    }
                }
                to[padding..].fill(0);
            }
        })
    }

    /// Uploads rows as f32.
    fn upload_f32(&mut self, weights: Matrix, out_features: usize, in_features: usize) -> Result<u64> {
        self.upload(out_features, in_features * 4, |rows, to| {
            let mut wide = vec![0.0; in_features];
            for (row, to) in rows.zip(to.chunks_exact_mut(in_features * 4)) {
                weights.widen_row(row, in_features, &mut wide);
                to.chunks_exact_mut(4).zip(&wide).for_each(|(to, x)| to.copy_from_slice(&x.to_ne_bytes()));
            }
        })
    }

    pub(super) fn make_pages(&mut self, shape: KvShape) -> Result<usize> {
        super::attention::kv_check(&shape)?;
        let what = "KV pages";
        let frame = shape.frame_bytes().ok_or_else(|| Error::memory(what, u64::MAX))?;
        let bytes = shape.frames.checked_add(1).and_then(|frames| frame.checked_mul(frames));
        let bytes = bytes.ok_or_else(|| Error::memory(what, u64::MAX))?;
        self.groups.push(Group { shape, buffer: Buffer::zeroed(&self.device, bytes, what)? });
        Ok(self.groups.len() - 1)
    }
}

fn as_bytes(bits: &[u16]) -> &[u8] {
    // SAFETY: plain integers, looked at as bytes.
    unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), size_of_val(bits)) }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Submitted work is finished before its memory is freed. An error was reported before, or is of no interest any
        // more.
        let _ = self.device.wait();
    }
}
