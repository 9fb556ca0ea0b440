//! A model of random weights, made in memory: what speed and memory depend on is a model's shape, not its values.
//!
//! The values are those of a seeded counter, so a model is the same on every machine and with any number of threads. Their
//! spread is that of trained weights, so that activations stay finite. There is no tokenizer: prompts are token ids.
//! Called by benchmarks and tests.

use super::{Bytes, ModelSource, SpecialTokens, TensorInfo};
use crate::backend::RandomWeight;
use crate::dtype::DType;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::os::aligned::AlignedBytes;
use crate::os::memory;
use crate::os::thread::{self, ThreadOptions};
use half::bf16;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// Standard deviation of matrices and biases, as most published models were initialised.
const SPREAD: f32 = 0.02;
/// Standard deviation of a norm's gains about 1.
const GAIN_SPREAD: f32 = 0.1;
/// Values a weight may have: as many as 12 random bits name.
const LEVELS: usize = 1 << 12;

/// A model of random bf16 weights. Clones share them.
#[derive(Clone)]
pub struct Synthetic {
    subject: String,
    config: Value,
    infos: Vec<TensorInfo>,
    seed: u64,
    /// Of all tensors, or of none: each is then made by the call that wants it.
    bytes: Option<Vec<Bytes>>,
}

impl Synthetic {
    /// Makes the tensors of a model. `name` stands for its path in messages, `config` is its `config.json`, `tensors`
    /// are names and shapes; what ends with `.bias` or has two dimensions is spread about 0, other vectors about 1. What ends
    /// with `_blocks` or `_scales` is bytes: codes of 4-bit floats, and the exponents that give these that spread.
    ///
    /// # Errors
    /// `Memory` when the weights do not fit, `Format` for a shape beyond what can be addressed or a name given twice.
    pub fn new(name: &str, config: Value, tensors: Vec<(String, Vec<usize>)>, seed: u64) -> Result<Synthetic> {
        let mut model = Synthetic::unmade(name, config, tensors, seed)?;
        model.bytes = Some(fill(&model.infos, seed)?);
        Ok(model)
    }

    /// As [`Synthetic::new`], but no tensor is made before it is asked for: for a device that makes the matrices itself
    /// ([`ModelSource::random`]), so that the host has memory for none of them.
    ///
    /// # Errors
    /// `Format`, as of [`Synthetic::new`].
    pub fn unmade(name: &str, config: Value, tensors: Vec<(String, Vec<usize>)>, seed: u64) -> Result<Synthetic> {
        let dtype = |name: &str| if codes_of(name).is_some() { DType::U8 } else { DType::Bf16 };
        let mut infos: Vec<TensorInfo> =
            tensors.into_iter().map(|(name, shape)| TensorInfo { dtype: dtype(&name), name, shape }).collect();
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = infos.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::format(format!("tensor {} is named twice", pair[0].name)).about(name));
        }
        if infos.len() > limits::TENSORS_MAX {
            return Err(
                Error::format(format!("{} tensors, more than {}", infos.len(), limits::TENSORS_MAX)).about(name)
            );
        }
        infos.iter().try_for_each(|info| tensor_len(info).map(drop))?;
        Ok(Synthetic { subject: name.to_owned(), config, infos, seed, bytes: None })
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.infos.iter().filter_map(|info| tensor_len(info).ok()).fold(0, |sum, len| sum.saturating_add(len as u64))
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.infos.binary_search_by(|info| info.name.as_str().cmp(name)).ok()
    }
}

impl ModelSource for Synthetic {
    fn subject(&self) -> &str {
        &self.subject
    }

    fn config(&self) -> Result<&Value> {
        Ok(&self.config)
    }

    fn generation_config(&self) -> Result<Option<&Value>> {
        Ok(None)
    }

    fn tokenizer_json(&self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn special_tokens(&self) -> Result<SpecialTokens> {
        Ok(SpecialTokens::default())
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn tensors(&self) -> Result<&[TensorInfo]> {
        Ok(&self.infos)
    }

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        let Some((at, info)) = self.place(name).and_then(|at| Some((at, self.infos.get(at)?))) else { return Ok(None) };
        let bytes = match &self.bytes {
            Some(all) => all.get(at).cloned(),
            None => {
                let len = tensor_len(info)?;
                let mut bytes = AlignedBytes::zeroed(len).ok_or_else(|| Error::memory("random weights", len as u64))?;
                match codes_of(&info.name) {
                    Some(codes) => codes.fill(bytes.as_mut_slice(), stream(self.seed, at)),
                    None => randomize(bytes.as_mut_slice(), &levels(is_gain(info)), stream(self.seed, at)),
                }
                Some(Bytes::from_aligned(bytes))
            }
        };
        Ok(bytes.map(|bytes| (info.clone(), bytes)))
    }

    fn random(&self, name: &str) -> Option<RandomWeight> {
        let at = self.place(name).filter(|_| self.bytes.is_none())?;
        let info = self.infos.get(at)?;
        let about_zero = !is_gain(info) && codes_of(&info.name).is_none();
        about_zero.then(|| RandomWeight { seed: stream(self.seed, at), deviation: SPREAD })
    }
}

/// The bytes of a tensor.
fn tensor_len(info: &TensorInfo) -> Result<usize> {
    let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let too_large = || Error::format(format!("tensor {} of shape {:?} is too large", info.name, info.shape));
    elements.and_then(|n| n.checked_mul(info.dtype.size())).ok_or_else(too_large)
}

/// Bytes that 4-bit floats are made of.
#[derive(Clone, Copy)]
enum Codes {
    /// Two codes each.
    Values,
    /// Exponents.
    Scales,
}

impl Codes {
    /// The exponent, above 127, of the power of two with which codes have about [`SPREAD`].
    const EXPONENT: u8 = 120;

