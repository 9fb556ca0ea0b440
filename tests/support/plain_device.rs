//! A device of the tests' own, outside of the library: plain loops over f32, three steps in flight, weights and pages in forms
//! of its own. What the engine needs of a device is what stands here.

mod activation;
mod recurrent;

use activation::{activated, factor_of};
use astrai::backend::cpu::Tier;
use astrai::backend::device::{Device, DeviceOptions, DeviceProfile, FreeMemory, OpenDevice, ProbedDevice};
use astrai::backend::*;
use astrai::dtype::DType;
use astrai::encoding::{Encoding, PANEL};
use astrai::limits;
use astrai::sampling::math::Portable;
use astrai::sampling::{AllowedTokens, Sampler, SamplingOutput};
use astrai::{Error, Result};
use std::sync::Arc;

const STEPS: usize = 3;

/// [`EngineOptions::probe_fn`](astrai::engine::EngineOptions::probe_fn) of this device.
pub fn probe(_kind: Device, _options: DeviceOptions) -> Result<Box<dyn ProbedDevice>> {
    Ok(Box::new(Plain))
}

/// The device before it is opened.
struct Plain;

impl ProbedDevice for Plain {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn profile(&self) -> DeviceProfile {
        DeviceProfile {
            own_memory: true,
            step_tokens_default: 64,
            step_tokens_max: limits::STEP_TOKENS_MAX,
            logits_rows_max: 16,
            spare_frames: 0,
            bidirectional: false,
        }
    }

    fn free(&self) -> Option<FreeMemory> {
        None
    }

    fn weight_bytes(&self, _encoding: Encoding, out_features: usize, in_features: usize) -> u64 {
        (out_features * in_features * 4) as u64
    }

    fn scratch_bytes(&self, max_shape: &MaxBatchShape) -> u64 {
        Sampler::bytes(max_shape.vocab)
    }

    fn check_kv(&self, shape: &KvShape) -> Result<()> {
        if shape.dtype == DType::F32 {
            return Ok(());
        }
        Err(Error::unsupported("this device has pages of f32").about("kv"))
    }

    fn open(&self, _weight_bytes: u64, _note: &mut dyn FnMut(String)) -> Result<OpenDevice> {
        let backend = Box::new(PlainBackend::default());
        Ok(OpenDevice { backend, cpu_tier: Tier::Auto, threads: 1, arch: "plain".into() })
    }
}

/// Pages `[frames][layers][tokens][kv heads][k_dim + v_dim]`; of a latent group, whose values are the beginnings of its keys,
/// `k_dim` alone. States `[frames][layers][k_dim]`.
struct Group {
    shape: KvShape,
    pages: Vec<f32>,
}

impl Group {
    fn frame_floats(&self) -> usize {
        self.shape.frame_bytes().expect("it was allocated") / 4
    }

    /// The frame's index in floats; an error where it is not there or has not this many bytes.
    fn frame(&self, frame: u32, bytes: usize) -> Result<usize> {
        let floats = self.frame_floats();
        match bytes == floats * 4 && (frame as usize) < self.shape.frames {
            true => Ok(frame as usize * floats),
            false => Err(Error::internal(format!("{bytes} bytes of frame {frame} of {}", self.shape.frames))),
        }
    }

    /// Where the key of a token lies; its value follows.
    fn key(&self, frame: u32, layer: usize, token: usize, head: usize) -> usize {
        let s = &self.shape;
        let row = (layer * s.page_tokens + token) * s.kv_heads + head;
        frame as usize * self.frame_floats() + row * (s.k_dim + if s.latent() { 0 } else { s.v_dim })
    }
}

#[derive(Default)]
struct PlainBackend {
    buffers: Vec<Vec<f32>>,
    weights: Vec<Vec<f32>>,
    groups: Vec<Group>,
    step: Step,
    mask: Option<AllowedTokens>,
    sampler: Option<Sampler>,
    /// Samples of the steps in flight, the newest of them, and what is being sampled.
    outputs: [SamplingOutput; STEPS],
    newest: usize,
    sampled: SamplingOutput,
}

impl PlainBackend {
    fn get(&self, t: Tensor, count: usize) -> &[f32] {
        &self.buffers[t.buffer as usize][t.offset..t.offset + count]
    }

