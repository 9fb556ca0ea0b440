//! Writes GGUF files: any bytes a test wants, and the fixtures' checkpoints as a converter writes them.

use crate::support::random::Random;
use astrai::dtype::BlockFormat;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

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
fn kind(dtype: safetensors::Dtype) -> u32 {
    match dtype {
        safetensors::Dtype::F32 => 0,
        safetensors::Dtype::F16 => 1,
        safetensors::Dtype::BF16 => 30,
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

/// A fixture of a family that GGUF files have, as a converter writes it: rows of queries and keys permuted for Llama's
/// architecture, experts stacked. None for other families.
pub fn of_fixture(dir: &Path) -> Option<Writer> {
    let read = |name: &str| std::fs::read(dir.join(name)).ok();
    let config: Value = serde_json::from_slice(&read("config.json")?).unwrap();
    let (arch, permuted) = match config["model_type"].as_str()? {
        "llama" | "mistral" | "mixtral" => ("llama", true),
        "qwen2" => ("qwen2", false),
        "qwen3" => ("qwen3", false),
        "qwen3_moe" => ("qwen3moe", false),
        _ => return None,
    };
    let mut files = Vec::new();
    match read("model.safetensors") {
        Some(bytes) => files.push(bytes),
        None => {
            let index: Value = serde_json::from_slice(&read("model.safetensors.index.json")?).unwrap();
            let mut names: Vec<&str> = index["weight_map"].as_object()?.values().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.dedup();
            files.extend(names.iter().filter_map(|name| read(name)));
        }
    }
    let n = |key: &str| config[key].as_u64();
    let heads = n("num_attention_heads")?;
    let kv_heads = n("num_key_value_heads").unwrap_or(heads);
    let head_dim = n("head_dim").unwrap_or(n("hidden_size")? / heads);
    let mut writer = Writer::default();
    writer.text("general.architecture", arch);
    let key = |name: &str| format!("{arch}.{name}");
    writer.whole(&key("context_length"), n("max_position_embeddings")?);
    writer.whole(&key("embedding_length"), n("hidden_size")?);
    writer.whole(&key("block_count"), n("num_hidden_layers")?);
    writer.whole(&key("feed_forward_length"), n("intermediate_size")?);
    writer.whole(&key("attention.head_count"), heads);
    writer.whole(&key("attention.head_count_kv"), kv_heads);
    writer.whole(&key("attention.key_length"), head_dim);
    writer.whole(&key("attention.value_length"), head_dim);
    writer.number(&key("attention.layer_norm_rms_epsilon"), config["rms_norm_eps"].as_f64()?);
    let new = &config["rope_parameters"];
    let theta = config["rope_theta"].as_f64().or(new["rope_theta"].as_f64()).unwrap_or(10_000.0);
    writer.number(&key("rope.freq_base"), theta);
    let scaling = if new.is_object() { new } else { &config["rope_scaling"] };
    match scaling["rope_type"].as_str().or(scaling["type"].as_str()) {
        Some("llama3") => {
            let factors = llama3_factors(scaling, theta, head_dim);
            let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            writer.tensor("rope_freqs.weight", &[factors.len()], 0, bytes);
        }
        None | Some("default") => {}
        Some(kind) => {
            writer.text(&key("rope.scaling.type"), kind);
            writer.number(&key("rope.scaling.factor"), scaling["factor"].as_f64()?);
            let original = scaling["original_max_position_embeddings"].as_u64();
            original.into_iter().for_each(|n| writer.whole(&key("rope.scaling.original_context_length"), n));
        }
    }
    // The windows of some layers alone, which Qwen's configs have, are no matter of these files.
    let windowed = config["model_type"] == "mistral" || config["use_sliding_window"] == true;
    if let Some(window) = n("sliding_window").filter(|_| windowed) {
        writer.whole(&key("attention.sliding_window"), window);
    }
    let experts = n("num_local_experts").or(n("num_experts"));
    if let Some(count) = experts {
        writer.whole(&key("expert_count"), count);
        writer.whole(&key("expert_used_count"), n("num_experts_per_tok")?);
        n("moe_intermediate_size").into_iter().for_each(|n| writer.whole(&key("expert_feed_forward_length"), n));
        config["norm_topk_prob"].as_bool().into_iter().for_each(|b| writer.flag(&key("expert_weights_norm"), b));
    }
    for file in &files {
        let all = SafeTensors::deserialize(file).unwrap();
        for (name, view) in all.iter() {
            let (shape, kind, bytes) = (view.shape(), kind(view.dtype()), view.data());
            if let Some((stack, 0)) = expert_of(name) {
                let one = name.replace(".experts.0.", ".experts.{e}.");
                let stacked: Vec<u8> = (0..experts?)
                    .flat_map(|e| all.tensor(&one.replace("{e}", &e.to_string())).unwrap().data().to_vec())
                    .collect();
                writer.tensor(&stack, &[experts? as usize, shape[0], shape[1]], kind, stacked);
            } else if expert_of(name).is_none() {
                let to = gguf_name(name).unwrap_or_else(|| panic!("{name}"));
                let of = if to.contains("attn_q.") { heads } else { kv_heads } as usize;
                let turned = permuted && (to.contains("attn_q.") || to.contains("attn_k."));
                let bytes = if turned { permute(bytes, shape[0], of) } else { bytes.to_vec() };
                writer.tensor(&to, shape, kind, bytes);
            }
        }
    }
    Some(writer)
}

/// The divisors of the frequencies that Llama 3's scaling leads to.
fn llama3_factors(scaling: &Value, theta: f64, head_dim: u64) -> Vec<f32> {
    let n = |key: &str| scaling[key].as_f64().unwrap();
    let (factor, low, high, old) =
        (n("factor"), n("low_freq_factor"), n("high_freq_factor"), n("original_max_position_embeddings"));
    let of = |i: u64| {
        let wave = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wave < old / high {
            1.0
        } else if wave > old / low {
            factor
        } else {
            let smooth = (old / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|i| of(i) as f32).collect()
}

/// Rows of heads in the order of Llama's files: of each head, row `i` of the first half before row `i` of the second.
fn permute(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let order = (0..heads).flat_map(|h| (0..half).flat_map(move |i| [0, 1].map(|s| (2 * h + s) * half + i)));
    order.flat_map(|from| bytes[from * row..(from + 1) * row].to_vec()).collect()
}

/// The stack a matrix of an expert belongs to, and its number there.
fn expert_of(name: &str) -> Option<(String, usize)> {
    let (before, after) = name.split_once(".experts.")?;
    let (number, part) = after.split_once('.')?;
    let part = match part.split('.').next()? {
        "gate_proj" | "w1" => "gate",
        "up_proj" | "w3" => "up",
        _ => "down",
    };
    let layer = before.split('.').nth(2)?;
    Some((format!("blk.{layer}.ffn_{part}_exps.weight"), number.parse().ok()?))
}

fn gguf_name(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let whole = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
    if let Some((_, to)) = whole.iter().find(|(from, _)| *from == stem) {
        return Some(format!("{to}.{end}"));
    }
    let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "mlp.gate" | "block_sparse_moe.gate" => "ffn_gate_inp",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{end}"))
}
