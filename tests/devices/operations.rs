//! Every operation in one step, on any device: all agree with the CPU's reference tier, and rows do not depend on each other.
//!
//! The tests of single kernels know their sizes; these hold what is between a forward pass and the kernels to the same numbers.

use crate::kernels::stored;
use crate::support::plain_device;
use crate::support::random::Random;
use astrai::backend::cpu::{Compute, Tier, tiers};
use astrai::backend::device::{Device, DeviceOptions, ProbedDevice, probe};
use astrai::backend::*;
use astrai::dtype::DType;
use astrai::encoding::Encoding;
use astrai::sampling::{AllowedTokens, SamplingKind, SamplingOutput, SamplingRequest};

const VOCAB: usize = 9;
const HIDDEN: usize = 40;
const INNER: usize = 24;
const EXPERTS: usize = 8;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const K_DIM: usize = 16;
const V_DIM: usize = 8;
const PAGE_TOKENS: usize = 4;
const CAP: f32 = 1.5;

/// Rows of two sequences: sequence, position, token.
const ROWS: [(u32, u32, u32); 5] = [(0, 5, 3), (0, 6, 0), (0, 7, 7), (1, 20, 5), (1, 21, 8)];

const ACTIVATIONS: [Activation; 5] = [
    Activation::Silu,
    Activation::GeluTanh,
    Activation::Gelu,
    Activation::Relu2,
    Activation::Clamped { alpha: 1.702, limit: 0.75 },
];

/// The rows of a result, and what it is of.
pub type Outcome = (String, Vec<Vec<f32>>);

/// A result that is read when the step has ended: its name, where it is, its rows' width.
type Place = (String, Tensor, usize);

/// A device with weights, pages and tensors, ready for steps.
pub struct Bench {
    b: Box<dyn Backend>,
    weights: Weights,
    pages: KvPages,
    /// Tensors that were handed out, and how many of them the current step has taken.
    tensors: Vec<(Tensor, usize)>,
    taken: usize,
    rows_max: usize,
}

struct Weights {
    table: Weight,
    router_table: Weight,
    gain: Weight,
    bias: Weight,
    gate: Weight,
    up: Weight,
    inner_bias: Weight,
    down: Weight,
    qkv: [Weight; 3],
    head_gate: Weight,
    sinks: Weight,
    gated: Vec<Expert>,
    plain: Vec<Expert>,
    choice_bias: Weight,
    expert_scale: Weight,
}

/// Weights are bf16 numbers, so that a device which stores them so is not measured by that.
struct Source<'a>(&'a mut dyn Backend, Random);

impl Source<'_> {
    fn matrix(&mut self, out_features: usize, in_features: usize) -> Weight {
        let factor = if out_features == 1 { 1.0 } else { 0.4 };
        let values: Vec<f32> = self.1.vec(out_features * in_features).iter().map(|v| v * factor).collect();
        self.of(&values, out_features)
    }

    fn of(&mut self, values: &[f32], out_features: usize) -> Weight {
        let bytes = stored(values, DType::Bf16);
        self.0.weight(bytes, Encoding::Stored(DType::Bf16), out_features, values.len() / out_features).unwrap()
    }

    fn expert(&mut self, gated: bool, biased: bool) -> Expert {
        let mut pair = |outs, ins| {
            let matrix = self.matrix(outs, ins);
            (matrix, biased.then(|| self.matrix(1, outs)))
        };
        let gate = gated.then(|| pair(INNER, HIDDEN));
        Expert { gate, up: pair(INNER, HIDDEN), down: pair(HIDDEN, INNER) }
    }
}

