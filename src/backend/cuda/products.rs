//! Matrix products: the choice of kernel and its parameters. `kernels/linear.cuh` explains why results do not depend on
//! the choice.

use super::blaslt;
use super::forms::pitch;
use super::kernels::{Function, Shape, arg};
use super::state::{CudaBackend, Format};
use crate::backend::cpu::Compute;
use crate::backend::{Activation, Linear, Tensor};

/// One weight of a launch; must match `Product` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Product {
    pub weight: u64,
    /// For experts, instead of `weight`: the address table in which expert `e` has entry `e * expert_stride`.
    pub experts: u64,
    pub bias: u64,
    /// For experts, instead of `bias`: the address table in which expert `e` has entry `e * bias_stride`.
    pub biases: u64,
    pub out: u64,
    pub out_features: i32,
    pub accumulate: i32,
    pub first_block: i32,
    pub expert_stride: i32,
    pub bias_stride: i32,
}

/// A launch; must match `Products` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Products {
    pub products: [Product; 4],
    pub count: i32,
    pub in_features: i32,
    pub pitch: i32,
    pub rows: i32,
    pub x: u64,
    pub tiles: u64,
    pub tile_count: u64,
    pub x_rows: u64,
}

/// Must match `Activation` of the kernels.
#[repr(C)]
struct ActivationArg {
    kind: i32,
    alpha: f32,
    limit: f32,
}

impl ActivationArg {
    fn new(activation: Activation) -> ActivationArg {
        let (kind, alpha, limit) = match activation {
            Activation::Silu => (0, 0.0, 0.0),
            Activation::GeluTanh => (1, 0.0, 0.0),
            Activation::Gelu => (2, 0.0, 0.0),
            Activation::Relu2 => (3, 0.0, 0.0),
            Activation::Clamped { alpha, limit } => (4, alpha, limit),
        };
        ActivationArg { kind, alpha, limit }
    }
}

/// A kernel, and the number of outputs and rows per block.
#[derive(Clone, Copy)]
pub struct Choice {
    function: Function,
    out_features: usize,
    pub rows: usize,
}

impl CudaBackend {
    /// The rows of a tile for products of `rows` rows with weights that have `out_features` outputs in total: the largest that
    /// still keeps all multiprocessors busy.
    pub(super) fn tile_rows(&self, rows: usize, out_features: usize) -> usize {
        match rows {
            0..=8 => 8,
            9..=16 => 16,
            17..=32 => 32,
            _ if out_features.div_ceil(128) * rows.div_ceil(128) >= self.device.info.processors as usize => 128,
            _ => 64,
        }
    }

    /// The kernel for tiles of that many rows. It may have others, if there is none of that size for the format: see
    /// [`Choice::rows`].
    pub(super) fn kernel(&self, format: Format, tile_rows: usize) -> Choice {
        let k = &self.kernels;
        let choice = |function, out_features, rows| Choice { function, out_features, rows };
        match (format, tile_rows) {
            (Format::F32, _) => choice(k.linear_f32, 8, 8),
            (Format::Bf16, 8) => choice(k.linear_few8_bf16, 16, 8),
            (Format::Bf16, 16) => choice(k.linear_few16_bf16, 16, 16),
            (Format::Bf16, 32) => choice(k.linear_few32_bf16, 16, 32),
            (Format::Bf16, 64) => choice(k.linear_64x64_bf16, 64, 64),
            (Format::Bf16, _) => choice(k.linear_128x128_bf16, 128, 128),
            (Format::Q8, 8) => choice(k.linear_few8_q8, 16, 8),
            (Format::Q8, 16) => choice(k.linear_few16_q8, 16, 16),
            (Format::Q8, 32) => choice(k.linear_few32_q8, 16, 32),
            (Format::Q8, 64) => choice(k.linear_128x64_q8, 128, 64),
            (Format::Q8, _) => choice(k.linear_128x128_q8, 128, 128),
            (Format::Q4, 8) => choice(k.linear_few8_q4, 16, 8),
            (Format::Q4, 16) => choice(k.linear_few16_q4, 16, 16),
            (Format::Q4, 32) => choice(k.linear_few32_q4, 16, 32),
            (Format::Q4, 64) => choice(k.linear_128x64_q4, 128, 64),
            (Format::Q4, _) => choice(k.linear_128x128_q4, 128, 128),
            (Format::Blocks(format), rows) => {
                let k = k.of_blocks(format);
                match rows {
                    8 => choice(k.few8, 16, 8),
                    16 | 32 => choice(k.few32, 16, 32),
                    _ => choice(k.tile_128x64, 128, 64),
                }
            }
        }
    }

