//! Routed experts on the device: the routing, the lists of rows per expert, the grouped products, the weighted sum.

use super::forms::pitch;
use super::kernels::{Shape, arg};
use super::products::{Product, Products};
use super::state::{CudaBackend, Format};
use crate::backend::{Expert, Experts, RouterGroups, RouterScore, Weight};
use crate::error::Error;

/// One kind of an expert's matrices, with its bias.
type Part = fn(&Expert) -> (Weight, Option<Weight>);

/// The output of `experts_place`; must match `Slots` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slots {
    rows: u64,
    of_entry: u64,
    tiles: u64,
    tile_count: u64,
}

/// The parameter of `experts_route`; must match `Router` of the kernels.
#[repr(C)]
struct Router {
    logits: u64,
    choice_bias: u64,
    expert_scale: u64,
    chosen_experts: u64,
    weights: u64,
    rows: i32,
    experts: i32,
    chosen: i32,
    sigmoid: i32,
    renormalise: i32,
    epsilon: f32,
    factor: f32,
    groups: i32,
    groups_chosen: i32,
    group_best: i32,
}

/// Most warps of a block of `experts_route`, each with a row, and the shared memory they may use in bytes.
const ROUTE_WARPS: usize = 4;
const ROUTE_BYTES: usize = 48 << 10;

/// Experts chosen for a row: as many as asked for, if so many are in the chosen groups.
fn chosen(args: &Experts) -> usize {
    let among =
        args.routing.groups.map_or(args.experts.len(), |g| args.experts.len() / g.count * g.chosen.min(g.count));
    args.routing.chosen.min(among)
}

impl CudaBackend {
    /// Submits the choice of experts for `rows` rows.
    fn route(&mut self, args: &Experts, rows: usize) {
        let (count, chosen, routing) = (args.experts.len(), chosen(args), args.routing);
        let groups = routing.groups.unwrap_or(RouterGroups { count: 0, chosen: 0, best: 0 });
        let [choice_bias, expert_scale] = [args.choice_bias, args.expert_scale].map(|vector| {
            vector.map_or(0, |vector| {
                assert!(vector.in_features == count, "{} numbers of {count} experts", vector.in_features);
                self.vector(vector)
            })
        });
        let router = Router {
            logits: self.place(args.logits, rows * count),
            choice_bias,
            expert_scale,
            chosen_experts: self.scratch().lists.chosen.address,
            weights: self.scratch().lists.weights.address,
            rows: rows as i32,
            experts: count as i32,
            chosen: chosen as i32,
            sigmoid: i32::from(routing.score == RouterScore::Sigmoid),
            renormalise: i32::from(routing.renormalise),
            epsilon: routing.epsilon,
            factor: routing.factor,
            groups: groups.count as i32,
            groups_chosen: groups.chosen.min(groups.count) as i32,
            group_best: groups.best as i32,
        };
        let warp = (count + 2 * chosen + 2 * groups.count) * 4;
        if warp > ROUTE_BYTES {
            let message = format!("{chosen} of {count} experts are more than the CUDA backend chooses; use the CPU");
            return self.note(Err(Error::unsupported(message)));
        }
        let warps = (ROUTE_BYTES / warp).clamp(1, ROUTE_WARPS);
        let shape = Shape { grid: [rows.div_ceil(warps), 1, 1], block: 32 * warps, shared: warps * warp };
        // SAFETY: the one parameter of the kernel; logits and lists have room for these rows.
        unsafe { self.submit(self.kernels.experts_route, shape, &mut [arg(&router)]) };
    }

