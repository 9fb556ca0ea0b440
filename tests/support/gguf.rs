//! Writes GGUF files: any bytes a test wants, and models of random blocks.

use crate::support::random::Random;
use astrai::dtype::BlockFormat;

/// A GGUF file being made.
#[derive(Clone, Default)]
pub struct Writer {
    keys: u64,
    metadata: Vec<u8>,
    tensors: Vec<Tensor>,
}

/// A tensor as it is written: shape outermost first, number of its type, bytes.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

impl Writer {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.keys += 1;
        text(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        &mut self.metadata
    }

    pub fn whole(&mut self, key: &str, n: u64) {
        self.key(key, 4).extend((n as u32).to_le_bytes());
    }

    pub fn number(&mut self, key: &str, x: f64) {
        self.key(key, 6).extend((x as f32).to_le_bytes());
    }

    pub fn flag(&mut self, key: &str, b: bool) {
        self.key(key, 7).push(u8::from(b));
    }

    pub fn text(&mut self, key: &str, value: &str) {
        text(self.key(key, 8), value);
    }

    pub fn texts(&mut self, key: &str, all: &[&str]) {
        let to = self.key(key, 9);
        to.extend(8u32.to_le_bytes());
        to.extend((all.len() as u64).to_le_bytes());
        all.iter().for_each(|value| text(to, value));
    }

    pub fn floats(&mut self, key: &str, all: &[f32]) {
        let to = self.key(key, 9);
        to.extend(6u32.to_le_bytes());
        to.extend((all.len() as u64).to_le_bytes());
        all.iter().for_each(|value| to.extend(value.to_le_bytes()));
    }

    pub fn wholes(&mut self, key: &str, all: &[i32]) {
        let to = self.key(key, 9);
        to.extend(5u32.to_le_bytes());
        to.extend((all.len() as u64).to_le_bytes());
        all.iter().for_each(|value| to.extend(value.to_le_bytes()));
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) {
        let shape = shape.iter().map(|&n| n as u64).collect();
        self.tensors.push(Tensor { name: name.to_owned(), shape, kind, bytes });
    }

    /// The same without a key.
    pub fn without(mut self, key: &str) -> Writer {
        let mut begin = Vec::new();
        text(&mut begin, key);
        let at = self.metadata.windows(begin.len()).position(|window| window == begin).expect("a key");
        let after = at + begin.len();
        let whole = |at: usize| u64::from_le_bytes(self.metadata[at..at + 8].try_into().unwrap()) as usize;
        let bytes = match self.metadata[after] {
            7 => 1,
            8 => 8 + whole(after + 4),
            9 if self.metadata[after + 4] == 8 => {
                (0..whole(after + 8)).fold(12, |bytes, _| bytes + 8 + whole(after + 4 + bytes))
            }
            9 => 12 + 4 * whole(after + 8),
            _ => 4,
        };
        self.metadata.drain(at..after + 4 + bytes);
        self.keys -= 1;
        self
    }

    /// The same with another shape of a tensor, cut to it.
    pub fn with_shape(mut self, name: &str, shape: &[usize]) -> Writer {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor");
        let elements: u64 = tensor.shape.iter().product();
        let each = tensor.bytes.len() / elements as usize;
        tensor.shape = shape.iter().map(|&n| n as u64).collect();
        tensor.bytes.truncate(shape.iter().product::<usize>() * each);
        self
    }

