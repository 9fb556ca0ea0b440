//! Routed experts: the choice and its lists, and a whole layer through grouped products, against sums in f64; law 1.

use super::host::{Memory, launch, param, shape};
use super::products::{Format, Kernel, Matrix, Product, Products, kernels, pitch, rows_of_bf16};
use super::{Random, begin, close, rounded, same_bits};
use astrai::backend::{RouterGroups, RouterScore, Routing};
use astrai::dtype::BlockFormat;

const EXPERTS: usize = 11;
const CHOSEN: usize = 3;

/// The mirror of `Slots` in kernels/experts.cu.
#[repr(C)]
struct Slots {
    rows: *mut u32,
    of_entry: *mut u32,
    tiles: *mut [i32; 3],
    tile_count: *mut i32,
}

/// The mirror of `Router`.
#[repr(C)]
struct Router {
    logits: *const f32,
    choice_bias: *const f32,
    expert_scale: *const f32,
    chosen_experts: *mut u32,
    weights: *mut f32,
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

/// A router of `experts` experts, with the vectors it has beside its logits.
#[derive(Clone, Debug)]
struct Rules {
    experts: usize,
    routing: Routing,
    choice_bias: Option<Vec<f32>>,
    expert_scale: Option<Vec<f32>>,
}

fn plain(renormalise: bool) -> Rules {
    Rules { experts: EXPERTS, routing: Routing::softmax(CHOSEN, renormalise), choice_bias: None, expert_scale: None }
}

/// The experts of each row, ascending, and their weights; `warps` rows in a block.
fn choose(logits: &[f32], rules: &Rules, warps: usize) -> (Memory, Memory) {
    let (experts, routing) = (rules.experts, rules.routing);
    let (rows, chosen) = (logits.len() / experts, routing.chosen);
    let groups = routing.groups.unwrap_or(RouterGroups { count: 0, chosen: 0, best: 0 });
    let (input, ids, weights) = (Memory::of(logits), Memory::new(rows * chosen * 4), Memory::new(rows * chosen * 4));
    let [bias, scale] = [&rules.choice_bias, &rules.expert_scale].map(|v| v.as_ref().map(|v| Memory::of(v)));
    let at = |memory: &Option<Memory>| memory.as_ref().map_or(std::ptr::null(), |m| m.at::<f32>().cast_const());
    let router = Router {
        logits: input.at(),
        choice_bias: at(&bias),
        expert_scale: at(&scale),
        chosen_experts: ids.at(),
        weights: weights.at(),
        rows: rows as i32,
        experts: experts as i32,
        chosen: chosen as i32,
        sigmoid: i32::from(routing.score == RouterScore::Sigmoid),
        renormalise: routing.renormalise.into(),
        epsilon: routing.epsilon,
        factor: routing.factor,
        groups: groups.count as i32,
        groups_chosen: groups.chosen as i32,
        group_best: groups.best as i32,
    };
    let shared = warps * (experts + 2 * chosen + 2 * groups.count) * 4;
    launch("experts_route", shape([rows.div_ceil(warps), 1, 1], 32 * warps, shared), &[param(&router)]);
    (ids, weights)
}

/// The lists of a step.
struct Lists {
    chosen: Memory,
    weights: Memory,
    rows: Memory,
    of_entry: Memory,
    tiles: Memory,
    tile_count: Memory,
    tiles_max: usize,
}

fn route(logits: &[f32], renormalise: bool, tile_rows: usize) -> Lists {
    let rows = logits.len() / EXPERTS;
    let entries = rows * CHOSEN;
    let [of_rows, of_entry] = [0; 2].map(|_| Memory::new(entries * 4));
    let (chosen, weights) = choose(logits, &plain(renormalise), 4);
    let tiles_max = entries / tile_rows + EXPERTS;
    let counts = Memory::new(EXPERTS * 4);
    let lists = Lists {
        chosen,
        weights,
        rows: of_rows,
        of_entry,
        tiles: Memory::new(tiles_max * 12),
        tile_count: Memory::new(4),
        tiles_max,
    };
    let numbers = [CHOSEN, entries, tile_rows].map(|n| n as i32);
    let [c, entries, tile_rows] = [0, 1, 2].map(|i| param(&numbers[i]));
    launch("experts_count", shape([EXPERTS, 1, 1], 256, 0), &[lists.chosen.param(), counts.param(), entries]);
    let slots = Slots {
        rows: lists.rows.at(),
        of_entry: lists.of_entry.at(),
        tiles: lists.tiles.at(),
        tile_count: lists.tile_count.at(),
    };
    let params = [lists.chosen.param(), counts.param(), param(&slots), entries, c, tile_rows];
    launch("experts_place", shape([EXPERTS, 1, 1], 256, 0), &params);
    lists
}

/// The experts of a row in ascending order, and their weights.
fn expected_choice(logits: &[f32], rules: &Rules) -> Vec<(usize, f64)> {
    let routing = rules.routing;
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let score = |i: usize| match routing.score {
        RouterScore::Softmax => f64::from(logits[i]).exp() / total,
        RouterScore::Sigmoid => 1.0 / (1.0 + (-f64::from(logits[i])).exp()),
    };
    let of = |vector: &Option<Vec<f32>>, i: usize, none: f64| vector.as_ref().map_or(none, |v| v[i].into());
    let best_first = |mut all: Vec<(usize, f64)>| {
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    };
    let ranks = (0..rules.experts).map(|i| (i, score(i) + of(&rules.choice_bias, i, 0.0)));
    let mut all = best_first(ranks.collect());
    if let Some(groups) = routing.groups {
        let size = rules.experts / groups.count;
        let sum = |g| all.iter().filter(|c| c.0 / size == g).take(groups.best).map(|c| c.1).sum::<f64>();
        let chosen = best_first((0..groups.count).map(|g| (g, sum(g))).collect());
        all.retain(|c| chosen[..groups.chosen].iter().any(|g| g.0 == c.0 / size));
    }
    all.truncate(routing.chosen);
    let sum: f64 = all.iter().map(|c| score(c.0)).sum::<f64>() + f64::from(routing.epsilon);
    let divisor = if routing.renormalise { sum } else { 1.0 };
    all.iter_mut().for_each(|c| {
        c.1 = score(c.0) / divisor * f64::from(routing.factor) * of(&rules.expert_scale, c.0, 1.0);
    });
    all.sort_by_key(|c| c.0);
    all
}

fn logits(rows: usize, random: &mut Random) -> Vec<f32> {
    let mut logits: Vec<f32> = random.vec(rows * EXPERTS).iter().map(|v| v * 3.0).collect();
    // Equals: the lower ones are chosen.
    logits[..EXPERTS].fill(0.5);
    logits
}

#[test]
fn rows_go_to_their_most_probable_experts() {
    if !begin() {
        return;
    }
    for (rows, renormalise, tile_rows) in [(1, true, 8), (7, false, 8), (200, true, 16)] {
        let logits = logits(rows, &mut Random(rows as u64));
        let lists = route(&logits, renormalise, tile_rows);
        let expected: Vec<(usize, f64)> =
            logits.chunks(EXPERTS).flat_map(|row| expected_choice(row, &plain(renormalise))).collect();
        let chosen: Vec<usize> = lists.chosen.read::<u32>().iter().map(|&e| e as usize).collect();
        assert_eq!(chosen, expected.iter().map(|c| c.0).collect::<Vec<_>>());
        close("weights", &lists.weights.read(), &expected.iter().map(|c| c.1).collect::<Vec<_>>(), 1e-6);
        // Slots: by expert, then by row.
        let mut order: Vec<usize> = (0..rows * CHOSEN).collect();
        order.sort_by_key(|&entry| (chosen[entry], entry));
        let (slot_rows, of_entry) = (lists.rows.read::<u32>(), lists.of_entry.read::<u32>());
        for (slot, &entry) in order.iter().enumerate() {
            assert_eq!((slot_rows[slot] as usize, of_entry[entry] as usize), (entry / CHOSEN, slot));
        }
        let count = lists.tile_count.read::<i32>()[0] as usize;
        let mut next = 0;
        for [expert, first, rows] in lists.tiles.read::<[i32; 3]>().into_iter().take(count) {
            assert_eq!(first, next);
            assert!(rows >= 1 && rows <= tile_rows as i32);
            for slot in first..first + rows {
                assert_eq!(chosen[order[slot as usize]] as i32, expert);
            }
            next += rows;
        }
        assert!(next as usize == rows * CHOSEN && count <= lists.tiles_max);
    }
}

/// Both scores, biases of the choice, groups, factors; as many rows in a block as there is room for.
#[test]
fn experts_are_chosen_by_all_rules() {
    if !begin() {
        return;
    }
    let mut random = Random(77);
    let sigmoid = Routing { score: RouterScore::Sigmoid, epsilon: 1e-2, factor: 2.5, ..Routing::softmax(3, true) };
    let groups = |count, chosen, best| Some(RouterGroups { count, chosen, best });
    let rules = |experts, routing, bias: bool, scale: bool, random: &mut Random| Rules {
        experts,
        routing,
        choice_bias: bias.then(|| random.vec(experts)),
        expert_scale: scale.then(|| random.vec(experts)),
    };
    let all = [
        rules(11, sigmoid, false, false, &mut random),
        rules(11, sigmoid, true, true, &mut random),
        rules(70, Routing { renormalise: false, ..sigmoid }, true, false, &mut random),
        rules(12, Routing::softmax(12, true), true, true, &mut random),
        rules(12, Routing { groups: groups(4, 2, 2), ..sigmoid }, true, false, &mut random),
        rules(
            12,
            Routing { chosen: 6, groups: groups(4, 2, 1), ..Routing::softmax(1, true) },
            false,
            true,
            &mut random,
        ),
        rules(256, Routing { chosen: 8, groups: groups(8, 4, 2), ..sigmoid }, true, false, &mut random),
        // A group's best are at most all of it; groups of one expert; more groups than lanes.
        rules(12, Routing { groups: groups(6, 2, 5), ..sigmoid }, false, false, &mut random),
        rules(40, Routing { groups: groups(40, 5, 1), ..sigmoid }, true, false, &mut random),
        rules(1, Routing { chosen: 1, ..sigmoid }, false, false, &mut random),
    ];
    for rules in all {
        let experts = rules.experts;
        let mut logits: Vec<f32> = random.vec(6 * experts).iter().map(|v| v * 4.0).collect();
        // Equals: the lower ones are chosen, and the lower groups.
        logits[..experts].fill(0.5);
        let bits = |v: &Memory| v.read::<u32>();
        let (ids, weights) = choose(&logits, &rules, 4);
        let expected: Vec<(usize, f64)> = logits.chunks(experts).flat_map(|row| expected_choice(row, &rules)).collect();
        let chosen: Vec<usize> = ids.read::<u32>().iter().map(|&id| id as usize).collect();
        assert_eq!(chosen, expected.iter().map(|c| c.0).collect::<Vec<_>>(), "{rules:?}");
        close("weights", &weights.read(), &expected.iter().map(|c| c.1).collect::<Vec<_>>(), 2e-6);
        for warps in [1, 3] {
            let (other, same) = choose(&logits, &rules, warps);
            assert_eq!((bits(&other), bits(&same)), (bits(&ids), bits(&weights)), "{warps} warps, {rules:?}");
        }
        let (alone, weight) = choose(&logits[5 * experts..], &rules, 4);
        let last = 5 * rules.routing.chosen;
        assert_eq!((bits(&alone), bits(&weight)), (bits(&ids)[last..].to_vec(), bits(&weights)[last..].to_vec()));
    }
}

/// Logits that are no numbers choose experts that there are.
#[test]
fn a_nan_chooses_experts_that_exist() {
    if !begin() {
        return;
    }
    for bits in [0x7FC0_0000u32, 0xFFC0_0000, 0xFFFF_FFFF] {
        for score in [RouterScore::Softmax, RouterScore::Sigmoid] {
            for groups in [None, Some(RouterGroups { count: 4, chosen: 2, best: 2 })] {
                let routing = Routing { score, groups, ..Routing::softmax(CHOSEN, true) };
                let rules = Rules { experts: 12, routing, choice_bias: None, expert_scale: None };
                let mut logits = Random(1).vec(2 * 12);
                logits[..12].fill(f32::from_bits(bits));
                let ids = choose(&logits, &rules, 4).0.read::<u32>();
                assert!(
                    ids[..3].windows(2).all(|pair| pair[0] < pair[1]) && ids[2] < 12,
                    "{bits:x} {rules:?}: {ids:?}"
                );
                assert_eq!(
                    ids[3..].iter().map(|&id| id as usize).collect::<Vec<_>>(),
                    expected_choice(&logits[12..], &rules).iter().map(|c| c.0).collect::<Vec<_>>()
                );
            }
        }
    }
}

/// One product of every expert that has rows.
fn grouped(
    kernel: &Kernel,
    weights: &[Matrix],
    biases: Option<&[Memory]>,
    lists: &Lists,
    x: &Memory,
    by_row: bool,
    slots: usize,
) -> Vec<f32> {
    let (out_features, in_features) = (weights[0].out_features, weights[0].in_features);
    let table: Vec<*const u8> = weights.iter().map(|w| w.memory.at::<u8>().cast_const()).collect();
    // SAFETY: addresses are plain numbers of eight bytes.
    let table = Memory::of(unsafe { std::slice::from_raw_parts(table.as_ptr().cast::<u64>(), table.len()) });
    // With the biases of another layer between them.
    let addresses = |biases: &[Memory]| -> Vec<u64> {
        biases.iter().flat_map(|bias| [bias.at::<u8>().addr() as u64, u64::MAX]).collect()
    };
    let bias_table = biases.map(|biases| Memory::of(&addresses(biases)));
    let out = Memory::new(slots * out_features * 4);
    let product = Product {
        weight: std::ptr::null(),
        experts: table.at(),
        bias: std::ptr::null(),
        biases: bias_table.as_ref().map_or(std::ptr::null(), |table| table.at::<*const f32>().cast_const()),
        out: out.at(),
        out_features: out_features as i32,
        accumulate: 0,
        first_block: 0,
        expert_stride: 1,
        bias_stride: 2,
    };
    let f32s = kernel.format == Format::F32;
    let args = Products {
        products: [product; 4],
        count: 1,
        in_features: in_features as i32,
        pitch: if f32s { in_features } else { pitch(in_features) } as i32,
        rows: 0,
        x: x.at(),
        tiles: lists.tiles.at(),
        tile_count: lists.tile_count.at(),
        x_rows: if by_row { lists.rows.at() } else { std::ptr::null() },
    };
    launch(
        &kernel.name,
        shape([out_features.div_ceil(kernel.out_features), lists.tiles_max, 1], 256, kernel.shared()),
        &[param(&args)],
    );
    out.read()
}

/// out += sum_j p_j * down_j(up_j(x) + bias_j), the gate left out.
fn layer(kernel: &Kernel, up: &[Matrix], biases: &[Memory], down: &[Matrix], logits: &[f32], x: &[f32]) -> Vec<f32> {
    let (hidden, inner, rows) = (up[0].in_features, up[0].out_features, x.len() / up[0].in_features);
    let lists = route(logits, true, kernel.rows);
    let form = |x: &[f32], width| {
        if kernel.format == Format::F32 { Memory::of(x) } else { Memory::of(&rows_of_bf16(x, width)) }
    };
    let slots = rows * CHOSEN;
    let between = grouped(kernel, up, Some(biases), &lists, &form(x, hidden), true, slots);
    let y = Memory::of(&grouped(kernel, down, None, &lists, &form(&between, inner), false, slots));
    let out = Memory::of(&vec![1f32; rows * hidden]);
    let sizes = [rows, CHOSEN, hidden].map(|n| n as i32);
    let params = [y.param(), lists.of_entry.param(), lists.weights.param(), out.param()];
    let params: Vec<_> = params.into_iter().chain([0, 1, 2].map(|i| param(&sizes[i]))).collect();
    launch("experts_combine", shape([2, 1, 1], 256, 0), &params);
    out.read()
}

#[test]
fn experts_agree_with_exact_sums_and_rows_keep_their_bits() {
    if !begin() {
        return;
    }
    let rows = 26;
    // Blocks of any format are found in the same way.
    let serves = |k: &Kernel| !matches!(k.format, Format::Blocks(format) if format != BlockFormat::Q4K);
    for kernel in kernels().iter().filter(|k| serves(k) && (k.rows == 8 || k.rows == 64)) {
        let [hidden, inner] = [72, 40].map(|width| kernel.format.width(width));
        let mut random = Random(9);
        let mut matrices = |out_features, in_features| -> Vec<Matrix> {
            (0..EXPERTS).map(|_| Matrix::new(kernel.format, out_features, in_features, &mut random)).collect()
        };
        let (up, down) = (matrices(inner, hidden), matrices(hidden, inner));
        let biases: Vec<Vec<f32>> = (0..EXPERTS).map(|_| random.vec(inner)).collect();
        let stored: Vec<Memory> = biases.iter().map(|bias| Memory::of(bias)).collect();
        let logits = logits(rows, &mut random);
        let x: Vec<f32> = random.vec(rows * hidden).into_iter().map(rounded).collect();
        let got = layer(kernel, &up, &stored, &down, &logits, &x);
        for row in 0..rows {
            let of_row = (&logits[row * EXPERTS..(row + 1) * EXPERTS], &x[row * hidden..(row + 1) * hidden]);
            let mut expected = vec![1f64; hidden];
            for (expert, weight) in expected_choice(of_row.0, &plain(true)) {
                let between: Vec<f32> =
                    (0..inner).map(|o| up[expert].dot(of_row.1, o).0 as f32 + biases[expert][o]).collect();
                for (o, sum) in expected.iter_mut().enumerate() {
                    *sum += weight * down[expert].dot(&between, o).0;
                }
            }
            // The product between is rounded to bf16 but for f32.
            let tolerance = if kernel.format == Format::F32 { 1e-4 } else { 0.15 };
            close(&kernel.name, &got[row * hidden..(row + 1) * hidden], &expected, tolerance);
            if row == 17 {
                let alone = layer(kernel, &up, &stored, &down, of_row.0, of_row.1);
                same_bits(&kernel.name, &got[row * hidden..(row + 1) * hidden], &alone);
            }
        }
    }
}