    fn set(&mut self, t: Tensor, values: &[f32]) {
        self.buffers[t.buffer as usize][t.offset..t.offset + values.len()].copy_from_slice(values);
    }

    fn rows(&self) -> usize {
        self.step.tokens.len()
    }

    /// `out[r, o] (+)= sum_i x[r, i] * weight[o, i] + bias[o]`.
    fn product(&mut self, x: &[f32], rows: usize, l: &Linear) {
        let (width, outs) = (l.weight.in_features, l.weight.out_features);
        let weight = &self.weights[l.weight.id as usize];
        let bias = l.bias.map(|bias| &self.weights[bias.id as usize]);
        let before = if l.accumulate { self.get(l.out, rows * outs).to_vec() } else { vec![0.0; rows * outs] };
        let mut out = before;
        for row in 0..rows {
            for o in 0..outs {
                let (x, w) = (&x[row * width..(row + 1) * width], &weight[o * width..(o + 1) * width]);
                let sum: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                out[row * outs + o] += sum + bias.map_or(0.0, |bias| bias[o]);
            }
        }
        self.set(l.out, &out);
    }

    /// `activation(gate) * up` of some rows.
    fn feed_forward(&mut self, x: &[f32], rows: usize, gate: &Linear, up: &Linear, activation: Activation) {
        self.product(x, rows, gate);
        self.product(x, rows, up);
        let count = rows * gate.weight.out_features;
        let pairs = self.get(gate.out, count).iter().zip(self.get(up.out, count));
        let gated: Vec<f32> = pairs.map(|(&g, &u)| activated(g, activation) * factor_of(u, activation)).collect();
        self.set(gate.out, &gated);
    }

    /// `x[i] = f(x[i])` over `elements`.
    fn each(&mut self, x: Tensor, elements: usize, f: impl Fn(f32) -> f32) {
        let values: Vec<f32> = self.get(x, elements).iter().map(|&x| f(x)).collect();
        self.set(x, &values);
    }

    fn normed(&self, x: &[f32], norm: &Norm) -> Vec<f32> {
        let width = x.len() as f32;
        let mean = if norm.centred { x.iter().sum::<f32>() / width } else { 0.0 };
        let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width;
        let factor = 1.0 / (square + norm.eps).sqrt();
        let of = |vector: Option<Weight>, i: usize, none| vector.map_or(none, |v| self.weights[v.id as usize][i]);
        let one = |(i, x): (usize, &f32)| (x - mean) * factor * of(norm.gain, i, 1.0) + of(norm.bias, i, 0.0);
        x.iter().enumerate().map(one).collect()
    }

