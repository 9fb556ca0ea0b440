//! The block formats of GGUF files: how a block becomes integers, scales and minima.
//!
//! Every format is one [`Block`]: its function decodes a block, `weight = scale * integer - minimum`. An integer has at most 8
//! bits, and each [`Block::PART`] consecutive weights have a scale and a minimum; scales and minima are f32, exact or rounded
//! once. What products make of that is written once for all formats ([`crate::backend`]).
//!
//! Layouts: `ggml-common.h` and `ggml-quants.c` of ggml. Numbers of two bytes are little-endian.

use crate::dtype::BlockFormat;

/// Weights that share a scale of the input they are multiplied with.
pub const GROUP: usize = 32;
/// Most weights of a block.
pub const WEIGHTS_MAX: usize = 256;
/// Most parts of a block.
pub const PARTS_MAX: usize = 16;

/// Where the scales and minima of a block's parts are written.
#[derive(Debug)]
pub struct Parts<'a> {
    /// A scale for each part.
    pub scales: &'a mut [f32],
    /// A minimum for each part, which is subtracted; untouched where [`Block::MINIMA`] is not set.
    pub minima: &'a mut [f32],
}

/// Thirty-two bytes on which formats are written once, whatever instructions there are: compilers do not find them in loops over
/// so few. A slice that is too short panics.
pub trait Bytes: Copy {
    /// Stands for the processor having the instructions: what makes values takes one.
    type Proof: Copy;
    /// The first 32 bytes.
    fn load(proof: Self::Proof, from: &[u8]) -> Self;
    /// Of the first 16 bytes the low halves, then the high halves.
    fn nibbles(proof: Self::Proof, from: &[u8]) -> Self;
    /// The f16 at `at`, which is exact as f32.
    fn half(proof: Self::Proof, from: &[u8], at: usize) -> f32;
    /// Byte `i` is bit `i`.
    fn spread(proof: Self::Proof, bits: u32) -> Self;
    /// `self & mask` in each byte.
    fn and(self, mask: u8) -> Self;
    /// `self | other`.
    fn or(self, other: Self) -> Self;
    /// Each byte shifted right; zeros come in.
    fn shr<const BITS: i32>(self) -> Self;
    /// Each byte shifted left; zeros come in.
    fn shl<const BITS: i32>(self) -> Self;
    /// Each byte less `number`, modulo 256.
    fn minus(self, number: u8) -> Self;
    /// `table[self]` for bytes below 16.
    fn lookup(self, table: &[i8; 16]) -> Self;
    /// Writes them to the first 32 integers.
    fn store(self, to: &mut [i8]);
}

/// [`Bytes`] in plain Rust, eight in a word.
#[derive(Clone, Copy)]
pub struct Plain([u64; 4]);

