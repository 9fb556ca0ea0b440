//! Tensors that a converter changes beyond their names: stacks whose columns take turns, 4-bit floats in other blocks, the matrix
//! that makes keys and values of a latent.

use super::Stored;
use crate::support::gguf::Writer;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A checkpoint's tensors by name.
type Checkpoint = BTreeMap<String, Stored>;

/// What a tensor becomes, if it is such a one. `whole`: as older files have it.
pub fn tensors(arch: &str, name: &str, all: &Checkpoint, config: &Value, whole: bool) -> Option<Vec<(String, Stored)>> {
    match arch {
        "deepseek2" => deepseek(name, all, config, whole),
        "gpt-oss" => gpt_oss(name, all),
        "gptneox" => gpt_neox(name, all, config),
        _ => None,
    }
}

/// The layer of a tensor and its name there.
fn in_layer(name: &str) -> Option<(&str, &str)> {
    name.split_once("layers.")?.1.split_once('.')
}

/// Sinks, and experts whose gates and ups take turns.
fn gpt_oss(name: &str, all: &Checkpoint) -> Option<Vec<(String, Stored)>> {
    let (layer, part) = in_layer(name)?;
    if part == "self_attn.sinks" {
        return Some(vec![(format!("blk.{layer}.attn_sinks.weight"), all[name].clone())]);
    }
    let part = part.strip_prefix("mlp.experts.")?;
    let (matrix, kind) = match part.strip_prefix("gate_up_proj") {
        Some(kind) => ("gate_up", kind),
        None => ("down", part.strip_prefix("down_proj")?),
    };
    let whole = match kind {
        "_bias" => all[name].clone(),
        "_blocks" => mxfp4(&all[name], &all[&name.replace("_blocks", "_scales")]),
        "_scales" => return Some(Vec::new()),
        _ => transposed(&all[name]),
    };
    let end = if kind == "_bias" { "bias" } else { "weight" };
    let named = |part: &str, stored| (format!("blk.{layer}.ffn_{part}_exps.{end}"), stored);
    Some(match matrix {
        "gate_up" => vec![named("gate", every_second(&whole, 0)), named("up", every_second(&whole, 1))],
        _ => vec![named("down", whole)],
    })
}

/// Rows of all queries, then those of all keys and of all values, which were together for each head.
fn gpt_neox(name: &str, all: &Checkpoint, config: &Value) -> Option<Vec<(String, Stored)>> {
    let (layer, part) = in_layer(name)?;
    let end = part.strip_prefix("attention.query_key_value.")?;
    let (stored, heads) = (&all[name], config["num_attention_heads"].as_u64().unwrap() as usize);
    let each = stored.bytes.len() / heads / 3;
    let pieces = (0..3).flat_map(|part| stored.bytes.chunks(each).skip(part).step_by(3));
    let bytes = pieces.flatten().copied().collect();
    let made = Stored { shape: stored.shape.clone(), kind: stored.kind, bytes };
    Some(vec![(format!("blk.{layer}.attn_qkv.{end}"), made)])
}

/// Keys and values of heads, the keys transposed; in older files as they were.
fn deepseek(name: &str, all: &Checkpoint, config: &Value, whole: bool) -> Option<Vec<(String, Stored)>> {
    let (layer, part) = in_layer(name)?;
    let n = |key: &str| config[key].as_u64().unwrap() as usize;
    if layer.parse::<usize>().unwrap() >= n("num_hidden_layers") && config["model_type"] != "glm4_moe_lite" {
        return Some(Vec::new());
    }
    if part != "self_attn.kv_b_proj.weight" || whole {
        return None;
    }
    let (heads, nope, values) = (n("num_attention_heads"), n("qk_nope_head_dim"), n("v_head_dim"));
    let stored = &all[name];
    let row = stored.bytes.len() / stored.shape[0];
    let of = |first: usize, count: usize| {
        let bytes = (0..heads).flat_map(|h| {
            let begin = (h * (nope + values) + first) * row;
            stored.bytes[begin..begin + count * row].to_vec()
        });
        Stored { shape: vec![heads, count, stored.shape[1]], kind: stored.kind, bytes: bytes.collect() }
    };
    let named = |part: &str, stored| (format!("blk.{layer}.attn_{part}_b.weight"), stored);
    Some(vec![named("k", transposed(&of(0, nope))), named("v", of(nope, values))])
}