    /// Submits a launch; sets the products' first blocks. `row_blocks` is the maximum number of row tiles.
    ///
    /// # Safety
    /// Weights, inputs and outputs have the sizes given in `args`, in the choice's format.
    pub(super) unsafe fn submit_products(&mut self, choice: Choice, mut args: Products, row_blocks: usize) {
        let mut blocks = 0;
        for product in &mut args.products[..args.count as usize] {
            product.first_block = blocks as i32;
            blocks += (product.out_features as usize).div_ceil(choice.out_features);
        }
        let shape = Shape { grid: [blocks, row_blocks, 1], block: 256, shared: choice.function.shared };
        // SAFETY: the kernels of `choose` have one parameter of this type; the caller's promise.
        unsafe { self.submit(choice.function, shape, &mut [arg(&args)]) };
    }

    /// The input `x` in the form that kernels of this format read, converted if necessary: address, and row pitch in
    /// elements.
    pub(super) fn product_input(&mut self, format: Format, x: Tensor, rows: usize, in_features: usize) -> (u64, usize) {
        let from = self.place(x, rows * in_features);
        if format == Format::F32 {
            return (from, in_features);
        }
        let pitch = pitch(in_features);
        if let Some(address) = self.find_rounded(x, rows, in_features) {
            return (address, pitch);
        }
        let to = self.round_into(x, rows, in_features);
        let (rows, width, pitched) = (rows as i32, in_features as i32, pitch as i32);
        let shape = self.each_element(rows as usize * pitch);
        let mut params = [arg(&from), arg(&to), arg(&rows), arg(&width), arg(&pitched)];
        // SAFETY: x, out, rows, width, pitch of `round_rows`; both places were checked.
        unsafe { self.submit(self.kernels.round_rows, shape, &mut params) };
        (to, pitch)
    }

    /// See [`crate::backend::Operations::linear`].
    pub(super) fn group_products(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        let format_of = |backend: &CudaBackend, linear: &Linear| backend.stored(linear.weight).format;
        let mut rest = group;
        while let Some(first) = rest.first() {
            // Weights of one format share a launch.
            let format = format_of(self, first);
            let same = rest.iter().take_while(|linear| format_of(self, linear) == format).count();
            self.format_products(x, rows, &rest[..same], format);
            rest = &rest[same..];
        }
        group.iter().for_each(|linear| self.wrote(linear.out));
    }

    fn format_products(&mut self, x: Tensor, rows: usize, group: &[Linear], format: Format) {
        let in_features = group[0].weight.in_features;
        let (x, pitch) = self.product_input(format, x, rows, in_features);
        let mut args = Products {
            in_features: in_features as i32,
            pitch: pitch as i32,
            rows: rows as i32,
            x,
            ..Products::default()
        };
        let mut all_outs = 0;
        for linear in group {
            assert!(linear.weight.in_features == in_features, "products of a group share their input");
            if format == Format::Bf16 && self.blas_takes(x, rows, linear) {
                continue;
            }
            let out_features = linear.weight.out_features;
            args.products[args.count as usize] = Product {
                weight: self.stored(linear.weight).matrix,
                bias: linear.bias.map_or(0, |bias| self.vector(bias)),
                out: self.place(linear.out, rows * out_features),
                out_features: out_features as i32,
                accumulate: i32::from(linear.accumulate),
                ..Product::default()
            };
            args.count += 1;
            all_outs += out_features;
        }
        if args.count == 0 {
            return;
        }
        let choice = self.kernel(format, self.tile_rows(rows, all_outs));
        // SAFETY: places were checked against the weights' shapes, and weights have the shapes they were made with.
        unsafe { self.submit_products(choice, args, rows.div_ceil(choice.rows)) };
    }

