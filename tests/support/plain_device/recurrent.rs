//! States: a token at a time, with all of a state copied to the frame that is written before the first.

use super::PlainBackend;
use astrai::backend::*;

impl PlainBackend {
    /// The rows of the step's sequences, in order: the rows of each, and where its next state begins. Before that the part of the
    /// state that is named is copied there from the last one.
    fn runs(&mut self, part: StatePart, elements: usize) -> Vec<(Vec<usize>, usize)> {
        let rows = self.step.positions.len();
        let mut runs: Vec<(Vec<usize>, usize)> = Vec::new();
        for row in 0..rows {
            let sequence = self.step.sequences[row];
            if row > 0 && self.step.sequences[row - 1] == sequence {
                runs.last_mut().expect("it has begun").0.push(row);
                continue;
            }
            let tables = &self.step.tables[part.pages.0 as usize];
            let at = tables.starts[sequence as usize] as usize;
            let (last, next) = (tables.pages[at], tables.pages[at + 1]);
            let group = &mut self.groups[part.pages.0 as usize];
            let shape = group.shape;
            assert!((next as usize) < shape.frames && last != next, "{last} and {next} of {} states", shape.frames);
            let begin = |frame: u32| (frame as usize * shape.layers + part.layer) * shape.k_dim + part.first;
            let to = begin(next);
            match last {
                NO_STATE => group.pages[to..to + elements].fill(0.0),
                last => group.pages.copy_within(begin(last)..begin(last) + elements, to),
            }
            runs.push((vec![row], to));
        }
        runs
    }

    fn element(&self, heads: &Heads, row: usize, index: usize) -> f32 {
        self.get(heads.tensor.at(heads.element(row, index)), 1)[0]
    }

    pub(super) fn convolve(&mut self, c: &Conv) {
        let (channels, kernel) = (c.x.heads * c.x.dim, c.kernel);
        let group = c.state.pages.0 as usize;
        for (rows, state) in self.runs(c.state, (kernel - 1) * channels) {
            for row in rows {
                for channel in 0..channels {
                    let of = |heads: &Heads| self.element(heads, row, channel);
                    let u = of(&c.x) * c.before.as_ref().map_or(1.0, of);
                    let after = c.after.as_ref().map_or(1.0, of);
                    let past = (0..kernel - 1).map(|j| self.groups[group].pages[state + j * channels + channel]);
                    let seen: Vec<f32> = past.chain([u]).collect();
                    let weights = &self.weights[c.weight.id as usize][channel * kernel..(channel + 1) * kernel];
                    let bias = c.bias.map_or(0.0, |bias| self.weights[bias.id as usize][channel]);
                    let sum = bias + weights.iter().zip(&seen).map(|(w, u)| w * u).sum::<f32>();
                    let y = if c.silu { sum / (1.0 + (-sum).exp()) } else { sum };
                    self.set(c.out.tensor.at(c.out.element(row, channel)), &[y * after]);
                    for j in 0..kernel - 1 {
                        self.groups[group].pages[state + j * channels + channel] = seen[j + 1];
                    }
                }
            }
        }
    }

    pub(super) fn recur(&mut self, r: &Recurrence) {
        let (k_dim, v_dim, heads) = (r.k.dim, r.v.dim, r.v.heads);
        let (each, group) = (k_dim * v_dim, r.state.pages.0 as usize);
        for (rows, state) in self.runs(r.state, heads * each) {
            for (row, head) in rows.into_iter().flat_map(|row| (0..heads).map(move |head| (row, head))) {
                let (q, k) = (self.head(&r.q, row, r.key_head(head)), self.head(&r.k, row, r.key_head(head)));
                let v = self.head(&r.v, row, head);
                let weight = |weight: Weight| self.weights[weight.id as usize][head];
                let step = (1.0 + (self.element(&r.steps, row, head) + weight(r.step_bias)).exp()).ln();
                let step = step.clamp(r.step_range[0], r.step_range[1]);
                let decay = if r.decay_is_log { -weight(r.decay).exp() } else { weight(r.decay) };
                let decay = (decay * step).exp();
                let part = r.parts.map(|parts| 1.0 / (1.0 + (-self.element(&parts, row, head)).exp()));
                let skip = r.skip.map_or(0.0, weight);
                let s = &mut self.groups[group].pages[state + head * each..state + (head + 1) * each];
                s.iter_mut().for_each(|s| *s *= decay);
                let mut out = vec![0.0; v_dim];
                for (j, v) in v.iter().enumerate() {
                    let has: f32 = (0..k_dim).map(|i| k[i] * s[i * v_dim + j]).sum();
                    let added = part.map_or(step * v, |part| part * (v - r.k_scale * has));
                    (0..k_dim).for_each(|i| s[i * v_dim + j] += r.k_scale * k[i] * added);
                    let result: f32 = (0..k_dim).map(|i| q[i] * s[i * v_dim + j]).sum();
                    out[j] = r.q_scale * result + skip * v;
                }
                self.set(r.out.tensor.at(r.out.at(row, head).start), &out);
            }
        }
    }
}
