//! From the hidden states of a prompt to its embedding: pooling, and the layers that follow it.
//!
//! Law 1: states are added in the order of their positions, in f64, so that the sum does not depend on how the prompt was cut;
//! all else is done once, in one order. A hidden state is that of a token after the last layer and the final norm.

use crate::error::{Error, Result, filled, reserved};
use crate::source::{DenseModule, EmbeddingModule, EmbeddingModules, ModelSource, Pooling};
use std::ops::Range;

/// Sums that a dot product is made of: enough for the widest registers.
const LANES: usize = 16;
/// A norm is not divided by less.
const NORM_MIN: f64 = 1e-12;

/// Makes embeddings of the hidden states of a model.
#[derive(Debug)]
pub struct Embedder {
    hidden: usize,
    modules: EmbeddingModules,
}

/// What has been seen of a prompt.
#[derive(Debug)]
pub struct Pooled {
    /// Of each element the sum, the maximum, or the one that is wanted.
    elements: Vec<f64>,
    /// The next position that is wanted.
    next: usize,
    /// Tokens of the prompt.
    len: usize,
}

impl Embedder {
    /// That of a model whose hidden states have `hidden` elements. Where the source does not say how embeddings are made, they
    /// are the state of the last token, divided by its norm.
    ///
    /// # Errors
    /// `Io`, `Format`, `Unsupported` and `Memory` for what the source says.
    pub fn new(source: &dyn ModelSource, hidden: usize) -> Result<Embedder> {
        let modules = source.embedding_modules()?.unwrap_or_default();
        let first = modules.modules.iter().find_map(|module| match module {
            EmbeddingModule::Dense(dense) => Some(dense.in_features),
            EmbeddingModule::Normalize => None,
        });
        if let Some(width) = modules.width.or(first).filter(|&width| width != hidden) {
            let subject = source.subject();
            let message =
                format!("{subject}: embeddings are made of {width} elements, but hidden states have {hidden}");
            return Err(Error::format(message).about(subject));
        }
        Ok(Embedder { hidden, modules })
    }

    /// Elements of an embedding.
    pub fn len(&self) -> usize {
        let dense = self.modules.modules.iter().rev().find_map(|module| match module {
            EmbeddingModule::Dense(dense) => Some(dense.out_features),
            EmbeddingModule::Normalize => None,
        });
        dense.unwrap_or(self.hidden)
    }

    /// Bytes of the dense layers.
    pub fn bytes(&self) -> u64 {
        let of = |module: &EmbeddingModule| match module {
            EmbeddingModule::Dense(dense) => size_of_val(&*dense.weight) + size_of_val(&*dense.bias),
            EmbeddingModule::Normalize => 0,
        };
        self.modules.modules.iter().map(of).sum::<usize>() as u64
    }

    /// Whether embeddings have no elements: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a hidden state.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Whether the last module divides by the norm.
    pub fn normalizes(&self) -> bool {
        matches!(self.modules.modules.last(), Some(EmbeddingModule::Normalize))
    }

    /// Whether states of other tokens than the last are wanted.
    pub fn wants_all(&self) -> bool {
        self.modules.pooling != Pooling::Last
    }

    /// Begins a prompt of `len` tokens, at least one.
    ///
    /// # Errors
    /// `Memory`.
    pub fn begin(&self, len: usize) -> Result<Pooled> {
        let first = if self.modules.pooling == Pooling::Max { f64::NEG_INFINITY } else { 0.0 };
        let next = if self.modules.pooling == Pooling::Last { len.saturating_sub(1) } else { 0 };
        Ok(Pooled { elements: filled("an embedding", self.hidden, first)?, next, len })
    }

    /// Of positions that were computed, those whose states are wanted next.
    pub fn wanted(&self, pooled: &Pooled, computed: &Range<usize>) -> Range<usize> {
        let end = if self.modules.pooling == Pooling::First { 1 } else { pooled.len };
        // After a preemption some are computed again.
        let first = pooled.next.max(computed.start);
        first..end.min(computed.end).max(first)
    }

    /// Adds the states `[rows, hidden]` of the next positions that are wanted.
    pub fn add(&self, pooled: &mut Pooled, states: &[f32]) {
        for state in states.chunks_exact(self.hidden.max(1)) {
            let elements = pooled.elements.iter_mut().zip(state);
            match self.modules.pooling {
                Pooling::Max => elements.for_each(|(most, &x)| *most = most.max(f64::from(x))),
                _ => elements.for_each(|(sum, &x)| *sum += f64::from(x)),
            }
            pooled.next += 1;
        }
    }