    /// Submits a product without bias to cuBLASLt, if that is in use and supports it; false otherwise.
    fn blas_takes(&mut self, x: u64, rows: usize, linear: &Linear) -> bool {
        let (Some(blas), None, None) = (&self.blas, linear.bias, &self.failure) else { return false };
        let out_features = linear.weight.out_features;
        let product = blaslt::Product {
            weight: self.stored(linear.weight).matrix,
            x,
            out: self.place(linear.out, rows * out_features),
            out_features,
            pitch: pitch(linear.weight.in_features),
            rows,
            accumulate: linear.accumulate,
        };
        // SAFETY: the places were checked against the weight's shape; the input has whole rows of that pitch.
        match unsafe { blas.multiply(self.device.stream, product) } {
            Ok(true) => {
                if let Some(stream) = self.graphs.capturing()
                    // SAFETY: as above.
                    && !unsafe { blas.multiply(stream, product) }.is_ok_and(|taken| taken)
                {
                    self.graphs.give_up();
                }
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.note(Err(error));
                true
            }
        }
    }

    /// `gate = activation(gate) * up` of `[rows, width]`. Computing in bf16, only the rounded form for products is written.
    pub(super) fn gate_product(&mut self, gate: Tensor, up: Tensor, rows: usize, width: usize, activation: Activation) {
        let (from, with) = (self.place(gate, rows * width), self.place(up, rows * width));
        if self.options.compute == Compute::F32 {
            return self.gate_elements(from, with, rows * width, activation);
        }
        let to = self.round_into(gate, rows, width);
        self.gate_rows(from, with, to, [rows, width], activation);
    }

    /// `to[rows, pitch(width)] = activation(gate) * up`, rounded to bf16; without `up` (0) `activation(gate)`. The addresses
    /// have room for that.
    pub(super) fn gate_rows(&mut self, gate: u64, up: u64, to: u64, size: [usize; 2], activation: Activation) {
        let [rows, width] = size;
        let (shape, activation) = (self.each_element(rows * pitch(width)), ActivationArg::new(activation));
        let (rows, width, pitched) = (rows as i32, width as i32, pitch(width) as i32);
        let mut params = [arg(&gate), arg(&up), arg(&to), arg(&rows), arg(&width), arg(&pitched), arg(&activation)];
        // SAFETY: gate, up, out, rows, width, pitch, activation of `gate_rows`; the callers checked the places.
        unsafe { self.submit(self.kernels.gate_rows, shape, &mut params) };
    }

    /// `gate = activation(gate) * up`; without `up` (0) `activation(gate)`. The addresses have room for that many elements.
    pub(super) fn gate_elements(&mut self, gate: u64, up: u64, elements: usize, activation: Activation) {
        let (shape, count, activation) = (self.each_element(elements), elements as i64, ActivationArg::new(activation));
        let mut params = [arg(&gate), arg(&up), arg(&count), arg(&activation)];
        // SAFETY: gate, up, elements, activation of `gate_elements`; the callers checked the places.
        unsafe { self.submit(self.kernels.gate_elements, shape, &mut params) };
    }

    /// The launch shape of an elementwise kernel: enough threads for all elements, at most 16 blocks per
    /// multiprocessor.
    pub(super) fn each_element(&self, elements: usize) -> Shape {
        let blocks = elements.div_ceil(256).min(self.device.info.processors as usize * 16);
        Shape { grid: [blocks, 1, 1], block: 256, shared: 0 }
    }
}
