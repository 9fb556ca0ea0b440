//! Matrix products: the types of weights and inputs that kernels take, the conversion of inputs, and how a group of
//! products is split into tasks.
//!
//! **One input type per weight.** The type of input that a weight is multiplied with depends on the weight's encoding,
//! the tier and the engine's compute type ([`Kernels::form`]), never on the number of rows (law 1 of
//! [`crate::backend`]). An input is converted once for all products of a group that share its type.
//!
//! **Quantized weights** are multiplied with inputs quantized per row and group. The dot product of one group is an
//! exact integer; groups are accumulated in ascending order with one rounding each, so that every tier gives the same
//! bits:
//! `sum = fma(integer dot product, weight scale * input scale, sum)`.
//!
//! **Weights in blocks**, as GGUF files have them, are computed as they are stored. The same holds for them with parts of a
//! group in place of groups, and minima are added to it ([`decoded`]). With [`Compute::F32`] they are made f32 instead, sixteen
//! rows at a time ([`widened`]), and no input is rounded.

#[cfg(target_arch = "x86_64")]
pub(super) mod decoded;
#[cfg(target_arch = "x86_64")]
pub(super) mod eight;
#[cfg(target_arch = "x86_64")]
pub(super) mod panels;
#[cfg(target_arch = "x86_64")]
pub(super) mod stored;
#[cfg(test)]
pub(super) mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod tile;

use super::best::TopK;
use super::kernels::{Elements, Kernels, bf16_to_f32};
use super::memory::Buffer;
use super::{Compute, CpuBackend, Shared, StoredWeight, best};
use crate::backend::{Activation, Linear, Tensor};
use crate::dtype::{BlockFormat, DType};
use crate::encoding::blocks::{self, GROUP};
use crate::encoding::f8;
use crate::encoding::{Encoding, PANEL, Scheme};
use std::ops::Range;

/// A weight matrix as passed to kernels.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// `[out_features, in_features]`, stored row by row.
    Stored(Elements<'a>),
    /// Quantized, in the panels of [`crate::encoding`].
    Panels(Scheme, &'a [u8]),
    /// `[out_features, in_features]` in blocks, row by row.
    Blocks(BlockFormat, &'a [u8]),
    /// `[out_features, in_features]` in 8-bit floats, row by row, as [`crate::encoding::f8`] lays them out.
    F8(f8::Rows<'a>),
}

impl Matrix<'_> {
    /// A row of `width` elements that is not quantized, as f32.
    #[inline(always)]
    pub fn widen_row(&self, row: usize, width: usize, out: &mut [f32]) {
        match self {
            Matrix::Stored(elements) => {
                let row = elements.slice(row * width..(row + 1) * width);
                match row {
                    Elements::F32(e) => out.copy_from_slice(e),
                    Elements::Bf16(e) => out.iter_mut().zip(e).for_each(|(out, &e)| *out = bf16_to_f32(e)),
                    Elements::F16(e) => {
                        out.iter_mut().zip(e).for_each(|(out, &e)| *out = half::f16::from_bits(e).to_f32())
                    }
                }
            }
            Matrix::Blocks(format, bytes) => {
                let row_bytes = width / format.weights() * format.bytes();
                blocks::widen(*format, &bytes[row * row_bytes..(row + 1) * row_bytes], out);
            }
            Matrix::F8(rows) => rows.widen(row, 0, out),
            Matrix::Panels(..) => unreachable!("it is never quantized on load"),
        }
    }
}

/// Element type that input rows are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32, not converted.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// 8-bit integers, quantized in groups of [`GROUP`].
    Int8,
}

/// Rows quantized to 8-bit integers, with a scale per group.
#[derive(Clone, Copy)]
pub struct Int8Rows<'a> {
    /// `[rows, groups * GROUP]`; zero beyond the last input of a row.
    pub codes: &'a [i8],
    /// `[rows, groups]`: scale of each group.
    pub scales: &'a [f32],
    /// `[rows, groups]`: -128 times the sum of the group's codes. Adding it to a dot product with weights stored as
    /// integer + 128 removes that bias.
    pub corrections: &'a [i32],
    /// `[rows, groups * 2]`: the same of the halves of each group.
    pub half_corrections: &'a [i32],
    /// Groups per row.
    pub groups: usize,
}

impl Int8Rows<'_> {
    /// Minus the sum of a row's inputs in a part of its weights, of which a group has `parts`: what a minimum is multiplied with.
    #[inline(always)]
    pub fn negative_sum(&self, row: usize, part: usize, parts: usize) -> f32 {
        let at = row * self.groups * parts + part;
        let correction = if parts == 1 { self.corrections[at] } else { self.half_corrections[at] };
        negative_sum(correction, self.scales[row * self.groups + part / parts])
    }
}