impl Bench {
    pub fn new(device: &dyn ProbedDevice, dtype: DType) -> Bench {
        let mut b = device.open(1 << 20, &mut |_| {}).unwrap().backend;
        let mut s = Source(&mut *b, Random(11));
        // Of one of its rows all are equal, so that the lower indices are chosen.
        let mut logits: Vec<f32> = s.1.vec(VOCAB * EXPERTS).iter().map(|v| v * 3.0).collect();
        logits[3 * EXPERTS..4 * EXPERTS].fill(0.5);
        let weights = Weights {
            table: s.matrix(VOCAB, HIDDEN),
            router_table: s.of(&logits, VOCAB),
            gain: s.matrix(1, HIDDEN),
            bias: s.matrix(1, HIDDEN),
            gate: s.matrix(INNER, HIDDEN),
            up: s.matrix(INNER, HIDDEN),
            inner_bias: s.matrix(1, INNER),
            down: s.matrix(HIDDEN, INNER),
            qkv: [HEADS * K_DIM, KV_HEADS * K_DIM, KV_HEADS * V_DIM].map(|outs| s.matrix(outs, HIDDEN)),
            head_gate: s.matrix(HEADS * V_DIM + HEADS, HIDDEN),
            sinks: s.matrix(1, HEADS),
            gated: (0..EXPERTS).map(|_| s.expert(true, true)).collect(),
            plain: (0..EXPERTS).map(|_| s.expert(false, false)).collect(),
            choice_bias: s.matrix(1, EXPERTS),
            expert_scale: s.matrix(1, EXPERTS),
        };
        let frames = 2 * 24usize.div_ceil(PAGE_TOKENS);
        let pages = b
            .kv_pages(KvShape {
                layers: 1,
                frames,
                page_tokens: PAGE_TOKENS,
                kv_heads: KV_HEADS,
                k_dim: K_DIM,
                v_dim: V_DIM,
                dtype,
                content: FrameContent::KeysValues,
            })
            .unwrap();
        let rows_max = ROWS.len();
        let tensors = (0..80).map(|_| (b.alloc(rows_max * HEADS * K_DIM, "test").unwrap(), 0)).collect();
        b.reserve(&MaxBatchShape {
            rows: rows_max,
            sequences: 2,
            logits_rows: rows_max,
            positions: 24,
            groups: 1,
            page_tokens: PAGE_TOKENS,
            table_pages: frames,
            frequencies: 0,
            in_features: HEADS * K_DIM,
            best: 2 * 64,
            heads: HEADS,
            heads_per_kv: HEADS / KV_HEADS,
            k_dim: K_DIM,
            v_dim: V_DIM,
            experts: EXPERTS,
            chosen: 3,
            conv_kernel: 0,
            state_dim: 0,
            expert_inner: INNER,
            hidden: HIDDEN,
            vocab: VOCAB,
        })
        .unwrap();
        b.set_vocabulary_mask(&AllowedTokens::all(VOCAB)).unwrap();
        Bench { b, weights, pages, tensors, taken: 0, rows_max }
    }

    fn tensor(&mut self) -> Tensor {
        self.taken += 1;
        self.tensors[self.taken - 1].0
    }

    /// All operations of a step of these rows. Nothing is read before its end: a recorded step runs there.
    pub fn step(&mut self, rows: &[usize]) -> Vec<Outcome> {
        assert!(rows.len() <= self.rows_max);
        self.taken = 0;
        self.fill(rows);
        self.b.begin();
        let mut places = Vec::new();
        let (x, y) = self.norms(&mut places, rows.len());
        self.feed_forward(&mut places, x, y, rows.len());
        self.attention(&mut places, y, rows.len());
        self.experts(&mut places, y, rows.len());
        let (head, logits) = (self.weights.table, self.tensor());
        let product = Linear { weight: head, bias: None, out: logits, accumulate: false };
        self.b.sample(y, rows.len(), product, Some(CAP));
        let ticket = self.b.copy_out();
        let mut sampled = SamplingOutput::default();
        self.b.wait_sampled(ticket, &mut sampled).unwrap();
        let mut read = |(name, tensor, width): Place| {
            let mut values = vec![0.0; rows.len() * width];
            self.b.read(tensor, &mut values).unwrap();
            (name, values.chunks(width).map(<[f32]>::to_vec).collect())
        };
        let mut outcomes: Vec<Outcome> = places.into_iter().map(&mut read).collect();
        let sampled = rows.iter().zip(sampled.tokens.iter().zip(&sampled.logprobs));
        let token_or_logprob = |(row, (&token, &logprob)): (&usize, (&u32, &f32))| {
            vec![if row.is_multiple_of(2) { token as f32 } else { logprob }]
        };
        outcomes.push(("sample".into(), sampled.map(token_or_logprob).collect()));
        outcomes
    }