    /// The experts of a row in ascending order, and their weights.
    fn routed(&self, e: &Experts, logits: &[f32]) -> Vec<(usize, f32)> {
        let count = logits.len();
        let vector = |vector: Option<Weight>, i: usize, none| vector.map_or(none, |v| self.weights[v.id as usize][i]);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|l| (l - max).exp()).sum();
        let score = |i: usize| match e.routing.score {
            RouterScore::Softmax => (logits[i] - max).exp() / total,
            RouterScore::Sigmoid => 1.0 / (1.0 + (-logits[i]).exp()),
        };
        let rank = |i: usize| score(i) + vector(e.choice_bias, i, 0.0);
        let best_first = |mut all: Vec<(usize, f32)>| {
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all
        };
        let mut candidates = best_first((0..count).map(|i| (i, rank(i))).collect());
        if let Some(groups) = e.routing.groups {
            let size = count / groups.count;
            let of_group = |group: usize| candidates.iter().filter(move |c| c.0 / size == group).take(groups.best);
            let sums = (0..groups.count).map(|group| (group, of_group(group).map(|c| c.1).sum())).collect();
            let chosen: Vec<usize> = best_first(sums).iter().take(groups.chosen).map(|g| g.0).collect();
            candidates.retain(|c| chosen.contains(&(c.0 / size)));
        }
        candidates.truncate(e.routing.chosen);
        let sum = candidates.iter().map(|c| score(c.0)).sum::<f32>() + e.routing.epsilon;
        let divisor = if e.routing.renormalise { sum } else { 1.0 };
        let weight = |i: usize| score(i) / divisor * e.routing.factor * vector(e.expert_scale, i, 1.0);
        let mut routed: Vec<(usize, f32)> = candidates.iter().map(|c| (c.0, weight(c.0))).collect();
        routed.sort_by_key(|r| r.0);
        routed
    }

    /// A head after norm and rotation.
    fn placed(&self, p: &Placement, row: usize, mut head: Vec<f32>, gain: Option<Weight>) -> Vec<f32> {
        let norm = gain.map(|gain| Norm { gain: Some(gain), bias: None, eps: p.eps, centred: false });
        if let (Some(norm), false) = (&norm, p.norm_last) {
            head = self.normed(&head, norm);
        }
        if let Some(rotary) = p.rotary {
            let half = rotary.dims / 2;
            let angles = self.get(rotary.angles.at(row * rotary.dims), rotary.dims);
            for i in 0..half {
                let pair = if rotary.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (a, b) = (rotary.start + pair.0, rotary.start + pair.1);
                let (cos, sin) = (angles[i], angles[half + i]);
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
        match &norm {
            Some(norm) if p.norm_last => self.normed(&head, norm),
            _ => head,
        }
    }

    fn head(&self, heads: &Heads, row: usize, head: usize) -> Vec<f32> {
        self.get(heads.tensor.at(heads.at(row, head).start), heads.dim).to_vec()
    }

    /// Frame and token in it of a position of a row's sequence.
    fn place(&self, pages: KvPages, row: usize, position: usize) -> (u32, usize) {
        let (ragged, tokens) = (self.step.ragged(pages.0 as usize), self.groups[pages.0 as usize].shape.page_tokens);
        let start = ragged.table_starts[ragged.sequences[row] as usize] as usize;
        (ragged.tables[start + position / tokens], position % tokens)
    }
}

impl Memory for PlainBackend {
    fn name(&self) -> String {
        "plain loops".into()
    }

    fn reserved(&self) -> Reserved {
        let bytes = |lists: &mut dyn Iterator<Item = usize>| lists.map(|len| len as u64 * 4).sum();
        Reserved {
            weights: bytes(&mut self.weights.iter().map(Vec::len)),
            kv: bytes(&mut self.groups.iter().map(|g| g.pages.len())),
            tensors: bytes(&mut self.buffers.iter().map(Vec::len)),
            scratch: 0,
        }
    }

    fn alloc(&mut self, elements: usize, _what: &str) -> Result<Tensor> {
        self.buffers.push(vec![0.0; elements]);
        Ok(Tensor { buffer: (self.buffers.len() - 1) as u32, offset: 0 })
    }

    fn reserve(&mut self, max_shape: &MaxBatchShape) -> Result<()> {
        self.step = Step::with_capacity(max_shape)?;
        self.sampler = Some(Sampler::new(max_shape.vocab)?);
        Ok(())
    }

    fn weight(&mut self, bytes: HostBytes, encoding: Encoding, outs: usize, ins: usize) -> Result<Weight> {
        let bytes = (*bytes).as_ref();
        let halves = || bytes.as_chunks::<2>().0.iter();
        self.weights.push(match encoding {
            Encoding::Stored(DType::F32) => bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
            Encoding::Stored(DType::Bf16) => halves().map(|&x| half::bf16::from_le_bytes(x).to_f32()).collect(),
            Encoding::Stored(DType::F16) => halves().map(|&x| half::f16::from_le_bytes(x).to_f32()).collect(),
            Encoding::Stored(DType::Blocks(format)) => {
                let mut values = vec![0.0; outs * ins];
                astrai::encoding::blocks::widen(format, bytes, &mut values);
                values
            }
            Encoding::Stored(DType::ScaledF8(group)) => {
                let rows = astrai::encoding::f8::Rows { bytes, in_features: ins, group };
                let mut values = vec![0.0; outs * ins];
                values.chunks_exact_mut(ins).enumerate().for_each(|(row, to)| rows.widen(row, 0, to));
                values
            }
            Encoding::Stored(other) => return Err(Error::internal(format!("a weight of {other}"))),
            Encoding::Quantized(scheme) => {
                let panel = |o: usize| &bytes[o / PANEL * scheme.panel_bytes(ins)..];
                let value = |o: usize, i: usize| {
                    scheme.integer(panel(o), ins, o % PANEL, i) as f32
                        * scheme.scale(panel(o), o % PANEL, i / scheme.group())
                };
                (0..outs * ins).map(|at| value(at / ins, at % ins)).collect()
            }
        });
        Ok(Weight { id: (self.weights.len() - 1) as u32, out_features: outs, in_features: ins })
    }

    fn read(&mut self, x: Tensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(self.get(x, out.len()));
        Ok(())
    }
}

impl Cache for PlainBackend {
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages> {
        let floats = shape.frame_bytes().and_then(|bytes| bytes.checked_mul(shape.frames)).expect("small") / 4;
        self.groups.push(Group { shape, pages: vec![0.0; floats] });
        Ok(KvPages((self.groups.len() - 1) as u32))
    }

    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()> {
        let group = &self.groups[pages.0 as usize];
        let from = &group.pages[group.frame(frame, out.len())?..];
        out.chunks_exact_mut(4).zip(from).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
        Ok(())
    }

    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()> {
        let group = &mut self.groups[pages.0 as usize];
        let at = group.frame(frame, bytes.len())?;
        bytes.as_chunks::<4>().0.iter().zip(&mut group.pages[at..]).for_each(|(x, to)| *to = f32::from_le_bytes(*x));
        Ok(())
    }
}

impl Steps for PlainBackend {
    fn step(&mut self) -> &mut Step {
        &mut self.step
    }

    fn begin(&mut self) {
        self.sampled = SamplingOutput::default();
        let last = &self.outputs[self.newest];
        for token in self.step.tokens.iter_mut().filter(|token| **token & FROM_LAST_STEP != 0) {
            *token = last.tokens[(*token & !FROM_LAST_STEP) as usize];
        }
    }

    fn steps_in_flight(&self) -> usize {
        STEPS
    }
}

impl Operations for PlainBackend {
    fn embed(&mut self, table: Weight, scale: f32, out: Tensor) {
        let width = table.in_features;
        for row in 0..self.rows() {
            let token = self.step.tokens[row] as usize;
            // A sample that turned out to be none ends its request; what the row computes then, nobody looks at.
            let token = if token < table.out_features { token } else { 0 };
            let row_of_table = &self.weights[table.id as usize][token * width..(token + 1) * width];
            let values: Vec<f32> = row_of_table.iter().map(|x| x * scale).collect();
            self.set(out.at(row * width), &values);
        }
    }

    fn rotary_angles(&mut self, inv_freq: &[f32], scale: f32, out: Tensor) {
        for row in 0..self.rows() {
            let angles = inv_freq.iter().map(|f| f64::from(self.step.positions[row] as f32 * f));
            let cos = angles.clone().map(|angle| angle.cos() as f32 * scale);
            let values: Vec<f32> = cos.chain(angles.map(|angle| angle.sin() as f32 * scale)).collect();
            self.set(out.at(row * 2 * inv_freq.len()), &values);
        }
    }

    fn norm(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor) {
        for row in 0..rows {
            let values = self.normed(self.get(x.at(row * width), width), norm);
            self.set(out.at(row * width), &values);
        }
    }

    fn norm_heads(&mut self, x: Heads, norm: &Norm, rows: usize) {
        for (row, head) in (0..rows).flat_map(|row| (0..x.heads).map(move |head| (row, head))) {
            let values = self.normed(&self.head(&x, row, head), norm);
            self.set(x.tensor.at(x.at(row, head).start), &values);
        }
    }

    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        let x = self.get(x, rows * group[0].weight.in_features).to_vec();
        group.iter().for_each(|l| self.product(&x, rows, l));
    }

    fn head_products(&mut self, p: &HeadProducts, rows: usize) {
        let (width, (ins, outs)) = (p.weight.in_features, p.features());
        for (row, head) in (0..rows).flat_map(|row| (0..p.x.heads).map(move |head| (row, head))) {
            let x = self.head(&p.x, row, head);
            let first = (head * p.stride + p.first) * width;
            let matrix = &self.weights[p.weight.id as usize][first..first + p.count * width];
            let at = |o: usize, i: usize| matrix[if p.transposed { i * width + o } else { o * width + i }];
            let product = |o: usize| x[..ins].iter().enumerate().map(|(i, x)| x * at(o, i)).sum();
            let out: Vec<f32> = (0..outs).map(product).chain(x[ins..].iter().copied()).collect();
            self.set(p.out.tensor.at(p.out.at(row, head).start), &out);
        }
    }

    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation) {
        let x = self.get(x, rows * gate.weight.in_features).to_vec();
        self.feed_forward(&x, rows, &gate, &up, activation);
    }

    fn activate(&mut self, x: Tensor, activation: Activation, elements: usize) {
        self.each(x, elements, |x| activated(x, activation));
    }

    fn place_heads(&mut self, p: &Placement) {
        let group = p.pages.0 as usize;
        let (KvShape { k_dim, .. }, latent) = (self.groups[group].shape, self.groups[group].shape.latent());
        for row in 0..self.rows() {
            for head in 0..p.q.heads {
                let q = self.placed(p, row, self.head(&p.q, row, head), p.norms.map(|n| n[0]));
                self.set(p.q.tensor.at(p.q.at(row, head).start), &q);
            }
            let (frame, token) = self.place(p.pages, row, self.step.positions[row] as usize);
            for head in 0..if p.store { p.k.heads } else { 0 } {
                let k = self.placed(p, row, self.head(&p.k, row, head), p.norms.map(|n| n[1]));
                let v = self.head(&p.v, row, head);
                let at = self.groups[group].key(frame, p.layer, token, head);
                let pages = &mut self.groups[group].pages;
                pages[at..at + k_dim].copy_from_slice(&k);
                if !latent {
                    pages[at + k_dim..at + k_dim + v.len()].copy_from_slice(&v);
                }
            }
        }
    }

    fn attention(&mut self, a: Attention) {
        let shape = self.groups[a.pages.0 as usize].shape;
        let KvShape { kv_heads, k_dim, v_dim, .. } = shape;
        let value = if shape.latent() { 0 } else { k_dim };
        for row in 0..self.rows() {
            let position = self.step.positions[row] as usize;
            let first = a.window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
            let places: Vec<(u32, usize)> = (first..=position).map(|p| self.place(a.pages, row, p)).collect();
            for head in 0..a.q.heads {
                let (q, group) = (self.head(&a.q, row, head), &self.groups[a.pages.0 as usize]);
                let kv_head = head / (a.q.heads / kv_heads);
                let at: Vec<usize> = places.iter().map(|&(f, t)| group.key(f, a.layer, t, kv_head)).collect();
                let dot = |at: &usize| q.iter().zip(&group.pages[*at..at + k_dim]).map(|(q, k)| q * k).sum::<f32>();
                let capped = |score: f32| a.softcap.map_or(score, |cap| cap * (score / cap).tanh());
                let scores: Vec<f32> = at.iter().map(|at| capped(a.scale * dot(at))).collect();
                let sink = a.sinks.map(|sinks| self.weights[sinks.id as usize][head]);
                let max = scores.iter().copied().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
                let (mut out, mut total) = (vec![0.0; v_dim], sink.map_or(0.0, |sink| (sink - max).exp()));
                for (score, at) in scores.iter().zip(&at) {
                    let weight = (score - max).exp();
                    total += weight;
                    out.iter_mut().zip(&group.pages[at + value..]).for_each(|(out, v)| *out += weight * v);
                }
                out.iter_mut().for_each(|out| *out /= total);
                self.set(a.out.at((row * a.q.heads + head) * v_dim), &out);
            }
        }
    }

    fn scale_by_position(&mut self, x: Tensor, width: usize, scale: PositionScale) {
        for row in 0..self.rows() {
            let factor = 1.0 + scale.beta * (1.0 + (self.step.positions[row] as f32 / scale.period).floor()).ln();
            self.each(x.at(row * width), width, |x| x * factor);
        }
    }

    fn gate_mul(&mut self, x: Tensor, dim: usize, gate: Heads, gating: Gating, rows: usize) {
        for (row, head) in (0..rows).flat_map(|row| (0..gate.heads).map(move |head| (row, head))) {
            let (gates, at) = (self.head(&gate, row, head), x.at((row * gate.heads + head) * dim));
            let gate = |i: usize| if gates.len() == 1 { gates[0] } else { gates[i] };
            let factor = |gate: f32| match gating {
                Gating::Sigmoid => 1.0 / (1.0 + (-gate).exp()),
                Gating::Silu => gate / (1.0 + (-gate).exp()),
                Gating::Plain => gate,
            };
            let values = self.get(at, dim).iter().enumerate().map(|(i, x)| x * factor(gate(i)));
            let values: Vec<f32> = values.collect();
            self.set(at, &values);
        }
    }

    fn conv(&mut self, conv: &Conv) {
        self.convolve(conv);
    }

    fn recurrence(&mut self, recurrence: &Recurrence) {
        self.recur(recurrence);
    }

    fn clear(&mut self, x: Tensor, elements: usize) {
        self.each(x, elements, |_| 0.0);
    }

    fn scale(&mut self, x: Tensor, factor: f32, elements: usize) {
        self.each(x, elements, |x| x * factor);
    }

    fn softcap(&mut self, x: Tensor, cap: f32, elements: usize) {
        self.each(x, elements, |x| cap * (x / cap).tanh());
    }

    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize) {
        let values: Vec<f32> =
            self.get(x, elements).iter().zip(self.get(y, elements)).map(|(x, y)| x + factor * y).collect();
        self.set(x, &values);
    }

    fn experts(&mut self, e: Experts, rows: usize) {
        let (count, first) = (e.experts.len(), &e.experts[0]);
        let (hidden, inner) = (first.up.0.in_features, first.up.0.out_features);
        let [gate, up, down] = [inner, inner, hidden].map(|width| self.alloc(width, "experts").expect("memory"));
        let linear = |(weight, bias): (Weight, Option<Weight>), out| Linear { weight, bias, out, accumulate: false };
        for row in 0..rows {
            let logits = self.get(e.logits.at(row * count), count).to_vec();
            let x = self.get(e.x.at(row * hidden), hidden).to_vec();
            for (index, weight) in self.routed(&e, &logits) {
                let expert = &e.experts[index];
                match expert.gate {
                    Some(of_gate) => {
                        self.feed_forward(&x, 1, &linear(of_gate, gate), &linear(expert.up, up), e.activation);
                    }
                    None => {
                        self.product(&x, 1, &linear(expert.up, gate));
                        self.activate(gate, e.activation, inner);
                    }
                }
                self.linear(gate, 1, &[linear(expert.down, down)]);
                self.add_scaled(e.out.at(row * hidden), down, weight, hidden);
            }
        }
        self.buffers.truncate(self.buffers.len() - 3);
    }

    fn gather(&mut self, x: Tensor, first: usize, rows: usize, width: usize, out: Tensor) {
        for i in 0..rows {
            let row = self.step.logits_indices[first + i] as usize;
            let values = self.get(x.at(row * width), width).to_vec();
            self.set(out.at(i * width), &values);
        }
    }
}

