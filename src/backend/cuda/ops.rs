//! The traits of a [`Backend`].

use super::forms;
use super::kernels::{Function, Shape, arg};
use super::state::{CudaBackend, Format};
use crate::backend::cpu::Compute;
use crate::backend::*;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::sampling::{AllowedTokens, SamplingOutput};
use std::ops::Range;

impl Memory for CudaBackend {
    fn name(&self) -> String {
        let (major, minor) = self.device.info.capability;
        format!("{} (cuda:{}, compute capability {major}.{minor})", self.device.info.name, self.options.index)
    }

    fn reserved(&self) -> Reserved {
        Reserved {
            weights: self.weight_bytes,
            kv: self.groups.iter().map(|g| g.buffer.bytes as u64).sum(),
            tensors: self.tensor_bytes,
            scratch: self.scratch_bytes(),
        }
    }

    fn attach(&mut self) {
        let attached = self.device.attach();
        self.note(attached);
    }

    fn alloc(&mut self, elements: usize, what: &str) -> Result<Tensor> {
        let bytes = elements.checked_mul(4).ok_or_else(|| Error::memory(what, u64::MAX))?;
        self.buffers.push(super::memory::Buffer::zeroed(&self.device, bytes, what)?);
        self.tensor_bytes += bytes as u64;
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
        self.upload_weight(&bytes, encoding, out_features, in_features, false)
    }

    fn head_weight(
        &mut self,
        bytes: HostBytes,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Weight> {
        self.upload_weight(&bytes, encoding, out_features, in_features, true)
    }

    fn random_weight(
        &mut self,
        random: RandomWeight,
        encoding: Encoding,
        out_features: usize,
        in_features: usize,
    ) -> Result<Option<Weight>> {
        // Vectors are stored in two forms and are small: the caller uploads them.
        if out_features <= 1 {
            Ok(None)
        } else {
            self.make_random(random, encoding, out_features, in_features).map(Some)
        }
    }

    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()> {
        self.check_error()?;
        self.place(x, out.len());
        // SAFETY: plain numbers, written as bytes; every bit pattern is one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size_of_val(out)) };
        let read = self.buffers[x.buffer as usize].read(x.offset * 4, bytes);
        self.note(read);
        self.check_error()
    }

    fn wait(&mut self) -> Result<()> {
        self.check_error()?;
        let waited = self.device.wait();
        self.note(waited);
        self.check_error()
    }
}

impl Cache for CudaBackend {
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages> {
        Ok(KvPages(self.make_pages(shape)? as u32))
    }

    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()> {
        self.check_error()?;
        let at = self.frame(pages, frame, out.len())?;
        self.groups[pages.0 as usize].buffer.read(at.start, out)
    }

    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()> {
        self.check_error()?;
        let at = self.frame(pages, frame, bytes.len())?;
        self.groups[pages.0 as usize].buffer.write(at.start, bytes)
    }
}

impl Steps for CudaBackend {
    fn step(&mut self) -> &mut Step {
        &mut self.step
    }

    fn begin(&mut self) {
        self.begin_step();
    }

    fn steps_in_flight(&self) -> usize {
        2
    }
}

impl Operations for CudaBackend {
    fn embed(&mut self, table: Weight, scale: f32, out: Tensor) {
        if self.skips() {
            return;
        }
        let (rows, width) = (self.inputs().rows, table.in_features);
        let (stored, tokens, to) = (self.stored(table), self.inputs().tokens(), self.place(out, rows * width));
        let sampled = self.scratch().sampling.tokens();
        let (function, pitch) = match stored.format {
            Format::F32 => (self.kernels.embed_f32, width),
            Format::Blocks(format) => (self.kernels.of_blocks(format).embed, 0),
            Format::Bf16 => (self.kernels.embed_bf16, forms::pitch(width)),
            Format::Q8 | Format::Q4 => unreachable!("only matrices of products are quantized"),
        };
        let shape = self.each_element(rows * width);
        let (matrix, pitch, rows, width) = (stored.matrix, pitch as i32, rows as i32, width as i32);
        let mut params =
            [arg(&matrix), arg(&pitch), arg(&tokens), arg(&sampled), arg(&scale), arg(&to), arg(&rows), arg(&width)];
        // SAFETY: the parameters of all these kernels; tokens are below the table's rows, and `out` was checked.
        unsafe { self.submit(function, shape, &mut params) };
        self.wrote(out);
    }