    fn fill(&mut self, rows: &[usize]) {
        let step = self.b.step();
        step.clear();
        let list = || rows.iter().map(|&row| ROWS[row]);
        step.tokens.extend(list().map(|row| row.2));
        step.positions.extend(list().map(|row| row.1));
        // Sequences of the step are numbered from 0 on, each with pages of its own.
        let mut there: Vec<u32> = list().map(|row| row.0).collect();
        there.dedup();
        step.sequences.extend(list().map(|row| there.iter().position(|s| *s == row.0).unwrap() as u32));
        step.logits_indices.extend(0..rows.len() as u32);
        let each = 24usize.div_ceil(PAGE_TOKENS) as u32;
        if step.tables.is_empty() {
            step.tables.push(Tables::default());
        }
        for sequence in there {
            let tables = &mut step.tables[0];
            tables.starts.push(tables.pages.len() as u32);
            tables.pages.extend(sequence * each..(sequence + 1) * each);
        }
        // Some rows need their largest logit alone, others all of them.
        let greedy = SamplingRequest {
            kind: SamplingKind::Sample,
            temperature: 0.0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            logprobs: -1,
            ..SamplingRequest::default()
        };
        let given = SamplingRequest { kind: SamplingKind::Given, given: 2, logprobs: 0, ..greedy };
        step.sampling.rows.extend(rows.iter().map(|row| if row.is_multiple_of(2) { greedy } else { given }));
    }

    /// Embedding and norms; returns the hidden states and normed ones, neither of which anything writes afterwards.
    fn norms(&mut self, places: &mut Vec<Place>, rows: usize) -> (Tensor, Tensor) {
        let [x, y, centred, rms, bare] = [0; 5].map(|_| self.tensor());
        let Weights { table, gain, bias, .. } = self.weights;
        self.b.embed(table, 6.5, x);
        let norm = |gain, bias, centred| Norm { gain, bias, eps: 1e-5, centred };
        self.b.norm(x, &norm(Some(gain), Some(bias), true), HIDDEN, rows, y);
        self.b.norm(x, &norm(Some(gain), None, true), HIDDEN, rows, centred);
        self.b.norm(x, &norm(Some(gain), Some(bias), false), HIDDEN, rows, rms);
        // In place.
        self.b.embed(table, 1.0, bare);
        self.b.norm(bare, &norm(None, None, false), HIDDEN, rows, bare);
        // Heads as rows of their own.
        let short = self.tensor();
        self.b.embed(table, 1.0, short);
        self.b.norm(short, &norm(None, None, false), HIDDEN / 8, 8 * rows, short);
        places.push(("norm of heads".into(), short, HIDDEN));
        for (name, tensor) in
            [("embed", x), ("layer norm", y), ("without bias", centred), ("rms norm", rms), ("bare norm", bare)]
        {
            places.push((name.into(), tensor, HIDDEN));
        }
        (x, y)
    }

