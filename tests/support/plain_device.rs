//! A device of the tests' own, outside of the library: plain loops over f32, three steps in flight, weights and pages in forms
//! of its own. What the engine needs of a device is what stands here.

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

/// Pages `[frames][layers][tokens][kv heads][k_dim + v_dim]`.
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
        frame as usize * self.frame_floats() + row * (s.k_dim + s.v_dim)
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

    /// `silu(gate) * up` of some rows.
    fn feed_forward(&mut self, x: &[f32], rows: usize, gate: &Linear, up: &Linear) {
        self.product(x, rows, gate);
        self.product(x, rows, up);
        let count = rows * gate.weight.out_features;
        let silu = |g: &f32| g / (1.0 + (-g).exp());
        let gated: Vec<f32> =
            self.get(gate.out, count).iter().zip(self.get(up.out, count)).map(|(g, u)| silu(g) * u).collect();
        self.set(gate.out, &gated);
    }

    fn normed(&self, x: &[f32], gain: Weight, eps: f32) -> Vec<f32> {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        x.iter().zip(&self.weights[gain.id as usize]).map(|(x, gain)| x * factor * gain).collect()
    }

    /// A head after norm and rotation.
    fn placed(&self, p: &Placement, row: usize, mut head: Vec<f32>, gain: Option<Weight>) -> Vec<f32> {
        if let (Some(gain), false) = (gain, p.norm_last) {
            head = self.normed(&head, gain, p.eps);
        }
        let half = p.rotary.unwrap().dims / 2;
        let angles = self.get(p.rotary.unwrap().angles.at(row * p.rotary.unwrap().dims), p.rotary.unwrap().dims);
        for i in 0..half {
            let pair = if p.rotary.unwrap().interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (a, b) = (p.rotary.unwrap().start + pair.0, p.rotary.unwrap().start + pair.1);
            let (cos, sin) = (angles[i], angles[half + i]);
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
        match gain {
            Some(gain) if p.norm_last => self.normed(&head, gain, p.eps),
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
        unimplemented!()
    }

    fn rotary_angles(&mut self, inv_freq: &[f32], scale: f32, out: Tensor) {
        unimplemented!()
    }

    fn norm(&mut self, x: Tensor, norm: &Norm, width: usize, rows: usize, out: Tensor) {
        unimplemented!()
    }

    fn norm_heads(&mut self, x: Heads, norm: &Norm, rows: usize) {
        unimplemented!()
    }

    fn linear(&mut self, x: Tensor, rows: usize, group: &[Linear]) {
        unimplemented!()
    }

    fn head_products(&mut self, products: &HeadProducts, rows: usize) {
        unimplemented!()
    }

    fn gated(&mut self, x: Tensor, rows: usize, gate: Linear, up: Linear, activation: Activation) {
        unimplemented!()
    }

    fn activate(&mut self, x: Tensor, activation: Activation, elements: usize) {
        unimplemented!()
    }

    fn place_heads(&mut self, placement: &Placement) {
        unimplemented!()
    }

    fn attention(&mut self, attention: Attention) {
        unimplemented!()
    }

    fn scale_by_position(&mut self, x: Tensor, width: usize, scale: PositionScale) {
        unimplemented!()
    }

    fn sigmoid_mul(&mut self, x: Tensor, dim: usize, gate: Heads, rows: usize) {
        unimplemented!()
    }

    fn clear(&mut self, x: Tensor, elements: usize) {
        unimplemented!()
    }

    fn scale(&mut self, x: Tensor, factor: f32, elements: usize) {
        unimplemented!()
    }

    fn softcap(&mut self, x: Tensor, cap: f32, elements: usize) {
        unimplemented!()
    }

    fn add_scaled(&mut self, x: Tensor, y: Tensor, factor: f32, elements: usize) {
        unimplemented!()
    }

    fn experts(&mut self, experts: Experts, rows: usize) {
        unimplemented!()
    }

    fn gather(&mut self, x: Tensor, first: usize, rows: usize, width: usize, out: Tensor) {
        unimplemented!()
    }
}

impl Sampling for PlainBackend {
    fn set_vocabulary_mask(&mut self, mask: &AllowedTokens) -> Result<()> {
        self.mask = Some(AllowedTokens::new(mask.end(), mask.holes().to_vec()));
        Ok(())
    }

    fn sample(&mut self, x: Tensor, rows: usize, head: Linear, _softcap: Option<f32>) {
        self.linear(x, rows, &[head]);
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
