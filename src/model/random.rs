//! Random numbers, and random valid blocks of every type, as large as is wanted.
//!
//! All bits of a block are random but those of its scales, which are chosen so that its elements
//! have a given standard deviation. What an encoder never writes does not occur.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::quant::Type;

/// SplitMix64, seeded by a name: cheap, and good enough for weights that mean nothing.
#[derive(Clone)]
pub(crate) struct Random(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Random {
    pub(crate) fn new(name: &str, seed: u64) -> Random {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random(hash).fork(seed)
    }

    /// Numbers of their own for every `n`. Mixed, since states that lie steps apart give the same
    /// numbers one after the other.
    pub(super) fn fork(&self, n: u64) -> Random {
        Random(mix(self.0 ^ mix(n.wrapping_add(STEP))))
    }

    /// A number from -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    fn bytes(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Where a type has its scale, and how large its elements are then.
#[derive(Clone, Copy)]
enum Form {
    /// The elements are numbers.
    Numbers,
    /// `d` is a number; where it is 1, an element's deviation is `spread`.
    D { spread: f32, rest: Rest },
    /// A byte is the exponent of a power of two.
    E8M0,
    /// A byte for 16 elements is a small float without sign.
    Ue4m3,
}

/// What makes elements as often negative as positive.
#[derive(Clone, Copy)]
enum Rest {
    /// The levels do.
    Nothing,
    /// They do not quite: `d` has any sign, as encoders give it.
    Sign,
    /// A second scale, `m` or `dmin`, so many times `d`.
    Min(f32),
}

/// Root mean square of the numbers of 4 bits that MXFP4 and NVFP4 share: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
const FP4: f32 = 2.926;

/// The deviations were computed from the types' definitions, over all values of the other fields.
/// `None` for types that no weights have.
fn form(ty: Type) -> Option<Form> {
    let d = |spread, rest| Some(Form::D { spread, rest });
    match ty {
        Type::F32 | Type::F16 | Type::BF16 => Some(Form::Numbers),
        Type::MXFP4 => Some(Form::E8M0),
        Type::NVFP4 => Some(Form::Ue4m3),
        Type::Q4_0 => d(4.637, Rest::Sign),
        Type::Q4_1 => d(4.610, Rest::Min(-7.5)),
        Type::Q5_0 => d(9.247, Rest::Sign),
        Type::Q5_1 => d(9.233, Rest::Min(-15.5)),
        Type::Q8_0 | Type::Q8_K => d(73.90, Rest::Nothing),
        Type::Q2_K => d(13.87, Rest::Min(1.5)),
        Type::Q3_K => d(43.34, Rest::Sign),
        Type::Q4_K => d(258.3, Rest::Min(7.5)),
        Type::Q5_K => d(526.6, Rest::Min(15.5)),
        Type::Q6_K => d(1366.0, Rest::Sign),
        Type::IQ1_S | Type::IQ1_M => d(7.19, Rest::Nothing),
        Type::IQ2_XXS => d(53.39, Rest::Nothing),
        Type::IQ2_XS => d(55.86, Rest::Nothing),
        Type::IQ2_S => d(56.28, Rest::Nothing),
        Type::IQ3_XXS => d(142.4, Rest::Nothing),
        Type::IQ3_S => d(140.4, Rest::Nothing),
        Type::IQ4_NL => d(67.37, Rest::Sign),
        Type::IQ4_XS => d(1244.6, Rest::Sign),
        Type::TQ1_0 | Type::TQ2_0 => d(0.8165, Rest::Nothing),
        Type::Q1_0 => d(1.0, Rest::Nothing),
        Type::Q2_0 => d(1.225, Rest::Sign),
        Type::Q8_1 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::F64 => None,
    }
}

/// True for the types that weights have: [`Blocks`] can make them.
pub(super) fn is_known(ty: Type) -> bool {
    form(ty).is_some()
}

/// Random blocks of one type, whose elements have one deviation and a mean of about 0.
pub(super) struct Blocks {
    ty: Type,
    scale: Scale,
}

/// What a block's scale is made of.
enum Scale {
    /// There is none, since nobody knows the type.
    Unknown,
    /// There is none: elements reach so far from 0.
    Numbers(f32),
    D(Scales),
    E8M0(Steps),
    Ue4m3(Steps),
}

impl Blocks {
    pub(super) fn new(ty: Type, deviation: f32) -> Blocks {
        let scale = match form(ty) {
            None => Scale::Unknown,
            Some(Form::Numbers) => Scale::Numbers(deviation * 3f32.sqrt()),
            Some(Form::D { spread, rest }) => Scale::D(Scales::new(ty, deviation / spread, rest)),
            Some(Form::E8M0) => {
                Scale::E8M0(Steps::new((0..=254).map(|e| 2f32.powi(e - 127)), deviation / FP4))
            }
            Some(Form::Ue4m3) => Scale::Ue4m3(Steps::new((0..=0x7e).map(ue4m3), deviation / FP4)),
        };
        Blocks { ty, scale }
    }

    /// Fills whole blocks; with zeros where nobody knows the type.
    pub(super) fn fill(&self, random: &mut Random, out: &mut [u8]) {
        match &self.scale {
            Scale::Unknown => return out.fill(0),
            Scale::Numbers(most) => return numbers(self.ty, *most, random, out),
            _ => random.bytes(out),
        }
        for block in out.chunks_exact_mut(self.ty.block_bytes()) {
            let bits = random.next();
            match &self.scale {
                Scale::D(scales) => {
                    levels(self.ty, block);
                    scales.put(bits as usize, block);
                }
                Scale::E8M0(steps) => block[0] = steps.take(bits),
                Scale::Ue4m3(steps) => {
                    (0..4).for_each(|i| block[i] = steps.take(bits >> (16 * i)));
                }
                Scale::Unknown | Scale::Numbers(_) => {}
            }
        }
    }
}

/// Elements that are spread evenly.
fn numbers(ty: Type, most: f32, random: &mut Random, out: &mut [u8]) {
    let mut values = [0f32; 64];
    let (mut halves, mut brains) = ([f16::ZERO; 64], [bf16::ZERO; 64]);
    for out in out.chunks_mut(64 * ty.block_bytes()) {
        values.fill_with(|| random.number() * most);
        match ty {
            Type::F16 => {
                halves.convert_from_f32_slice(&values);
                out.as_chunks_mut().0.iter_mut().zip(halves).for_each(|(o, v)| *o = v.to_le_bytes());
            }
            Type::BF16 => {
                brains.convert_from_f32_slice(&values);
                out.as_chunks_mut().0.iter_mut().zip(brains).for_each(|(o, v)| *o = v.to_le_bytes());
            }
            _ => out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes()),
        }
    }
}

/// The scales that blocks of a type take turns at random with: some larger, some smaller, so that
/// whoever takes one block's for another's is found out.
struct Scales {
    ty: Type,
    d: [f16; 16],
    min: [f16; 16],
    d_at: Option<Range<usize>>,
    min_at: Option<Range<usize>>,
}

impl Scales {
    fn new(ty: Type, d: f32, rest: Rest) -> Scales {
        // Evenly from 0.75 to 1.25, whose root mean square is 1.0133; the upper eight negative.
        let times = |i: usize| (0.75 + (i % 8) as f32 / 14.0) / 1.0133;
        let sign = |i| if matches!(rest, Rest::Sign) && i >= 8 { -1.0 } else { 1.0 };
        let d: [f32; 16] = std::array::from_fn(|i| d * times(i) * sign(i));
        let min = d.map(|d| if let Rest::Min(ratio) = rest { d * ratio } else { 0.0 });
        let (d_at, min_at) = (field(ty, "d"), field(ty, "dmin").or_else(|| field(ty, "m")));
        Scales { ty, d: d.map(f16::from_f32), min: min.map(f16::from_f32), d_at, min_at }
    }

    fn put(&self, choice: usize, block: &mut [u8]) {
        let (d, min) = (self.d[choice % 16], self.min[choice % 16]);
        if let Some(at) = &self.min_at {
            block[at.clone()].copy_from_slice(&min.to_le_bytes());
        }
        match &self.d_at {
            Some(at) if at.len() == 4 => block[at.clone()].copy_from_slice(&d.to_f32().to_le_bytes()),
            Some(at) => block[at.clone()].copy_from_slice(&d.to_le_bytes()),
            None if self.ty == Type::IQ1_M => spread_out(d, block),
            None => {}
        }
    }
}

/// IQ1_M's scale is four bits in each of the four words that end its block.
fn spread_out(d: f16, block: &mut [u8]) {
    let at = block.len() - 8;
    for (i, word) in block[at..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let four = d.to_bits() >> (4 * i) & 0xf;
        *word = (u16::from_le_bytes(*word) & 0x0fff | four << 12).to_le_bytes();
    }
}

/// Puts right the fields of random bits that not all bits may stand in.
fn levels(ty: Type, block: &mut [u8]) {
    match ty {
        // Five digits of base 3 in a byte, as a fraction of 256; in the last four bytes four.
        Type::TQ1_0 => {
            for (i, byte) in block[..52].iter_mut().enumerate() {
                let digits = if i < 48 { u16::from(*byte) % 243 } else { u16::from(*byte) % 81 * 3 };
                *byte = (digits * 256).div_ceil(243) as u8;
            }
        }
        // Fields of two bits that hold 0 to 2.
        Type::TQ2_0 => {
            for byte in &mut block[..64] {
                *byte = (0..4).fold(0, |fields, i| fields | (*byte / 3u8.pow(i) % 3) << (2 * i));
            }
        }
        // Sums of 16 levels, for products with integers.
        Type::Q8_K => {
            let (head, sums) = block.split_at_mut(4 + 256);
            for (sum, levels) in sums.as_chunks_mut().0.iter_mut().zip(head[4..].chunks(16)) {
                let all: i16 = levels.iter().map(|level| i16::from(*level as i8)).sum();
                *sum = all.to_le_bytes();
            }
        }
        _ => {}
    }
}

/// A type's field by name: its bytes in a block.
fn field(ty: Type, name: &str) -> Option<Range<usize>> {
    let mut at = 0;
    for (field, bytes) in ty.fields() {
        if *field == name {
            return Some(at..at + bytes);
        }
        at += bytes;
    }
    None
}

/// A scale of few values: two neighbours, mixed so that their mean square is the one wanted.
struct Steps {
    code: u8,
    /// Of 2^16 scales, so many have the next code.
    more: u64,
}

impl Steps {
    /// `values` rise with their codes.
    fn new(values: impl Iterator<Item = f32>, wanted: f32) -> Steps {
        let values: Vec<f32> = values.collect();
        let code = values.iter().rposition(|v| *v <= wanted).unwrap_or(0).min(values.len().saturating_sub(2));
        let square = |i: usize| values[i].powi(2);
        let share = (wanted.powi(2) - square(code)) / (square(code + 1) - square(code));
        Steps { code: code as u8, more: (share.clamp(0.0, 1.0) * 65536.0) as u64 }
    }

    /// The scale that 16 random bits choose.
    fn take(&self, bits: u64) -> u8 {
        self.code + u8::from((bits & 0xffff) < self.more)
    }
}

/// A float of four bits of exponent and three of mantissa.
fn ue4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3), f32::from(code & 7));
    if exponent == 0 { mantissa * 2f32.powi(-9) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;

    fn made(ty: Type, deviation: f32) -> Vec<u8> {
        let mut out = vec![0; (1 << 16) / ty.block_elements() * ty.block_bytes()];
        Blocks::new(ty, deviation).fill(&mut Random::new("blocks", 0), &mut out);
        out
    }

    #[test]
    fn elements_deviate_as_wanted() {
        for ty in Type::ALL.iter().copied().filter(|t| t.is_supported()) {
            for deviation in [0.006f64, 0.05] {
                let mut values = vec![0f32; 1 << 16];
                dequantize(ty, &made(ty, deviation as f32), &mut values);
                assert!(values.iter().all(|v| v.is_finite()), "{ty}");
                let mean = |f: &dyn Fn(f64) -> f64| {
                    values.iter().map(|v| f(f64::from(*v))).sum::<f64>() / values.len() as f64
                };
                let (middle, square) = (mean(&|v| v), mean(&|v| v * v));
                let got = square.sqrt() / deviation;
                assert!((got - 1.0).abs() < 0.05, "{ty}: {got} times {deviation}");
                assert!(middle.abs() < 0.05 * deviation, "{ty}: a mean of {middle}");
            }
        }
    }

    #[test]
    fn all_types_of_weights_are_known() {
        for ty in Type::ALL.iter().copied().filter(|t| t.is_supported()) {
            assert!(is_known(ty), "{ty}");
        }
        let unknown = Type::ALL.iter().filter(|t| !is_known(**t)).count();
        assert_eq!(unknown, 6, "integers, F64 and Q8_1");
        assert!(made(Type::I8, 1.0).iter().all(|b| *b == 0));
    }

    /// The rules that a decoder may rely on.
    #[test]
    fn fields_hold_what_encoders_write() {
        let blocks =
            |ty: Type| made(ty, 0.02).chunks(ty.block_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let trits: Vec<u8> = (0..243u16).map(|v| (v * 256).div_ceil(243) as u8).collect();
        assert!(blocks(Type::TQ1_0).iter().all(|b| b[..52].iter().all(|byte| trits.contains(byte))));
        let pairs = |byte: &u8| (0..4).all(|i| byte >> (2 * i) & 3 < 3);
        assert!(blocks(Type::TQ2_0).iter().all(|b| b[..64].iter().all(pairs)));
        assert!(blocks(Type::NVFP4).iter().all(|b| b[..4].iter().all(|scale| *scale < 0x7f)));
        assert!(blocks(Type::MXFP4).iter().all(|b| (100..127).contains(&b[0])));
        for block in blocks(Type::IQ1_M) {
            let four = |i: usize| u16::from(block[49 + 2 * i] >> 4) << (4 * i);
            let d = f16::from_bits((0..4).map(four).sum()).to_f32();
            assert!((0.7..1.3).contains(&(d * 7.19 / 0.02)), "{d}");
        }
        for block in blocks(Type::Q8_K) {
            let sum: i32 = block[4..20].iter().map(|level| i32::from(*level as i8)).sum();
            assert_eq!(i32::from(i16::from_le_bytes([block[260], block[261]])), sum);
        }
    }

    #[test]
    fn numbers_are_those_of_name_and_seed() {
        let first = |name, seed, n| Random::new(name, seed).fork(n).next();
        assert_eq!(first("a", 0, 0), first("a", 0, 0));
        let mut all = vec![first("a", 0, 0), first("b", 0, 0), first("a", 1, 0), first("a", 0, 1)];
        // Rows are no shifted copies of each other.
        let mut row = Random::new("a", 0).fork(0);
        all.extend((0..100).map(|_| row.next()).skip(1));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 103);
    }
}