    fn rotary_angles(&mut self, inv_freq: &[f32], scale: f32, out: Tensor) {
        if self.skips() {
            return;
        }
        let (rows, half) = (self.inputs().rows, inv_freq.len());
        let Some(frequencies) = self.constant(inv_freq) else { return };
        let (at, to) = (self.inputs().positions(), self.place(out, rows * 2 * half));
        let (shape, rows, half) = (self.each_element(rows * half), rows as i32, half as i32);
        let mut params = [arg(&at), arg(&frequencies), arg(&scale), arg(&to), arg(&rows), arg(&half)];
        // SAFETY: the parameters of the kernel; all places were checked.
        unsafe { self.submit(self.kernels.rotary_angles, shape, &mut params) };
    }

    fn norm(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor) {
        if self.skips() {
            return;
        }
        let (from, to) = (self.place(x, rows * width), self.place(out, rows * width));
        self.wrote(out);
        // The result is the input of products, but for norms of many short rows, heads, which may need more padding than there
        // is room for.
        let products = self.options.compute == Compute::Bf16 && self.rounded_fits(rows, width);
        let rounded = if products { self.round_into(out, rows, width) } else { 0 };
        let whole = Heads { tensor: x, row_stride: width, head_stride: 0, heads: 1, dim: width };
        self.submit_norm(norm, [from, to, rounded], whole, rows);
    }

    fn norm_heads(&mut self, x: Heads, norm: &Norm, rows: usize) {
        if self.skips() || rows == 0 {
            return;
        }
        let at = self.place(x.tensor, x.span(rows));
        self.wrote(x.tensor);
        self.submit_norm(norm, [at, at, 0], x, rows);
    }

    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        if !self.skips() {
            self.group_products(x, rows, group);
        }
    }