impl Sampling for PlainBackend {
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()> {
        self.mask = Some(AllowedTokens::new(mask.end(), mask.holes().to_vec()));
        Ok(())
    }

    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, softcap: Option<f32>) {
        self.linear(x, rows, &[head]);
        if let Some(cap) = softcap {
            self.softcap(head.out, cap, rows * head.weight.out_features);
        }
        let mut sampler = self.sampler.take().expect("reserved before the first step");
        let (vocab, mask) = (head.weight.out_features, self.mask.as_ref().expect("set before the first step"));
        let mut output = std::mem::take(&mut self.sampled);
        output.resize(rows, true);
        for (row, request) in self.step.sampling.rows.iter().enumerate() {
            let changes =
                &self.step.sampling.adjustments[request.first_adjustment as usize..][..request.adjustments as usize];
            let range = row * limits::TOP_LOGPROBS_MAX..(row + 1) * limits::TOP_LOGPROBS_MAX;
            let top = (&mut output.top_tokens[range.clone()], &mut output.top_logprobs[range]);
            let logits = self.get(head.out.at(row * vocab), vocab);
            let own = (changes, self.step.sampling.mask(request, vocab));
            let sampled = sampler.sample(&Portable, logits, mask, request, own, top);
            (output.tokens[row], output.logprobs[row]) = (sampled.token, sampled.logprob);
        }
        (self.sampler, self.sampled) = (Some(sampler), output);
    }

    fn copy_out(&mut self) -> Ticket {
        self.newest = (self.newest + 1) % STEPS;
        self.outputs[self.newest] = self.sampled.clone();
        Ticket(self.newest as u32)
    }

    fn wait_sampled(&mut self, ticket: Ticket, to: &mut SamplingOutput) -> Result<()> {
        to.copy_from(&self.outputs[ticket.0 as usize]);
        Ok(())
    }
}

/// As an option of an engine.
pub fn probe_fn() -> astrai::engine::ProbeFn {
    Arc::new(probe)
}