    /// The file, tensors at multiples of 32.
    pub fn file(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(&self.metadata);
        let mut data = Vec::new();
        for Tensor { name, shape, kind, bytes } in &self.tensors {
            text(&mut file, name);
            file.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|n| file.extend(n.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }

    /// Some of the tensors, in a file without metadata but for what split files have.
    pub fn part(&self, tensors: std::ops::Range<usize>, count: usize) -> Vec<u8> {
        let mut part = if tensors.start == 0 { self.clone() } else { Writer::default() };
        part.whole("split.count", count as u64);
        part.tensors = self.tensors[tensors].to_vec();
        part.file()
    }

    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }
}

/// The number of a plain type.
pub fn kind(dtype: safetensors::Dtype) -> u32 {
    match dtype {
        safetensors::Dtype::F32 => 0,
        safetensors::Dtype::F16 => 1,
        safetensors::Dtype::BF16 => 30,
        // Bytes, which a converter writes in no file.
        safetensors::Dtype::U8 => 24,
        other => panic!("{other:?}"),
    }
}

/// The number of a block format.
pub fn kind_of(format: BlockFormat) -> u32 {
    match format {
        BlockFormat::Q4_0 => 2,
        BlockFormat::Q4_1 => 3,
        BlockFormat::Q5_0 => 6,
        BlockFormat::Q5_1 => 7,
        BlockFormat::Q8_0 => 8,
        BlockFormat::Q2K => 10,
        BlockFormat::Q3K => 11,
        BlockFormat::Q4K => 12,
        BlockFormat::Q5K => 13,
        BlockFormat::Q6K => 14,
        BlockFormat::Iq4Nl => 20,
        BlockFormat::Iq4Xs => 23,
        BlockFormat::Mxfp4 => 39,
    }
}

/// Random blocks whose weights are about a twentieth large.
pub fn random_blocks(format: BlockFormat, elements: usize, random: &mut Random) -> Vec<u8> {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let mut all: Vec<u8> = (0..elements / format.weights() * format.bytes()).map(|_| random.below(256) as u8).collect();
    for block in all.chunks_mut(format.bytes()) {
        let at = |block: &mut [u8], at: usize, x: f32| block[at..at + 2].copy_from_slice(&half(x));
        match format {
            BlockFormat::Q4_0 | BlockFormat::Iq4Nl => {
                at(block, 0, if format == BlockFormat::Q4_0 { 0.01 } else { 0.001 })
            }
            BlockFormat::Q5_0 => at(block, 0, 0.005),
            BlockFormat::Q8_0 => at(block, 0, 0.0007),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => {
                at(block, 0, if format == BlockFormat::Q4_1 { 0.01 } else { 0.005 });
                at(block, 2, -0.075);
            }
            BlockFormat::Q2K => {
                at(block, 80, 0.004);
                at(block, 82, 0.005);
            }
            BlockFormat::Q3K => at(block, 108, 0.0015),
            BlockFormat::Q4K => {
                at(block, 0, 0.0003);
                at(block, 2, 0.002);
            }
            BlockFormat::Q5K => {
                at(block, 0, 0.00015);
                at(block, 2, 0.002);
            }
            BlockFormat::Q6K => at(block, 208, 0.00003),
            BlockFormat::Iq4Xs => at(block, 0, 0.00004),
            BlockFormat::Mxfp4 => block[0] = 120,
        }
    }
    all
}

/// A model of random blocks: two layers of a llama whose rows are as wide as the largest block.
pub fn random_model(format: BlockFormat) -> Writer {
    random_model_of(0, |_| format)
}

/// A small Llama with random matrices in the formats that `format_of` gives for their names; with `experts`, a Mixtral of that
/// many, two of them for each token.
pub fn random_model_of(experts: usize, format_of: impl Fn(&str) -> BlockFormat) -> Writer {
    let (hidden, inner, vocab, heads) = (256, 512, 96, 4);
    let mut random = Random(format_of("output") as u64 + 17);
    let mut writer = Writer::default();
    writer.text("general.architecture", "llama");
    for (key, n) in [
        ("context_length", 256),
        ("embedding_length", hidden),
        ("block_count", 2),
        ("feed_forward_length", inner),
        ("attention.head_count", heads),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", hidden / heads),
    ] {
        writer.whole(&format!("llama.{key}"), n as u64);
    }
    writer.number("llama.attention.layer_norm_rms_epsilon", 1e-5);
    if experts > 0 {
        writer.whole("llama.expert_count", experts as u64);
        writer.whole("llama.expert_used_count", 2);
    }
    let mut matrix = |writer: &mut Writer, name: &str, shape: &[usize]| {
        let format = format_of(name.rsplit('.').next().unwrap_or(name));
        let bytes = random_blocks(format, shape.iter().product(), &mut random);
        writer.tensor(&format!("{name}.weight"), shape, kind_of(format), bytes);
    };
    let ones: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), hidden).flatten().collect();
    matrix(&mut writer, "token_embd", &[vocab, hidden]);
    writer.tensor("output_norm.weight", &[hidden], 0, ones.clone());
    matrix(&mut writer, "output", &[vocab, hidden]);
    for l in 0..2 {
        writer.tensor(&format!("blk.{l}.attn_norm.weight"), &[hidden], 0, ones.clone());
        writer.tensor(&format!("blk.{l}.ffn_norm.weight"), &[hidden], 0, ones.clone());
        for (name, rows) in
            [("attn_q", hidden), ("attn_k", hidden / 2), ("attn_v", hidden / 2), ("attn_output", hidden)]
        {
            matrix(&mut writer, &format!("blk.{l}.{name}"), &[rows, hidden]);
        }
        if experts > 0 {
            let router = (0..experts * hidden).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0);
            let router = router.flat_map(f32::to_le_bytes).collect();
            writer.tensor(&format!("blk.{l}.ffn_gate_inp.weight"), &[experts, hidden], 0, router);
            for (name, shape) in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])] {
                matrix(&mut writer, &format!("blk.{l}.ffn_{name}_exps"), &[experts, shape[0], shape[1]]);
            }
        } else {
            for (name, shape) in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])] {
                matrix(&mut writer, &format!("blk.{l}.ffn_{name}"), &shape);
            }
        }
    }
    writer
}