    fn feed_forward(&mut self, places: &mut Vec<Place>, x: Tensor, y: Tensor, rows: usize) {
        let Weights { gate, up, inner_bias, down, .. } = self.weights;
        let linear = |weight, bias, out| Linear { weight, bias, out, accumulate: false };
        for activation in ACTIVATIONS {
            let [g, u, out, one] = [0; 4].map(|_| self.tensor());
            let gates = linear(gate, Some(inner_bias), g);
            self.b.gated(y, rows, gates, linear(up, None, u), activation);
            self.b.linear(g, rows, &[linear(down, None, out)]);
            self.b.linear(y, rows, &[linear(up, None, one)]);
            self.b.activate(one, activation, rows * INNER);
            places.push((format!("gated {activation:?}"), out, HIDDEN));
            places.push((format!("activate {activation:?}"), one, INNER));
        }
        let [scaled, capped, added, moved] = [0; 4].map(|_| self.tensor());
        let norm = Norm { gain: None, bias: None, eps: 1e-5, centred: false };
        for tensor in [scaled, capped, added, moved] {
            self.b.norm(x, &norm, HIDDEN, rows, tensor);
        }
        self.b.scale(scaled, -2.5, rows * HIDDEN);
        self.b.softcap(capped, CAP, rows * HIDDEN);
        self.b.add_scaled(added, y, 0.25, rows * HIDDEN);
        self.b.scale_by_position(moved, HIDDEN, PositionScale { beta: 0.7, period: 4.0 });
        for (name, tensor) in
            [("scale", scaled), ("softcap", capped), ("add_scaled", added), ("scale_by_position", moved)]
        {
            places.push((name.into(), tensor, HIDDEN));
        }
    }

    fn attention(&mut self, places: &mut Vec<Place>, y: Tensor, rows: usize) {
        let (qkv, head_gate, sinks) = (self.weights.qkv, self.weights.head_gate, self.weights.sinks);
        let linear = |weight, out| Linear { weight, bias: None, out, accumulate: false };
        let outs = [0; 3].map(|_| self.tensor());
        let group: Vec<Linear> = qkv.into_iter().zip(outs).map(|(weight, out)| linear(weight, out)).collect();
        self.b.linear(y, rows, &group);
        let heads = |tensor, heads, dim| Heads { tensor, row_stride: heads * dim, head_stride: dim, heads, dim };
        let [q, k, v] = [(HEADS, K_DIM), (KV_HEADS, K_DIM), (KV_HEADS, V_DIM)];
        let (q, k, v) = (heads(outs[0], q.0, q.1), heads(outs[1], k.0, k.1), heads(outs[2], v.0, v.1));
        let pages = self.pages;
        self.b.place_heads(&Placement {
            q,
            k,
            v,
            norms: None,
            norm_last: false,
            eps: 0.0,
            rotary: None,
            store: true,
            pages,
            layer: 0,
        });
        let gates = self.tensor();
        self.b.linear(y, rows, &[linear(head_gate, gates)]);
        for (softcap, sinks, window) in
            [(None, None, None), (Some(0.6), None, None), (None, Some(sinks), None), (Some(0.6), Some(sinks), Some(2))]
        {
            let out = self.tensor();
            self.b.attention(Attention {
                q,
                out,
                pages,
                layer: 0,
                scale: 0.6,
                window,
                bidirectional: false,
                softcap,
                sinks,
            });
            places.push((format!("attention {softcap:?} {sinks:?} {window:?}"), out, HEADS * V_DIM));
        }
        // Gates of whole heads lie behind those of elements, in the same rows.
        for (first, dim) in [(0, V_DIM), (HEADS * V_DIM, 1)] {
            let out = self.tensor();
            let attention = Attention {
                q,
                out,
                pages,
                layer: 0,
                scale: 0.6,
                window: None,
                bidirectional: false,
                softcap: None,
                sinks: None,
            };
            self.b.attention(attention);
            let row_stride = HEADS * V_DIM + HEADS;
            let gate = Heads { tensor: gates.at(first), row_stride, head_stride: dim, heads: HEADS, dim };
            for gating in [Gating::Sigmoid, Gating::Silu, Gating::Plain] {
                self.b.gate_mul(out, V_DIM, gate, gating, rows);
            }
            places.push((format!("gates of {dim}"), out, HEADS * V_DIM));
        }
    }