/// As [`Int8Rows::negative_sum`], from the part's correction and the scale of its group.
#[inline(always)]
pub fn negative_sum(correction: i32, scale: f32) -> f32 {
    // Both factors are exact.
    correction as f32 * (1.0 / 128.0) * scale
}

/// Where a row is written to; see [`Int8Rows`].
pub struct Int8RowMut<'a> {
    /// `[groups * GROUP]`
    pub codes: &'a mut [i8],
    /// `[groups]`
    pub scales: &'a mut [f32],
    /// `[groups]`
    pub corrections: &'a mut [i32],
    /// `[groups * 2]`
    pub half_corrections: &'a mut [i32],
}

/// Input rows `[rows, in_features]`, converted to the type that the weight requires.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16 bits, in the arrangement of the tier's [`Kernels::to_bf16`].
    Bf16(&'a [u16]),
    /// 8-bit integers.
    Int8(Int8Rows<'a>),
}

/// Arguments of one matrix product; the kernel computes a range of its outputs.
pub struct LinearArgs<'a> {
    /// Matrix `[out_features, in_features]`.
    pub weight: Matrix<'a>,
    /// Input features: columns of the weight matrix.
    pub in_features: usize,
    /// Vector `[out_features]`.
    pub bias: Option<Elements<'a>>,
    /// Converted input rows.
    pub x: Input<'a>,
    /// Number of input rows.
    pub rows: usize,
    /// Output `[rows, out_features]`; a task writes only the columns of its range.
    pub out: *mut f32,
    /// Elements between the starts of consecutive output rows.
    pub out_stride: usize,
    /// Add to the contents of the output instead of replacing them.
    pub accumulate: bool,
}

impl LinearArgs<'_> {
    /// The same product of the outputs `range` alone, whose weights are `rows`.
    ///
    /// # Safety
    /// `range` lies in the rows of the output.
    #[inline(always)]
    pub unsafe fn part<'b>(&'b self, rows: Elements<'b>, range: Range<usize>) -> LinearArgs<'b> {
        // SAFETY: guaranteed by the caller.
        let out = unsafe { self.out.add(range.start) };
        let bias = self.bias.map(|bias| bias.slice(range));
        LinearArgs { weight: Matrix::Stored(rows), bias, out, ..*self }
    }

    /// Writes the result of one row and output, with bias and accumulation.
    ///
    /// # Safety
    /// `row` < rows, `out` < out_stride, the element is inside the output and no other task accesses it.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, out: usize, value: f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.put_all(row, out, out + 1, &[value]) };
    }

    /// Writes the results `first..first + values.len()` of a row, except those at or beyond `end`.
    ///
    /// # Safety
    /// As [`LinearArgs::put`] for each of them.
    #[inline(always)]
    pub unsafe fn put_all(&self, row: usize, first: usize, end: usize, values: &[f32]) {
        let values = &values[..values.len().min(end.saturating_sub(first))];
        // SAFETY: guaranteed by the caller.
        let places =
            unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride + first), values.len()) };
        for (i, (place, &value)) in places.iter_mut().zip(values).enumerate() {
            let value = self.bias.as_ref().map_or(value, |bias| value + bias.get(first + i));
            *place = if self.accumulate { *place + value } else { value };
        }
    }
}

/// Bytes of `rows` input rows of `in_features` elements in the widest type that a kernel reads: bf16 padded to whole blocks of
/// rows, or for quantized rows 16 more bytes for each group.
pub(super) fn converted_bytes(rows: usize, in_features: usize) -> usize {
    rows.next_multiple_of(16).saturating_mul(in_features.next_multiple_of(64)).saturating_mul(4)
}

/// Converted input rows in memory of [`converted_bytes`].
struct InputRows {
    /// First byte of the rows.
    bytes: Shared<u8>,
    rows: usize,
    in_features: usize,
}

impl InputRows {
    /// The rows as quantized: all codes, then all scales, all corrections, all of halves.
    fn int8<'a>(&self) -> Int8Rows<'a> {
        let groups = self.in_features.div_ceil(GROUP);
        let count = self.rows * groups;
        // SAFETY: `converted_bytes` covers the four parts, whose offsets are multiples of 4. A part is only read
        // after it was written, and is not written while it is read.
        unsafe {
            let scales = self.bytes.start().add(count * GROUP);
            Int8Rows {
                codes: std::slice::from_raw_parts(self.bytes.start().cast(), count * GROUP),
                scales: std::slice::from_raw_parts(scales.cast(), count),
                corrections: std::slice::from_raw_parts(scales.add(count * 4).cast(), count),
                half_corrections: std::slice::from_raw_parts(scales.add(count * 8).cast(), 2 * count),
                groups,
            }
        }
    }