    fn fill(self, bytes: &mut [u8], stream: u64) {
        match self {
            Codes::Scales => bytes.fill(Codes::EXPONENT),
            Codes::Values => {
                let mut counter = stream;
                for group in bytes.chunks_mut(8) {
                    counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    group.iter_mut().zip(mix(counter).to_le_bytes()).for_each(|(byte, random)| *byte = random);
                }
            }
        }
    }
}

/// The bytes in a tensor of this name, where it is of 4-bit floats.
fn codes_of(name: &str) -> Option<Codes> {
    match name {
        _ if name.ends_with("_blocks") => Some(Codes::Values),
        _ if name.ends_with("_scales") => Some(Codes::Scales),
        _ => None,
    }
}

/// Whether it is a norm's gains, which are about 1.
fn is_gain(info: &TensorInfo) -> bool {
    info.shape.len() == 1 && !info.name.ends_with(".bias")
}

/// The stream of random numbers of a tensor, by its place.
fn stream(seed: u64, index: usize) -> u64 {
    mix(seed ^ mix(index as u64))
}

/// The values of gains, or of everything else.
fn levels(gain: bool) -> [u16; LEVELS] {
    let (middle, spread) = if gain { (1.0, GAIN_SPREAD) } else { (0.0, SPREAD) };
    normal_levels().map(|x| bf16::from_f32(middle + spread * x).to_bits())
}

/// A tensor to be made.
struct Job {
    index: usize,
    len: usize,
    gain: bool,
    codes: Option<Codes>,
}

/// What the threads share. Each tensor is made by one of them, the largest first.
struct Work {
    jobs: Mutex<Vec<Job>>,
    made: Mutex<Vec<(usize, Option<AlignedBytes>)>>,
    matrix: [u16; LEVELS],
    gain: [u16; LEVELS],
    seed: u64,
}

/// The bytes of each tensor, made by as many threads as there are cores.
fn fill(infos: &[TensorInfo], seed: u64) -> Result<Vec<Bytes>> {
    let mut jobs = Vec::with_capacity(infos.len());
    for (index, info) in infos.iter().enumerate() {
        jobs.push(Job { index, len: tensor_len(info)?, gain: is_gain(info), codes: codes_of(&info.name) });
    }
    // Taken from the end.
    jobs.sort_by_key(|job| job.len);
    let total = jobs.iter().fold(0u64, |sum, job| sum.saturating_add(job.len as u64));
    // Asked for first: the system promises memory it does not have, and kills who writes to it.
    if let Some(free) = memory::available_bytes().filter(|&free| free < total) {
        let message = format!("the weights take {total} bytes, {free} are free; choose a smaller model");
        return Err(Error::new(Status::Memory, message).numbers(Unit::Bytes, total, free));
    }
    let work = Arc::new(Work {
        made: Mutex::new(Vec::with_capacity(jobs.len())),
        jobs: Mutex::new(jobs),
        matrix: levels(false),
        gain: levels(true),
        seed,
    });
    let mut threads = Vec::new();
    for _ in 1..thread::physical_cores() {
        let work = work.clone();
        threads.push(thread::spawn("weights", ThreadOptions::default(), move || work.run())?);
    }
    work.run();
    threads.into_iter().for_each(thread::JoinHandle::join);
    let mut made = std::mem::take(&mut *work.made.lock().unwrap_or_else(PoisonError::into_inner));
    made.sort_unstable_by_key(|(index, _)| *index);
    let refused = || Error::memory("random weights", total);
    let bytes = made.into_iter().map(|(_, bytes)| bytes.map(Bytes::from_aligned).ok_or_else(refused));
    let bytes = bytes.collect::<Result<Vec<Bytes>>>()?;
    if bytes.len() != infos.len() {
        return Err(Error::internal(format!("{} of {} random tensors were made", bytes.len(), infos.len())));
    }
    Ok(bytes)
}

impl Work {
    /// Makes tensors until there are none left, or memory is.
    fn run(&self) {
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(job) = job else { return };
            let mut bytes = AlignedBytes::zeroed(job.len);
            if let Some(bytes) = &mut bytes {
                let (bytes, stream) = (bytes.as_mut_slice(), stream(self.seed, job.index));
                match job.codes {
                    Some(codes) => codes.fill(bytes, stream),
                    None => randomize(bytes, if job.gain { &self.gain } else { &self.matrix }, stream),
                }
            } else {
                self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            self.made.lock().unwrap_or_else(PoisonError::into_inner).push((job.index, bytes));
        }
    }
}

/// Draws each element of a row of bf16 from the levels. Five draws of 12 bits come from one number of the stream.
fn randomize(bytes: &mut [u8], levels: &[u16; LEVELS], stream: u64) {
    let mut counter = stream;
    for group in bytes.chunks_mut(10) {
        counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = mix(counter);
        for element in group.chunks_exact_mut(2) {
            element.copy_from_slice(&levels[random as usize % LEVELS].to_le_bytes());
            random >>= 12;
        }
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of `x`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Equally likely values whose distribution is the standard normal one: the centres of [`LEVELS`] slices of equal
/// probability, found by adding up the density.
fn normal_levels() -> [f32; LEVELS] {
    const STEP: f64 = 1e-4;
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let mut levels = [0.0; LEVELS];
    let (mut x, mut below) = (0.0, 0.5);
    for slice in LEVELS / 2..LEVELS {
        let wanted = (slice as f64 + 0.5) / LEVELS as f64;
        while below < wanted {
            below += STEP * density(x + STEP / 2.0);
            x += STEP;
        }
        levels[slice] = x as f32;
        levels[LEVELS - 1 - slice] = -x as f32;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(source: &Synthetic, name: &str) -> Vec<f32> {
        let (info, bytes) = source.tensor(name).expect("no error").expect("it is there");
        let values: Vec<f32> = bytes
            .as_slice()
            .chunks_exact(2)
            .map(|b| bf16::from_bits(u16::from_le_bytes([b[0], b[1]])).to_f32())
            .collect();
        assert_eq!(values.len(), info.shape.iter().product::<usize>());
        values
    }

    fn mean_and_spread(values: &[f32]) -> (f32, f32) {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        (mean, variance.sqrt())
    }

    fn tensors() -> Vec<(String, Vec<usize>)> {
        vec![
            ("b.weight".into(), vec![301, 77]),
            ("a.weight".into(), vec![301, 77]),
            ("n.weight".into(), vec![4099]),
            ("n.bias".into(), vec![4099]),
        ]
    }

    #[test]
    fn weights_have_the_spread_of_trained_ones_and_repeat_with_the_seed() {
        let model = Synthetic::new("x", json!({}), tensors(), 3).expect("small");
        let names: Vec<&str> = model.tensors().unwrap().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a.weight", "b.weight", "n.bias", "n.weight"]);
        assert_eq!(model.weight_bytes(), 2 * (2 * 301 * 77 + 2 * 4099));
        for (name, mean, spread) in [("a.weight", 0.0, 0.02), ("n.weight", 1.0, 0.1), ("n.bias", 0.0, 0.02)] {
            let (m, s) = mean_and_spread(&values(&model, name));
            assert!((m - mean).abs() < 0.1 * spread && (s / spread - 1.0).abs() < 0.1, "{name}: {m}, {s}");
        }
        assert_ne!(values(&model, "a.weight"), values(&model, "b.weight"));
        let again = Synthetic::new("x", json!({}), tensors(), 3).expect("small");
        let other = Synthetic::new("x", json!({}), tensors(), 4).expect("small");
        assert_eq!(values(&model, "a.weight"), values(&again, "a.weight"));
        assert_ne!(values(&model, "a.weight"), values(&other, "a.weight"));
        assert!(model.tensor("c.weight").unwrap().is_none());
    }

    #[test]
    fn what_is_made_when_it_is_asked_for_is_the_same() {
        let made = Synthetic::new("x", json!({}), tensors(), 3).expect("small");
        let unmade = Synthetic::unmade("x", json!({}), tensors(), 3).expect("no memory");
        for info in made.tensors().unwrap() {
            assert_eq!(values(&made, &info.name), values(&unmade, &info.name));
            assert_eq!(made.random(&info.name), None);
        }
        let seed = |name: &str| unmade.random(name).map(|random| random.seed);
        assert!(seed("n.weight").is_none() && seed("c.weight").is_none() && seed("n.bias").is_some());
        assert_ne!(seed("a.weight"), seed("b.weight"));
    }

    #[test]
    fn impossible_lists_are_refused() {
        let twice = vec![("a".into(), vec![1]), ("a".into(), vec![1])];
        assert!(Synthetic::new("x", json!({}), twice, 0).is_err());
        let huge = vec![("a".into(), vec![usize::MAX, 2])];
        assert!(Synthetic::new("x", json!({}), huge, 0).is_err());
    }
}