    fn head_products(&mut self, products: &HeadProducts, rows: usize) {
        if !self.skips() {
            self.products_of_heads(products, rows);
        }
    }

    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation) {
        if !self.skips() {
            self.group_products(x, rows, &[gate, up]);
            self.gate_product(gate.out, up.out, rows, gate.weight.out_features, activation);
        }
    }

    fn activate(&mut self, x: Tensor, activation: Activation, elements: usize) {
        if !self.skips() {
            let to = self.place(x, elements);
            self.gate_elements(to, 0, elements, activation);
            self.wrote(x);
        }
    }

    fn place_heads(&mut self, placement: &Placement) {
        if !self.skips() {
            self.place_rows(placement);
        }
    }

    fn attention(&mut self, attention: Attention) {
        if !self.skips() {
            self.attend(attention);
        }
    }

    fn scale_by_position(&mut self, x: Tensor, width: usize, scale: PositionScale) {
        if self.skips() {
            return;
        }
        let rows = self.inputs().rows;
        let (to, at, shape) = (self.place(x, rows * width), self.inputs().positions(), self.each_element(rows * width));
        let (PositionScale { beta, period }, rows, width) = (scale, rows as i32, width as i32);
        let mut params = [arg(&to), arg(&at), arg(&beta), arg(&period), arg(&rows), arg(&width)];
        // SAFETY: the parameters of the kernel; the place was checked.
        unsafe { self.submit(self.kernels.scale_by_position, shape, &mut params) };
        self.wrote(x);
    }

    fn gate_mul(&mut self, x: Tensor, dim: usize, gate: Heads, gating: Gating, rows: usize) {
        if self.skips() || rows == 0 {
            return;
        }
        assert!(gate.dim == dim || gate.dim == 1, "gates of {} for heads of {dim} elements", gate.dim);
        let elements = rows * gate.heads * dim;
        let (to, with) = (self.place(x, elements), self.place(gate.tensor, gate.span(rows)));
        let (row_stride, head_stride) = (gate.row_stride as i64, gate.head_stride as i64);
        let (rows, heads, dim, gate_dim) = (rows as i32, gate.heads as i32, dim as i32, gate.dim as i32);
        let kind: i32 = match gating {
            Gating::Sigmoid => 0,
            Gating::Silu => 1,
            Gating::Plain => 2,
        };
        let mut params = [
            arg(&to),
            arg(&with),
            arg(&row_stride),
            arg(&head_stride),
            arg(&rows),
            arg(&heads),
            arg(&dim),
            arg(&gate_dim),
            arg(&kind),
        ];
        // SAFETY: the parameters of the kernel; both places were checked.
        unsafe { self.submit(self.kernels.gate_mul, self.each_element(elements), &mut params) };
        self.wrote(x);
    }

    fn conv(&mut self, conv: &Conv) {
        if !self.skips() {
            self.convolve(conv);
        }
    }

    fn recurrence(&mut self, recurrence: &Recurrence) {
        if !self.skips() {
            self.recur(recurrence);
        }
    }

    fn clear(&mut self, x: Tensor, elements: usize) {
        if !self.skips() {
            self.each_by_number(self.kernels.fill_elements, x, 0.0, elements);
        }
    }

    fn scale(&mut self, x: Tensor, factor: f32, elements: usize) {
        if !self.skips() {
            self.each_by_number(self.kernels.scale_elements, x, factor, elements);
        }
    }

    fn softcap(&mut self, x: Tensor, cap: f32, elements: usize) {
        if !self.skips() {
            self.each_by_number(self.kernels.cap_elements, x, cap, elements);
        }
    }

    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize) {
        if self.skips() {
            return;
        }
        let (to, with) = (self.place(x, elements), self.place(y, elements));
        let (shape, count) = (self.each_element(elements), elements as i64);
        let mut params = [arg(&to), arg(&with), arg(&factor), arg(&count)];
        // SAFETY: the parameters of the kernel; both places were checked.
        unsafe { self.submit(self.kernels.add_scaled, shape, &mut params) };
        self.wrote(x);
    }

    fn experts(&mut self, experts: Experts, rows: usize) {
        if !self.skips() {
            self.run_experts(experts, rows);
        }
    }

    fn gather(&mut self, x: Tensor, first: usize, rows: usize, width: usize, out: Tensor) {
        if self.skips() {
            return;
        }
        let list = &self.step.logits_indices[first..first + rows];
        let last = list.iter().copied().max().unwrap_or(0) as usize;
        let (from, to) = (self.place(x, (last + 1) * width), self.place(out, rows * width));
        let which = self.inputs().logits_indices(first);
        let (shape, count, width) = (self.each_element(rows * width), rows as i32, width as i32);
        let mut params = [arg(&from), arg(&which), arg(&to), arg(&count), arg(&width)];
        // SAFETY: the parameters of the kernel; all places were checked, and the rows are below `last + 1`.
        unsafe { self.submit(self.kernels.gather_rows, shape, &mut params) };
        self.wrote(out);
    }
}

impl Sampling for CudaBackend {
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()> {
        self.scratch().sampling.set_vocabulary_mask(mask.end(), mask.holes())
    }

    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, softcap: Option<f32>) {
        if !self.asked_whole {
            self.upload_requests();
        }
        if !self.skips() {
            self.group_products(x, rows, &[head]);
            if let Some(cap) = softcap {
                self.each_by_number(self.kernels.cap_elements, head.out, cap, rows * head.weight.out_features);
            }
            self.sample_rows(head.out, rows, head.weight.out_features);
        }
        self.end_step();
    }

    fn copy_out(&mut self) -> Ticket {
        let rows = self.scratch().sampling.rows();
        let (ticket, copied) = self.scratch().sampling.copy_out(rows);
        self.note(copied);
        ticket
    }

    fn wait_sampled(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()> {
        self.check_error()?;
        let taken = self.scratch().sampling.take(ticket, to);
        self.note(taken);
        self.check_error()
    }
}