    fn experts(&mut self, places: &mut Vec<Place>, y: Tensor, rows: usize) {
        let logits = self.tensor();
        self.b.embed(self.weights.router_table, 1.0, logits);
        let softmax = Routing::softmax(3, true);
        let groups = RouterGroups { count: 4, chosen: 2, best: 2 };
        let sigmoid = Routing { score: RouterScore::Sigmoid, epsilon: 1e-3, factor: 2.5, ..softmax };
        let clamped = Activation::Clamped { alpha: 1.702, limit: 0.75 };
        let (bias, scale) = (Some(self.weights.choice_bias), Some(self.weights.expert_scale));
        let cases = [
            ("softmax", softmax, None, None, true, Activation::Silu),
            ("not renormalised", Routing::softmax(2, false), None, scale, true, clamped),
            ("sigmoid", sigmoid, bias, None, true, Activation::GeluTanh),
            ("groups", Routing { groups: Some(groups), ..sigmoid }, bias, scale, false, Activation::Relu2),
            ("groups of a softmax", Routing { groups: Some(groups), ..softmax }, None, None, false, Activation::Gelu),
            // As many as the groups have.
            (
                "whole groups",
                Routing { chosen: 3, groups: Some(RouterGroups { count: 4, chosen: 1, best: 5 }), ..softmax },
                None,
                None,
                false,
                clamped,
            ),
        ];
        for (name, routing, choice_bias, expert_scale, gated, activation) in cases {
            let out = self.tensor();
            self.b.embed(self.weights.table, 1.0, out);
            let experts = if gated { self.weights.gated.clone() } else { self.weights.plain.clone() };
            let experts =
                Experts { experts: &experts, logits, routing, choice_bias, expert_scale, activation, x: y, out };
            self.b.experts(experts, rows);
            places.push((format!("experts by {name}"), out, HIDDEN));
        }
    }
}

/// The CPU's reference.
pub fn reference(dtype: DType) -> Bench {
    Bench::new(&*cpu(Tier::Reference), dtype)
}

fn cpu(tier: Tier) -> Box<dyn ProbedDevice> {
    probe(Device::Cpu, DeviceOptions { compute: Compute::F32, tier, threads: 2, ..DeviceOptions::default() }).unwrap()
}

pub const ALL: [usize; 5] = [0, 1, 2, 3, 4];

/// What a device computes of all rows is what the reference does.
#[track_caller]
pub fn agree(what: &str, got: &[Outcome], expected: &[Outcome], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!(expected.iter().all(|v| v.is_finite()), "{what}, {name}, row {row}: {expected:?}");
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let bound = tolerance * (1.0 + expected.abs());
                assert!((got - expected).abs() <= bound, "{what}, {name}, row {row}, {i}: {got} for {expected}");
            }
        }
    }
}

/// Rows have the same bits in smaller steps; `open` gives a fresh device.
pub fn rows_stand_alone(what: &str, open: &dyn Fn() -> Bench) {
    let all = open().step(&ALL);
    for rows in [&[0usize, 1, 2][..], &[3, 4], &[0, 1, 2, 3]] {
        for ((name, few), (_, all)) in open().step(rows).iter().zip(&all) {
            for (few, row) in few.iter().zip(rows) {
                let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(few), bits(&all[*row]), "{what}, {name}, row {row} of {rows:?}");
            }
        }
    }
}

#[test]
fn every_tier_agrees_with_the_reference() {
    for dtype in [DType::F32, DType::Bf16] {
        let expected = reference(dtype).step(&ALL);
        for tier in tiers().into_iter().filter(|tier| *tier != Tier::Reference) {
            // With bf16 pages some tiers round the weights of attention.
            let tolerance = if dtype == DType::F32 { 5e-5 } else { 1e-2 };
            agree(&format!("{tier:?} {dtype}"), &Bench::new(&*cpu(tier), dtype).step(&ALL), &expected, tolerance);
        }
    }
}

#[test]
fn rows_of_every_tier_stand_alone() {
    for tier in tiers() {
        rows_stand_alone(&format!("{tier:?}"), &|| Bench::new(&*cpu(tier), DType::Bf16));
    }
}

#[test]
fn plain_loops_agree_with_the_reference() {
    let plain = plain_device::probe(Device::Cpu, DeviceOptions::default()).unwrap();
    agree("plain", &Bench::new(&*plain, DType::F32).step(&ALL), &reference(DType::F32).step(&ALL), 5e-5);
}