    /// Converts `x` to `form` and stores it as row `row`.
    ///
    /// # Safety
    /// The memory covers the rows, and no other task accesses this row's part.
    unsafe fn convert(&self, kernels: &Kernels, form: Form, row: usize, x: &[f32]) {
        let start = self.bytes.start();
        // SAFETY: the parts lie inside the memory as in `int8`; the row is the caller's; the tier was checked.
        unsafe {
            match form {
                Form::F32 => {}
                Form::Bf16 => (kernels.to_bf16)(x, row, start.cast()),
                Form::Int8 => {
                    let groups = self.in_features.div_ceil(GROUP);
                    let (at, count) = (row * groups, self.rows * groups);
                    let scales = start.add(count * GROUP);
                    let row = Int8RowMut {
                        codes: std::slice::from_raw_parts_mut(start.cast::<i8>().add(at * GROUP), groups * GROUP),
                        scales: std::slice::from_raw_parts_mut(scales.cast::<f32>().add(at), groups),
                        corrections: std::slice::from_raw_parts_mut(
                            scales.add(count * 4).cast::<i32>().add(at),
                            groups,
                        ),
                        half_corrections: std::slice::from_raw_parts_mut(
                            scales.add(count * 8).cast::<i32>().add(2 * at),
                            2 * groups,
                        ),
                    };
                    (kernels.to_int8)(x, row);
                }
            }
        }
    }
}

/// One product of a group. `panels` is its range in the concatenation of the panels of all products.
struct Product {
    weight: StoredWeight,
    bias: Option<StoredWeight>,
    out_features: usize,
    out: Shared<f32>,
    accumulate: bool,
    panels: Range<usize>,
}

/// What the task that computed outputs does with them next, while they are still in its cache.
#[derive(Clone, Copy)]
enum After {
    /// Nothing.
    Keep,
    /// `first = activation(first) * second`, for two products of one shape.
    Gate(Activation),
    /// Search the largest results of the single product ([`best::Search`]).
    Best(best::Search),
}

impl CpuBackend {
    /// Computes a group of products, one run of consecutive products with the same input type after the other.
    pub(super) fn products(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        let mut done = 0;
        while done < group.len() {
            let form = self.form(&group[done]);
            let alike = group[done..].iter().take_while(|l| self.form(l) == form).count();
            self.products_of_form(x, rows, &group[done..done + alike], form, After::Keep);
            done += alike;
        }
    }

    /// See [`crate::backend::Operations::gated`].
    pub(super) fn gated_products(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation) {
        let form = self.form(&gate);
        if form == self.form(&up) {
            return self.products_of_form(x, rows, &[gate, up], form, After::Gate(activation));
        }
        self.products(x, rows, &[gate, up]);
        self.gate(gate.out, up.out, activation, rows * gate.weight.out_features);
    }

    /// One product, and the `best.count` largest finite results of each row among its first `best.limit` outputs: (value, output)
    /// pairs, largest first, of equals the lower output; (minus infinity, `u32::MAX`) where a row has fewer.
    pub(super) fn topk_products(&mut self, x: Tensor, rows: usize, product: Linear, best: TopK) {
        let threads = self.pool.threads();
        let mut lists = std::mem::take(&mut self.best);
        let search = best::Search::new(threads, rows, best.count, best.limit, &mut lists);
        let form = self.form(&product);
        self.products_of_form(x, rows, &[product], form, After::Best(search));
        best::Search::merge(&mut lists, rows, best.count, best.found);
        self.best = lists;
    }

    fn form(&self, linear: &Linear) -> Form {
        (self.kernels.form)(self.weights[linear.weight.id as usize].encoding, self.compute)
    }

    /// Converts the input rows to `form`; does nothing for f32.
    fn convert(&mut self, x: Tensor, rows: usize, in_features: usize, form: Form) -> InputRows {
        let place = self.input_rows(rows, in_features);
        if form == Form::F32 {
            return place;
        }
        let from = Shared(self.floats(x, rows * in_features).as_ptr().cast_mut());
        let kernels = self.kernels;
        self.ranges(rows, 1, in_features * 4, &|range, _| {
            for row in range {
                // SAFETY: `x` was checked above to be inside its buffer, and no task writes it; `input_rows` made
                // room for the rows, and each row belongs to one task.
                unsafe { place.convert(kernels, form, row, from.read(row * in_features..(row + 1) * in_features)) };
            }
        });
        place
    }