/// One block per row.
pub fn rows_shape(rows: usize) -> Shape {
    Shape { grid: [rows, 1, 1], block: 256, shared: 0 }
}

impl CudaBackend {
    /// Submits `norm_rows`. The places are those of the input, the output, and the output rounded for products (0 = not wanted).
    fn submit_norm(&mut self, norm: &Norm, [x, out, rounded]: [u64; 3], heads: Heads, rows: usize) {
        /// Must match `Norm` of the kernels.
        #[repr(C)]
        struct NormArg {
            x: u64,
            add: u64,
            gain: u64,
            bias: u64,
            out: u64,
            rounded: u64,
            width: i32,
            pitch: i32,
            eps: f32,
            centred: i32,
            row_stride: i64,
            head_stride: i64,
            heads: i32,
        }
        let width = heads.dim;
        let [gain, bias] = [norm.gain, norm.bias].map(|vector| {
            vector.map_or(0, |vector| {
                assert!(vector.in_features == width, "{} factors of rows of {width}", vector.in_features);
                self.vector(vector)
            })
        });
        let args = NormArg {
            x,
            add: 0,
            gain,
            bias,
            out,
            rounded,
            width: width as i32,
            pitch: forms::pitch(width) as i32,
            eps: norm.eps,
            centred: i32::from(norm.centred),
            row_stride: heads.row_stride as i64,
            head_stride: heads.head_stride as i64,
            heads: heads.heads as i32,
        };
        // SAFETY: the one parameter of the kernel; all places were checked.
        unsafe { self.submit(self.kernels.norm_rows, rows_shape(rows * heads.heads), &mut [arg(&args)]) };
    }

    /// Runs `fill_elements`, `scale_elements` or `cap_elements` over the elements of `x`.
    fn each_by_number(&mut self, function: Function, x: Tensor, number: f32, elements: usize) {
        let (to, shape, count) = (self.place(x, elements), self.each_element(elements), elements as i64);
        // SAFETY: the parameters of these kernels; the place was checked.
        unsafe { self.submit(function, shape, &mut [arg(&to), arg(&number), arg(&count)]) };
        self.wrote(x);
    }

    /// The byte range of a frame in the group's buffer; an error if its size is not `len`.
    fn frame(&self, pages: KvPages, frame: u32, len: usize) -> Result<Range<usize>> {
        let shape = self.groups[pages.0 as usize].shape;
        match shape.frame_bytes() {
            Some(bytes) if bytes == len && (frame as usize) < shape.frames => {
                Ok(frame as usize * bytes..(frame as usize + 1) * bytes)
            }
            bytes => {
                let message = format!("{len} bytes of page frame {frame} of {}, which has {bytes:?}", shape.frames);
                Err(Error::internal(message))
            }
        }
    }

    /// The device address of constant values; uploads them on first use. None on failure, which is noted.
    fn constant(&mut self, values: &[f32]) -> Option<u64> {
        let s = self.scratch();
        let known = s.constants_of.windows(values.len().max(1)).position(|some| some == values);
        let at = known.unwrap_or(s.constants_of.len());
        let address = s.constants.address + at as u64 * 4;
        if known.is_none() {
            if at + values.len() > s.constants_of.capacity() {
                self.note(Err(Error::internal("more rotary frequencies than there is room for")));
                return None;
            }
            s.constants_of.extend_from_slice(values);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            let written = s.constants.write(at * 4, &bytes);
            self.note(written);
        }
        Some(address)
    }
}
