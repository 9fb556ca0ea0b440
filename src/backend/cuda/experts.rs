//! Routed experts on the device: the routing, the lists of rows per expert, the grouped products, the weighted sum.

use super::forms::pitch;
use super::kernels::{Shape, arg};
use super::products::{Product, Products};
use super::state::{CudaBackend, Format};
use crate::backend::{Experts, Weight};
use crate::error::Error;

/// The output of `experts_place`; must match `Slots` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slots {
    rows: u64,
    of_entry: u64,
    tiles: u64,
    tile_count: u64,
}

/// Shared memory of `experts_route` in bytes per chosen expert: 8 for each of the block's four warps.
const ROUTE_BYTES: usize = 4 * 8;

impl CudaBackend {
    /// See [`crate::backend::Operations::experts`].
    pub(super) fn run_experts(&mut self, args: Experts, rows: usize) {
        let (count, chosen) = (args.experts.len(), args.routing.chosen.min(args.experts.len()));
        let Some(first) = args.experts.first() else { return };
        let (hidden, inner, entries) = (first.gate.in_features, first.gate.out_features, rows * chosen);
        let [gate_format, up_format, down_format] = [first.gate, first.up, first.down].map(|w| self.stored(w).format);
        let logits = self.place(args.logits, rows * count);
        let out = self.place(args.out, rows * hidden);
        let x_of_gate = self.product_input(gate_format, args.x, rows, hidden);
        let x_of_up = self.product_input(up_format, args.x, rows, hidden);
        let l = &self.scratch().lists;
        let (ids, weights, counts) = (l.chosen.address, l.weights.address, l.counts.address);
        let slots = Slots {
            rows: l.rows.address,
            of_entry: l.of_entry.address,
            tiles: l.tiles.address,
            tile_count: l.tile_count.address,
        };
        let (gate, up, rounded, y) = (l.gate.address, l.up.address, l.inner.address, l.out.address);
        assert!(entries * 4 <= l.chosen.bytes && entries * inner * 4 <= l.gate.bytes, "{entries} entries of {inner}");

        let (rows_arg, count_arg, chosen_arg) = (rows as i32, count as i32, chosen as i32);
        let (entries_arg, renormalise) = (entries as i32, i32::from(args.routing.renormalise));
        let route = Shape { grid: [rows.div_ceil(4), 1, 1], block: 128, shared: ROUTE_BYTES * chosen };
        let mut params = [
            arg(&logits),
            arg(&ids),
            arg(&weights),
            arg(&rows_arg),
            arg(&count_arg),
            arg(&chosen_arg),
            arg(&renormalise),
        ];
        // SAFETY: the parameters of `experts_route`; logits and lists have room for these rows.
        unsafe { self.submit(self.kernels.experts_route, route, &mut params) };
        let each = Shape { grid: [count, 1, 1], block: 256, shared: 0 };
        // SAFETY: the parameters of `experts_count`; the lists have room.
        unsafe { self.submit(self.kernels.experts_count, each, &mut [arg(&ids), arg(&counts), arg(&entries_arg)]) };
        // On average an expert gets few rows, even in a large step. All products go through the same tiles; where a format has no
        // kernel for them, those that it takes instead suit every format.
        let wanted = self.tile_rows(entries.div_ceil(count), inner * count.min(entries));
        let taken = [gate_format, up_format, down_format].map(|format| self.kernel(format, wanted).rows);
        let tile = taken.into_iter().find(|rows| *rows != wanted).unwrap_or(wanted);
        let [gate_kernel, up_kernel, down_kernel] = [gate_format, up_format, down_format].map(|f| self.kernel(f, tile));
        let tile_rows = tile as i32;
        let mut params = [arg(&ids), arg(&counts), arg(&slots), arg(&entries_arg), arg(&chosen_arg), arg(&tile_rows)];
        // SAFETY: the parameters of `experts_place`; the lists have room for the tiles of the smallest kind.
        unsafe { self.submit(self.kernels.experts_place, each, &mut params) };

        let tiles_max = entries / tile + count.min(entries);
        let table = self.scratch().addresses.address;
        let product = |matrix: Weight, out: u64, out_features: usize, stride: i32| Product {
            experts: table + u64::from(matrix.id) * 8,
            out,
            out_features: out_features as i32,
            expert_stride: stride,
            ..Product::default()
        };
        let stride = self.strides(&args);
        let products = |first: Product, second: Option<Product>, (x, pitch): (u64, usize)| Products {
            products: [first, second.unwrap_or_default(), Product::default(), Product::default()],
            count: 1 + i32::from(second.is_some()),
            in_features: hidden as i32,
            pitch: pitch as i32,
            rows: entries as i32,
            x,
            tiles: slots.tiles,
            tile_count: slots.tile_count,
            x_rows: slots.rows,
        };
        let (gates, ups) = (product(first.gate, gate, inner, stride[0]), product(first.up, up, inner, stride[1]));
        // SAFETY: experts have one shape; gate and up have room for all entries, and the slots' rows are rows of x.
        unsafe {
            if gate_format == up_format {
                self.submit_products(gate_kernel, products(gates, Some(ups), x_of_gate), tiles_max);
            } else {
                self.submit_products(gate_kernel, products(gates, None, x_of_gate), tiles_max);
                self.submit_products(up_kernel, products(ups, None, x_of_up), tiles_max);
            }
        }
        let x_of_down = if down_format == Format::F32 {
            self.silu_elements(gate, up, entries * inner);
            (gate, inner)
        } else {
            self.silu_rows(gate, up, rounded, entries, inner);
            (rounded, pitch(inner))
        };
        let downs = product(first.down, y, hidden, stride[2]);
        let down = Products { in_features: inner as i32, x_rows: 0, ..products(downs, None, x_of_down) };
        // SAFETY: as above.
        unsafe { self.submit_products(down_kernel, down, tiles_max) };
        let (shape, width) = (self.each_element(rows * hidden), hidden as i32);
        let mut params =
            [arg(&y), arg(&slots.of_entry), arg(&weights), arg(&out), arg(&rows_arg), arg(&chosen_arg), arg(&width)];
        // SAFETY: the parameters of `experts_combine`; all places have room for these rows.
        unsafe { self.submit(self.kernels.experts_combine, shape, &mut params) };
        self.wrote(args.out);
    }

    /// For gate, up and down: the distance between consecutive experts' matrices in the address table. It must be the
    /// same for all experts, which holds as they are bound one after the other.
    fn strides(&mut self, args: &Experts) -> [i32; 3] {
        let stride = |backend: &mut CudaBackend, of: fn(&crate::backend::Expert) -> Weight| {
            let second = args.experts.get(1).map_or(0, |e| i64::from(of(e).id) - i64::from(of(&args.experts[0]).id));
            let id = |i: usize| i64::from(of(&args.experts[i]).id);
            if (1..args.experts.len()).any(|i| id(i) != id(0) + second * i as i64) {
                backend.note(Err(Error::internal("the matrices of experts were not bound at equal distances")));
            }
            let format = |i: usize| backend.stored(of(&args.experts[i])).format;
            if (1..args.experts.len()).any(|i| format(i) != format(0)) {
                let message = "the experts of a layer have matrices of different types, for which a GPU has no kernel; use the CPU";
                backend.note(Err(Error::unsupported(message)));
            }
            second as i32
        };
        [stride(self, |e| e.gate), stride(self, |e| e.up), stride(self, |e| e.down)]
    }
}