/// The byte in all bytes of a word.
const fn all(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

impl Bytes for Plain {
    type Proof = ();

    #[inline(always)]
    fn load(_: (), from: &[u8]) -> Self {
        let words = &from[..32].as_chunks::<8>().0;
        Plain(std::array::from_fn(|i| u64::from_le_bytes(words[i])))
    }

    #[inline(always)]
    fn nibbles(_: (), from: &[u8]) -> Self {
        let words = &from[..16].as_chunks::<8>().0;
        let [a, b] = [0, 1].map(|i| u64::from_le_bytes(words[i]));
        Plain([a & all(15), b & all(15), a >> 4 & all(15), b >> 4 & all(15)])
    }

    /// Without tables and special instructions: a product corrects the bias of the exponent.
    #[inline(always)]
    fn half(_: (), from: &[u8], at: usize) -> f32 {
        let bits = u32::from(u16::from_le_bytes([from[at], from[at + 1]]));
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        let infinite = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude.to_bits() | infinite | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn spread(_: (), bits: u32) -> Self {
        // In byte i of a word, bit i of its eight; then 1 where that is set.
        let word = |i: u32| ((u64::from(bits) >> (8 * i) & 0xff) * all(1)) & 0x8040_2010_0804_0201;
        Plain([0, 1, 2, 3].map(|i| ((((word(i) & all(0x7f)) + all(0x7f)) | word(i)) >> 7) & all(1)))
    }

    #[inline(always)]
    fn and(self, mask: u8) -> Self {
        Plain(self.0.map(|word| word & all(mask)))
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    #[inline(always)]
    fn shr<const BITS: i32>(self) -> Self {
        Plain(self.0.map(|word| word >> BITS & all(0xff >> BITS)))
    }

    #[inline(always)]
    fn shl<const BITS: i32>(self) -> Self {
        Plain(self.0.map(|word| word << BITS & all(0xff << BITS)))
    }

    #[inline(always)]
    fn minus(self, number: u8) -> Self {
        // The top bits are left out of the difference, so that no byte borrows from the next, and put right after it.
        let (high, less) = (all(0x80), all(number));
        Plain(self.0.map(|word| ((word | high) - (less & !high)) ^ (word ^ !less) & high))
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16]) -> Self {
        let mut out = [0; 4];
        for (out, word) in out.iter_mut().zip(self.0) {
            for (i, code) in word.to_le_bytes().into_iter().enumerate() {
                *out |= u64::from(table[usize::from(code & 15)] as u8) << (8 * i);
            }
        }
        Plain(out)
    }

    #[inline(always)]
    fn store(self, to: &mut [i8]) {
        for (to, word) in to[..32].as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = word.to_le_bytes().map(|byte| byte as i8);
        }
    }
}

/// A block format.
pub trait Block {
    /// Which.
    const FORMAT: BlockFormat;
    /// [`BlockFormat::part`].
    const PART: usize = Self::FORMAT.part();
    /// [`BlockFormat::has_minima`].
    const MINIMA: bool = Self::FORMAT.has_minima();

    /// Whether a block has one part and begins with its f16 scale; with minima, what is added follows, another f16.
    const HALVES: bool = false;

    /// Decodes the [`BlockFormat::weights`] integers of a block of [`BlockFormat::bytes`] bytes; panics for fewer. Inlined, as is
    /// [`Block::parts`], so that it is compiled with the instructions of its caller.
    fn integers<V: Bytes>(proof: V::Proof, block: &[u8], to: &mut [i8]);

    /// Decodes the scales and minima of a block.
    fn parts<V: Bytes>(proof: V::Proof, block: &[u8], to: &mut Parts);
}

/// Calls a function that is generic over a [`Block`] for a format that is known at run time.
macro_rules! with_block {
    ($format:expr, $block:ident => $body:expr) => {{
        use $crate::dtype::BlockFormat;
        use $crate::encoding::blocks as formats;
        macro_rules! of {
            ($of:ident) => {{
                type $block = formats::$of;
                $body
            }};
        }
        match $format {
            BlockFormat::Q4_0 => of!(Q4_0),
            BlockFormat::Q4_1 => of!(Q4_1),
            BlockFormat::Q5_0 => of!(Q5_0),
            BlockFormat::Q5_1 => of!(Q5_1),
            BlockFormat::Q8_0 => of!(Q8_0),
            BlockFormat::Q2K => of!(Q2K),
            BlockFormat::Q3K => of!(Q3K),
            BlockFormat::Q4K => of!(Q4K),
            BlockFormat::Q5K => of!(Q5K),
            BlockFormat::Q6K => of!(Q6K),
            BlockFormat::Iq4Nl => of!(Iq4Nl),
            BlockFormat::Iq4Xs => of!(Iq4Xs),
            BlockFormat::Mxfp4 => of!(Mxfp4),
        }
    }};
}
pub(crate) use with_block;

/// Values of the sixteen codes of IQ4_NL and IQ4_XS.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the sixteen 4-bit floats of MXFP4.
const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Defines a [`Block`] by [`Block::integers`] and [`Block::parts`], or by the former where blocks begin with an f16 scale.
macro_rules! block {
    ($(#[$doc:meta])* $name:ident, |$proof:ident, $block:ident, $to:ident| $body:block) => {
        block! {
            $(#[$doc])*
            $name, true, |$proof, $block, $to| $body, |proof, block, to| {
                to.scales[0] = V::half(proof, block, 0);
                if Self::MINIMA {
                    to.minima[0] = -V::half(proof, block, 2);
                }
            }
        }
    };
    (
        $(#[$doc:meta])* $name:ident,
        |$proof:ident, $block:ident, $to:ident| $body:block, |$of:ident, $from:ident, $parts:ident| $found:block
    ) => {
        block! { $(#[$doc])* $name, false, |$proof, $block, $to| $body, |$of, $from, $parts| $found }
    };
    (
        $(#[$doc:meta])* $name:ident, $halves:literal,
        |$proof:ident, $block:ident, $to:ident| $body:block, |$of:ident, $from:ident, $parts:ident| $found:block
    ) => {
        $(#[$doc])*
        pub struct $name;

        impl Block for $name {
            const FORMAT: BlockFormat = BlockFormat::$name;
            const HALVES: bool = $halves;

            #[inline(always)]
            fn integers<V: Bytes>($proof: V::Proof, $block: &[u8], $to: &mut [i8]) {
                let $block = &$block[..BlockFormat::$name.bytes()];
                let $to = &mut $to[..BlockFormat::$name.weights()];
                $body
            }

            #[inline(always)]
            fn parts<V: Bytes>($of: V::Proof, $from: &[u8], $parts: &mut Parts) {
                let $from = &$from[..BlockFormat::$name.bytes()];
                $found
            }
        }
    };
}

block! {
    /// f16 scale, 16 bytes of integers + 8: low halves, then high halves.
    Q4_0, |proof, block, to| {
        V::nibbles(proof, &block[2..]).minus(8).store(to);
    }
}

block! {
    /// f16 scale, f16 offset, integers as in [`Q4_0`].
    Q4_1, |proof, block, to| {
        V::nibbles(proof, &block[4..]).store(to);
    }
}

/// Integers of five bits: 32 fifth bits, then the other four as in [`Q4_0`].
#[inline(always)]
fn five_bits<V: Bytes>(proof: V::Proof, block: &[u8]) -> V {
    let fifth = V::spread(proof, u32::from_le_bytes([block[0], block[1], block[2], block[3]]));
    V::nibbles(proof, &block[4..]).or(fifth.shl::<4>())
}

block! {
    /// f16 scale, integers + 16 of five bits.
    Q5_0, |proof, block, to| {
        five_bits::<V>(proof, &block[2..]).minus(16).store(to);
    }
}

block! {
    /// f16 scale, f16 offset, integers of five bits.
    Q5_1, |proof, block, to| {
        five_bits::<V>(proof, &block[4..]).store(to);
    }
}

block! {
    /// f16 scale, 32 signed bytes.
    Q8_0, |proof, block, to| {
        V::load(proof, &block[2..]).store(to);
    }
}

/// Two bits of each byte, from bit `2 * pair` on.
#[inline(always)]
fn two_bits<V: Bytes>(codes: V, pair: usize) -> V {
    match pair {
        0 => codes.and(3),
        1 => codes.shr::<2>().and(3),
        2 => codes.shr::<4>().and(3),
        _ => codes.shr::<6>(),
    }
}

/// One bit of each byte.
#[inline(always)]
fn one_bit<V: Bytes>(bits: V, bit: usize) -> V {
    let pair = two_bits(bits, bit / 2);
    if bit.is_multiple_of(2) { pair.and(1) } else { pair.shr::<1>() }
}

block! {
    /// 16 bytes: low half a scale, high half a minimum; 64 bytes of 2-bit codes; f16 factors of scales and minima.
    Q2K, |proof, block, to| {
        for (half, to) in to.chunks_exact_mut(128).enumerate() {
            let codes = V::load(proof, &block[16 + half * 32..]);
            for pair in 0..4 {
                two_bits(codes, pair).store(&mut to[pair * 32..]);
            }
        }
    }, |proof, block, to| {
        let (scale, minimum) = (V::half(proof, block, 80), V::half(proof, block, 82));
        for (part, &both) in block[..16].iter().enumerate() {
            to.scales[part] = scale * f32::from(both & 15);
            to.minima[part] = minimum * f32::from(both >> 4);
        }
    }
}

block! {
    /// 32 bytes of third bits (set: not 4 less), 64 of 2-bit codes, 12 of scales + 32, f16 factor of the scales.
    Q3K, |proof, block, to| {
        let third = V::load(proof, block);
        for (half, to) in to.chunks_exact_mut(128).enumerate() {
            let codes = V::load(proof, &block[32 + half * 32..]);
            for pair in 0..4 {
                let third = one_bit(third, half * 4 + pair).shl::<2>();
                two_bits(codes, pair).or(third).minus(4).store(&mut to[pair * 32..]);
            }
        }
    }, |proof, block, to| {
        let scale = V::half(proof, block, 108);
        let packed = &block[96..108];
        for part in 0..16 {
            let low = if part < 8 { packed[part] & 15 } else { packed[part - 8] >> 4 };
            let high = packed[8 + part % 4] >> (2 * (part / 4)) & 3;
            to.scales[part] = scale * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

/// Scales and minima of [`Q4K`] and [`Q5K`]: two f16 factors, then eight pairs of six bits in twelve bytes.
#[inline(always)]
fn six_bits<V: Bytes>(proof: V::Proof, block: &[u8], to: &mut Parts) {
    let (scale, minimum) = (V::half(proof, block, 0), V::half(proof, block, 2));
    let words = block[4..16].as_chunks::<4>().0;
    let (a, b, c) = (u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1]), u32::from_le_bytes(words[2]));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = u64::from(a & six) | u64::from(c & four | (a >> 6 & two) << 4) << 32;
    let minima = u64::from(b & six) | u64::from(c >> 4 & four | (b >> 6 & two) << 4) << 32;
    let (scales, minima) = (scales.to_le_bytes(), minima.to_le_bytes());
    // Loops of indices: closures would be compiled without the instructions of the caller.
    for part in 0..8 {
        to.scales[part] = scale * f32::from(scales[part]);
        to.minima[part] = minimum * f32::from(minima[part]);
    }
}

block! {
    /// Scales and minima, then four times 32 bytes: low halves, then high halves.
    Q4K, |proof, block, to| {
        for (codes, to) in block[16..].chunks_exact(32).zip(to.chunks_exact_mut(64)) {
            let codes = V::load(proof, codes);
            codes.and(15).store(to);
            codes.shr::<4>().store(&mut to[32..]);
        }
    }, |proof, block, to| {
        six_bits::<V>(proof, block, to);
    }
}

block! {
    /// Scales and minima, 32 bytes of fifth bits, then low four bits as in [`Q4K`].
    Q5K, |proof, block, to| {
        let fifth = V::load(proof, &block[16..]);
        for pair in 0..4 {
            let (codes, to) = (V::load(proof, &block[48 + pair * 32..]), &mut to[pair * 64..]);
            codes.and(15).or(one_bit(fifth, 2 * pair).shl::<4>()).store(to);
            codes.shr::<4>().or(one_bit(fifth, 2 * pair + 1).shl::<4>()).store(&mut to[32..]);
        }
    }, |proof, block, to| {
        six_bits::<V>(proof, block, to);
    }
}

block! {
    /// 128 bytes of low four bits of integer + 32, 64 of high two bits, 16 signed scales, f16 factor of the scales.
    Q6K, |proof, block, to| {
        for (half, to) in to.chunks_exact_mut(128).enumerate() {
            let high = V::load(proof, &block[128 + half * 32..]);
            let low = [V::load(proof, &block[half * 64..]), V::load(proof, &block[half * 64 + 32..])];
            for pair in 0..4 {
                let four = if pair < 2 { low[pair].and(15) } else { low[pair - 2].shr::<4>() };
                four.or(two_bits(high, pair).shl::<4>()).minus(32).store(&mut to[pair * 32..]);
            }
        }
    }, |proof, block, to| {
        let scale = V::half(proof, block, 208);
        for (to, &part) in to.scales.iter_mut().zip(&block[192..208]) {
            *to = scale * f32::from(part as i8);
        }
    }
}

block! {
    /// f16 scale, 16 bytes of codes as in [`Q4_0`], into a table.
    Iq4Nl, |proof, block, to| {
        V::nibbles(proof, &block[2..]).lookup(&IQ4_VALUES).store(to);
    }
}

block! {
    /// f16 factor of the scales, their high two bits in 2 bytes, their low four in 4 bytes, then codes as in [`Iq4Nl`].
    Iq4Xs, |proof, block, to| {
        for (codes, to) in block[8..].chunks_exact(16).zip(to.chunks_exact_mut(32)) {
            V::nibbles(proof, codes).lookup(&IQ4_VALUES).store(to);
        }
    }, |proof, block, to| {
        let scale = V::half(proof, block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for part in 0..8 {
            let low = block[4 + part / 2] >> (4 * (part % 2)) & 15;
            let bits = low | ((high >> (2 * part) & 3) as u8) << 4;
            to.scales[part] = scale * f32::from(bits as i8 - 32);
        }
    }
}

block! {
    /// A power of two, as its exponent + 127, and sixteen bytes of codes as in [`Q4_0`], into a table of twice their values.
    Mxfp4, |proof, block, to| {
        V::nibbles(proof, &block[1..]).lookup(&FP4_VALUES).store(to);
    }, |_proof, block, to| {
        // Half of the power, since the values are twice what they should be; the smallest ones are not normal.
        let exponent = u32::from(block[0]);
        to.scales[0] = f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 });
    }
}

/// Decodes a block of a format that is known at run time, in plain Rust.
pub fn decode_any(format: BlockFormat, block: &[u8], integers: &mut [i8], parts: &mut Parts) {
    with_block!(format, B => {
        B::integers::<Plain>((), block, integers);
        B::parts::<Plain>((), block, parts);
    });
}

/// Decodes consecutive blocks to f32: `scale * integer - minimum`, each operation rounded once.
pub fn widen(format: BlockFormat, blocks: &[u8], out: &mut [f32]) {
    let (mut integers, mut scales, mut minima) = ([0; WEIGHTS_MAX], [0.0; PARTS_MAX], [0.0; PARTS_MAX]);
    for (block, out) in blocks.chunks_exact(format.bytes()).zip(out.chunks_exact_mut(format.weights())) {
        decode_any(format, block, &mut integers, &mut Parts { scales: &mut scales, minima: &mut minima });
        for (part, out) in out.chunks_exact_mut(format.part()).enumerate() {
            for (out, integer) in out.iter_mut().zip(&integers[part * format.part()..]) {
                let product = scales[part] * f32::from(*integer);
                *out = if format.has_minima() { product - minima[part] } else { product };
            }
        }
    }
}