    /// See [`crate::backend::Operations::experts`].
    pub(super) fn run_experts(&mut self, args: Experts, rows: usize) {
        let Some(first) = args.experts.first() else { return };
        let (count, chosen) = (args.experts.len(), chosen(&args));
        let (hidden, inner, entries) = (first.up.0.in_features, first.up.0.out_features, rows * chosen);
        let out = self.place(args.out, rows * hidden);
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

        self.route(&args, rows);
        let (rows_arg, chosen_arg, entries_arg) = (rows as i32, chosen as i32, entries as i32);
        let each = Shape { grid: [count, 1, 1], block: 256, shared: 0 };
        // SAFETY: the parameters of `experts_count`; the lists have room.
        unsafe { self.submit(self.kernels.experts_count, each, &mut [arg(&ids), arg(&counts), arg(&entries_arg)]) };
        let gates = first.gate.map(|_| self.experts_product(&args, |e| e.gate.unwrap_or(e.up), gate));
        // An expert that is not gated has its one input in the place of the gate.
        let ups = self.experts_product(&args, |e| e.up, if gates.is_some() { up } else { gate });
        let downs = self.experts_product(&args, |e| e.down, y);
        // On average an expert gets few rows, even in a large step. All products go through the same tiles; where a format has no
        // kernel for them, those that it takes instead suit every format.
        let wanted = self.tile_rows(entries.div_ceil(count), inner * count.min(entries));
        let formats = [gates.unwrap_or(ups).0, ups.0, downs.0];
        let taken = formats.map(|format| self.kernel(format, wanted).rows);
        let tile = taken.into_iter().find(|rows| *rows != wanted).unwrap_or(wanted);
        let tile_rows = tile as i32;
        let mut params = [arg(&ids), arg(&counts), arg(&slots), arg(&entries_arg), arg(&chosen_arg), arg(&tile_rows)];
        // SAFETY: the parameters of `experts_place`; the lists have room for the tiles of the smallest kind.
        unsafe { self.submit(self.kernels.experts_place, each, &mut params) };

        let tiles_max = entries / tile + count.min(entries);
        let launch = Products {
            rows: entries as i32,
            tiles: slots.tiles,
            tile_count: slots.tile_count,
            x_rows: slots.rows,
            ..Products::default()
        };
        let multiply = |backend: &mut CudaBackend, format: Format, group: &[Product]| {
            let (x, pitch) = backend.product_input(format, args.x, rows, hidden);
            let mut args =
                Products { count: group.len() as i32, in_features: hidden as i32, pitch: pitch as i32, x, ..launch };
            args.products[..group.len()].copy_from_slice(group);
            // SAFETY: experts have one shape; gate and up have room for all entries, and the slots' rows are rows of x.
            unsafe { backend.submit_products(backend.kernel(format, tile), args, tiles_max) };
        };
        match gates {
            Some(gates) if gates.0 == ups.0 => multiply(self, ups.0, &[gates.1, ups.1]),
            Some(gates) => [gates, ups].into_iter().for_each(|(format, one)| multiply(self, format, &[one])),
            None => multiply(self, ups.0, &[ups.1]),
        }
        let second = if gates.is_some() { up } else { 0 };
        let (x, pitch) = if downs.0 == Format::F32 {
            self.gate_elements(gate, second, entries * inner, args.activation);
            (gate, inner)
        } else {
            self.gate_rows(gate, second, rounded, [entries, inner], args.activation);
            (rounded, pitch(inner))
        };
        let mut down = Products { count: 1, in_features: inner as i32, pitch: pitch as i32, x, x_rows: 0, ..launch };
        down.products[0] = downs.1;
        // SAFETY: as above.
        unsafe { self.submit_products(self.kernel(downs.0, tile), down, tiles_max) };
        let (shape, width) = (self.each_element(rows * hidden), hidden as i32);
        let mut params =
            [arg(&y), arg(&slots.of_entry), arg(&weights), arg(&out), arg(&rows_arg), arg(&chosen_arg), arg(&width)];
        // SAFETY: the parameters of `experts_combine`; all places have room for these rows.
        unsafe { self.submit(self.kernels.experts_combine, shape, &mut params) };
        self.wrote(args.out);
    }

    /// The products of one kind of the experts' matrices, as all experts have it, with results to `out`; and their format.
    fn experts_product(&mut self, args: &Experts, of: Part, out: u64) -> (Format, Product) {
        let (matrix, bias) = of(&args.experts[0]);
        let format = self.stored(matrix).format;
        if args.experts.iter().any(|e| self.stored(of(e).0).format != format) {
            let message =
                "the experts of a layer have matrices of different types, for which a GPU has no kernel; use the CPU";
            self.note(Err(Error::unsupported(message)));
        }
        if args.experts.iter().any(|e| of(e).1.is_some() != bias.is_some()) {
            self.note(Err(Error::internal("some experts of a layer have biases and others have none")));
        }
        let (matrices, weights) = (self.scratch().addresses.address, self.weights.len() as u64);
        let vectors = matrices + weights * 8;
        let product = Product {
            experts: matrices + u64::from(matrix.id) * 8,
            biases: bias.map_or(0, |bias| vectors + u64::from(bias.id) * 8),
            out,
            out_features: matrix.out_features as i32,
            expert_stride: self.stride(args, |e| Some(of(e).0)),
            bias_stride: self.stride(args, |e| of(e).1),
            ..Product::default()
        };
        (format, product)
    }

    /// The distance between consecutive experts' weights in the address table. It must be the same for all experts, which holds as
    /// they are bound one after the other.
    fn stride(&mut self, args: &Experts, of: impl Fn(&Expert) -> Option<Weight>) -> i32 {
        let id = |index: usize| args.experts.get(index).and_then(&of).map_or(0, |weight| i64::from(weight.id));
        let distance = if args.experts.len() > 1 { id(1) - id(0) } else { 0 };
        if (1..args.experts.len()).any(|i| id(i) != id(0) + distance * i as i64) {
            self.note(Err(Error::internal("the weights of experts were not bound at equal distances")));
        }
        distance as i32
    }
}