    /// Memory for the input rows of a product. Grows only without a reservation.
    fn input_rows(&mut self, rows: usize, in_features: usize) -> InputRows {
        let bytes = converted_bytes(rows, in_features);
        if self.converted.as_ref().is_none_or(|buffer| buffer.bytes().len() < bytes) {
            let buffer = Buffer::zeroed(bytes, "inputs of products");
            self.converted = Some(buffer.unwrap_or_else(|error| panic!("{error}")));
        }
        let start = self.converted.as_mut().map_or(std::ptr::null_mut(), Buffer::as_mut_ptr);
        InputRows { bytes: Shared(start), rows, in_features }
    }

    /// The products of a group with consecutive ranges of panels, and the total number of panels.
    fn panels_of(&mut self, rows: usize, group: &[Linear]) -> ([Option<Product>; GROUP_MAX], usize) {
        let mut products: [Option<Product>; GROUP_MAX] = [const { None }; GROUP_MAX];
        let mut panels = 0;
        for (slot, linear) in products.iter_mut().zip(group) {
            assert_eq!(linear.weight.in_features, group[0].weight.in_features, "products of a group share their input");
            let out_features = linear.weight.out_features;
            *slot = Some(Product {
                weight: self.weights[linear.weight.id as usize].clone(),
                bias: linear.bias.map(|b| self.weights[b.id as usize].clone()),
                out_features,
                out: self.shared(linear.out, rows * out_features),
                accumulate: linear.accumulate,
                panels: panels..panels + out_features.div_ceil(PANEL),
            });
            panels += out_features.div_ceil(PANEL);
        }
        (products, panels)
    }

    fn products_of_form(&mut self, x: Tensor, rows: usize, group: &[Linear], form: Form, after: After) {
        assert!(group.len() <= GROUP_MAX, "a group of {} products, at most {GROUP_MAX}", group.len());
        let in_features = group[0].weight.in_features;
        let place = self.convert(x, rows, in_features, form);
        let from = Shared(self.floats(x, rows * in_features).as_ptr().cast_mut());
        let (products, panels) = self.panels_of(rows, group);
        let kernels = self.kernels;
        let run = |product: &Product, panels: Range<usize>, local: &mut Vec<f32>| {
            // SAFETY: checked above to be inside their buffers; the conversion is done, and no task writes an input.
            let x = unsafe {
                match form {
                    Form::F32 => Input::F32(from.read(0..rows * in_features)),
                    Form::Bf16 => Input::Bf16(std::slice::from_raw_parts(
                        place.bytes.start().cast(),
                        converted_bytes(rows, in_features) / 2,
                    )),
                    Form::Int8 => Input::Int8(place.int8()),
                }
            };
            let args = LinearArgs {
                weight: product.weight.matrix(),
                in_features,
                bias: product.bias.as_ref().map(StoredWeight::elements),
                x,
                rows,
                out: product.out.start(),
                out_stride: product.out_features,
                accumulate: product.accumulate,
            };
            let range = panels.start * PANEL..product.out_features.min(panels.end * PANEL);
            // SAFETY: `out` covers [rows, out_features], each task has its own columns, and `new` checked the tier.
            unsafe { (kernels.linear)(&args, range, local) };
        };
        let cost = rows * in_features * PANEL;
        match after {
            After::Best(search) => {
                let [Some(product), ..] = &products else { unreachable!("one product") };
                self.ranges_by_thread(panels, 1, cost, &|range, thread, local| {
                    run(product, range.clone(), local);
                    let columns = range.start * PANEL..product.out_features.min(range.end * PANEL);
                    for row in 0..rows {
                        let part = row * product.out_features + columns.start..row * product.out_features + columns.end;
                        // SAFETY: the output covers the rows; no other task has these columns or the thread's list.
                        unsafe { search.look(thread, row, columns.start, product.out.slice(part)) };
                    }
                });
            }
            After::Keep => self.ranges(panels, 1, cost, &|range, local| {
                for product in products.iter().flatten() {
                    let start = range.start.max(product.panels.start);
                    let end = range.end.min(product.panels.end);
                    if start < end {
                        run(product, start - product.panels.start..end - product.panels.start, local);
                    }
                }
            }),
            After::Gate(activation) => {
                let [Some(gate), Some(up), ..] = &products else { unreachable!("a gate and what it gates") };
                assert_eq!(gate.out_features, up.out_features, "a gate has the shape of what it gates");
                self.ranges(gate.panels.len(), 1, 2 * cost, &|range, local| {
                    run(gate, range.clone(), local);
                    run(up, range.clone(), local);
                    let columns = range.start * PANEL..gate.out_features.min(range.end * PANEL);
                    for row in 0..rows {
                        let part = row * gate.out_features + columns.start..row * gate.out_features + columns.end;
                        // SAFETY: both outputs cover the rows, and these columns are used by this task alone.
                        unsafe { (kernels.gate)(gate.out.slice(part.clone()), up.out.slice(part), activation) };
                    }
                });
            }
        }
    }
}