/// The keys that say how large heads are; in older files under other names.
pub fn latent_sizes(writer: &mut Writer, config: &Value, whole: bool) {
    let n = |key: &str| config[key].as_u64().unwrap();
    let mut put = |key: &str, n: u64| writer.whole(&format!("deepseek2.{key}"), n);
    let (rank, rope) = (n("kv_lora_rank"), n("qk_rope_head_dim"));
    let (key, value) = (n("qk_nope_head_dim") + rope, n("v_head_dim"));
    put("rope.dimension_count", rope);
    put("attention.kv_lora_rank", rank);
    config["q_lora_rank"].as_u64().into_iter().for_each(|rank| put("attention.q_lora_rank", rank));
    if whole {
        put("attention.head_count_kv", n("num_key_value_heads"));
        put("attention.key_length", key);
        put("attention.value_length", value);
    } else {
        put("attention.head_count_kv", 1);
        put("attention.key_length", rank + rope);
        put("attention.value_length", rank);
        put("attention.key_length_mla", key);
        put("attention.value_length_mla", value);
    }
    match config["scoring_func"].as_str() {
        Some("sigmoid") => put("expert_gating_func", 2),
        Some(_) if !whole => put("expert_gating_func", 1),
        _ => {}
    }
}

/// The pooling of an embedding model and its dense layers.
pub fn embedding(writer: &mut Writer, arch: &str, dir: &Path) {
    let text = std::fs::read_to_string(dir.join("1_Pooling/config.json")).unwrap();
    let pooling: Value = serde_json::from_str(&text).unwrap();
    let set = |mode: &str| pooling[format!("pooling_mode_{mode}")] == true;
    let kind = if set("mean_tokens") { 1 } else { 3 };
    assert!(kind == 1 || set("lasttoken"), "{pooling}");
    writer.whole(&format!("{arch}.pooling_type"), kind);
    for (folder, name) in [("2_Dense", "dense_2.weight"), ("3_Dense", "dense_3.weight")] {
        let Ok(bytes) = std::fs::read(dir.join(folder).join("model.safetensors")) else { continue };
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let layer = tensors.tensor("linear.weight").unwrap();
        writer.tensor(name, layer.shape(), crate::support::gguf::kind(layer.dtype()), layer.data().to_vec());
    }
}

/// Of each matrix of a stack the transposed one.
pub fn transposed(stored: &Stored) -> Stored {
    let &[count, rows, columns] = stored.shape.as_slice() else { panic!("{:?}", stored.shape) };
    let size = stored.bytes.len() / (count * rows * columns);
    let order = (0..count).flat_map(|e| {
        (0..columns).flat_map(move |c| (0..rows).map(move |r| (e * rows * columns + r * columns + c) * size))
    });
    let bytes = order.flat_map(|at| stored.bytes[at..at + size].to_vec()).collect();
    Stored { shape: vec![count, columns, rows], kind: stored.kind, bytes }
}

/// Every second row of each matrix of a stack, or every second element of each vector.
fn every_second(stored: &Stored, first: usize) -> Stored {
    let row = stored.bytes.len() / stored.shape[0] / stored.shape[1];
    let bytes = stored.bytes.chunks(row).skip(first).step_by(2).flatten().copied().collect();
    let mut shape = stored.shape.clone();
    shape[1] /= 2;
    Stored { shape, kind: stored.kind, bytes }
}

/// Blocks of 32 with the exponent in front; nibbles of neighbours become those of both halves.
fn mxfp4(blocks: &Stored, scales: &Stored) -> Stored {
    let &[count, rows, each, 16] = blocks.shape.as_slice() else { panic!("{:?}", blocks.shape) };
    let mut bytes = Vec::new();
    for (block, scale) in blocks.bytes.chunks(16).zip(&scales.bytes) {
        let nibbles: Vec<u8> = block.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        bytes.push(*scale);
        bytes.extend((0..16).map(|i| nibbles[i] | nibbles[16 + i] << 4));
    }
    Stored { shape: vec![count, rows, 32 * each], kind: 39, bytes }
}