    /// The embedding, once all that is wanted was added.
    ///
    /// # Errors
    /// `Format` when a number overflowed; `Memory`.
    pub fn finish(&self, pooled: &Pooled) -> Result<Vec<f32>> {
        let last = if self.modules.pooling == Pooling::First { 1 } else { pooled.len };
        if pooled.next != last {
            return Err(Error::internal(format!("{} of {last} hidden states were seen", pooled.next)));
        }
        let divisor = if self.modules.pooling == Pooling::Mean { pooled.len.max(1) as f64 } else { 1.0 };
        let mut x = reserved("an embedding", self.hidden)?;
        x.extend(pooled.elements.iter().map(|&sum| (sum / divisor) as f32));
        for module in &self.modules.modules {
            match module {
                EmbeddingModule::Dense(dense) => x = apply(dense, &x)?,
                EmbeddingModule::Normalize => normalize(&mut x),
            }
        }
        match x.iter().all(|x| x.is_finite()) {
            true => Ok(x),
            false => Err(Error::format(
                "the model computed an embedding that is not finite: its weights are damaged or numbers overflowed; try again \
                 with compute = f32",
            )),
        }
    }
}

/// Divides a vector by its Euclidean norm.
pub fn normalize(x: &mut [f32]) {
    let norm = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(NORM_MIN);
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

fn apply(dense: &DenseModule, x: &[f32]) -> Result<Vec<f32>> {
    let mut out = reserved("an embedding", dense.out_features)?;
    for (index, row) in dense.weight.chunks_exact(dense.in_features.max(1)).enumerate() {
        let sum = dot(row, x) + dense.bias.get(index).copied().unwrap_or(0.0);
        out.push(if dense.tanh { sum.tanh() } else { sum });
    }
    Ok(out)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedder(pooling: Pooling, modules: Vec<EmbeddingModule>) -> Embedder {
        Embedder { hidden: 2, modules: EmbeddingModules { pooling, width: None, modules } }
    }

    const STATES: [f32; 8] = [1.0, -2.0, 3.0, 4.0, -5.0, 0.5, 7.0, -1.5];

    /// Cut anywhere, and begun anew after any part.
    #[test]
    fn pooling_does_not_depend_on_the_cut() {
        for (pooling, want) in [
            (Pooling::First, [1.0, -2.0]),
            (Pooling::Last, [7.0, -1.5]),
            (Pooling::Mean, [1.5, 0.25]),
            (Pooling::Max, [7.0, 4.0]),
        ] {
            let embedder = embedder(pooling, Vec::new());
            for cut in 0..=4 {
                let mut pooled = embedder.begin(4).unwrap();
                for computed in [0..cut, 0..cut.min(1), 0..cut, cut..4] {
                    let wanted = embedder.wanted(&pooled, &computed);
                    assert!(wanted.is_empty() || wanted.start >= computed.start && wanted.end <= computed.end);
                    embedder.add(&mut pooled, &STATES[wanted.start * 2..wanted.end * 2]);
                }
                assert_eq!(embedder.finish(&pooled).unwrap(), want, "{pooling:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn modules_follow_in_order() {
        let dense = |weight: Vec<f32>, bias: Vec<f32>, tanh| {
            let (in_features, out_features) = (2, weight.len() / 2);
            EmbeddingModule::Dense(DenseModule { in_features, out_features, weight, bias, tanh })
        };
        let steps = vec![dense(vec![3.0, 0.0, 0.0, 1.0], vec![0.0, -0.5], false), EmbeddingModule::Normalize];
        let embedder = embedder(Pooling::Last, steps);
        assert_eq!((embedder.len(), embedder.normalizes(), embedder.wants_all()), (2, true, false));
        let mut pooled = embedder.begin(1).unwrap();
        embedder.add(&mut pooled, &[1.0, 4.5]);
        assert_eq!(embedder.finish(&pooled).unwrap(), [0.6, 0.8]);
        pooled.elements[0] = f64::NAN;
        assert!(embedder.finish(&pooled).unwrap_err().message.contains("not finite"));
    }
}