/// Largest number of products in a group.
const GROUP_MAX: usize = 4;

/// [`Kernels::form`] of every tier without bf16 dot products.
pub fn plain_form(encoding: Encoding, compute: Compute) -> Form {
    match (encoding, compute) {
        (Encoding::Stored(DType::Blocks(_)), Compute::Bf16) | (Encoding::Quantized(_), _) => Form::Int8,
        (Encoding::Stored(_), _) => Form::F32,
    }
}

/// The outputs `range` of a matrix in blocks or in 8-bit floats with f32 inputs: sixteen rows at a time are made f32, and multiplied
/// by `linear` of a tier, which uses no scratch for f32.
///
/// # Safety
/// As [`Kernels::linear`].
#[inline(always)]
pub(super) unsafe fn widened(
    linear: unsafe fn(&LinearArgs, Range<usize>, &mut Vec<f32>),
    args: &LinearArgs,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    let in_features = args.in_features;
    for first in range.clone().step_by(PANEL) {
        let end = range.end.min(first + PANEL);
        scratch.resize(scratch.len().max((end - first) * in_features), 0.0);
        let rows = &mut scratch[..(end - first) * in_features];
        for (row, out) in (first..end).zip(rows.chunks_exact_mut(in_features)) {
            args.weight.widen_row(row, in_features, out);
        }
        // SAFETY: guaranteed by the caller.
        unsafe { linear(&args.part(Elements::F32(rows), first..end), 0..end - first, &mut Vec::new()) };
    }
}

/// As [`widened`], of 8-bit floats with inputs in bf16: the weights are rounded to that. `linear` uses no scratch for bf16.
///
/// # Safety
/// As [`Kernels::linear`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn rounded(
    linear: unsafe fn(&LinearArgs, Range<usize>, &mut Vec<f32>),
    args: &LinearArgs,
    weights: f8::Rows,
    range: Range<usize>,
    scratch: &mut Vec<f32>,
) {
    // Few enough to stay in the first-level cache where they are used once or twice.
    let step = if args.rows <= 2 { PANEL / 4 } else { PANEL };
    for first in range.clone().step_by(step) {
        let end = range.end.min(first + step);
        let rows = aligned(scratch, (end - first) * args.in_features * 2);
        // SAFETY: the scratch is aligned to more than that, and any bytes are valid bits of a bf16.
        let rows = unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast::<u16>(), rows.len() / 2) };
        for (row, out) in (first..end).zip(rows.chunks_exact_mut(args.in_features)) {
            for (i, out) in out.chunks_mut(ROUNDED).enumerate() {
                round(weights, row, i * ROUNDED, out);
            }
        }
        // SAFETY: guaranteed by the caller.
        unsafe { linear(&args.part(Elements::Bf16(rows), first..end), 0..end - first, &mut Vec::new()) };
    }
}

/// Most weights that [`round`] takes.
#[cfg(target_arch = "x86_64")]
pub(super) const ROUNDED: usize = 32;

/// At most [`ROUNDED`] weights of a row from `first` on, rounded to bf16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn round(weights: f8::Rows, row: usize, first: usize, out: &mut [u16]) {
    let mut wide = [0.0; ROUNDED];
    let wide = &mut wide[..out.len()];
    weights.widen(row, first, wide);
    super::portable::to_bf16_any(wide, out);
}

/// `bytes` bytes of a thread's scratch, aligned to 64 bytes. Enlarges the scratch if necessary; contents are arbitrary.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn aligned(scratch: &mut Vec<f32>, bytes: usize) -> &mut [u8] {
    scratch.resize(scratch.len().max((bytes + 64).div_ceil(4)), 0.0);
    let start = scratch.as_ptr().addr().next_multiple_of(64) - scratch.as_ptr().addr();
    // SAFETY: the vector has 64 bytes more than requested; every byte is initialized, and any bytes are a valid f32.
    unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>().add(start), bytes) }
}
