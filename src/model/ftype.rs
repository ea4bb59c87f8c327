//! Which type a model file gives to which matrix.

use super::random;
use crate::quant::Type;

/// The types of a model's matrices, by the names that files are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ftype {
    /// All of one type.
    All(Type),
    /// llama-quantize's Q4_0: the output matrix has more bits.
    Q4_0,
    /// llama-quantize's Q3_K_M.
    Q3KM,
    /// llama-quantize's Q4_K_M.
    Q4KM,
    /// llama-quantize's Q5_K_M.
    Q5KM,
    /// llama-quantize's MXFP4_MOE: experts in 4 bits, everything else in 8.
    Mxfp4Moe,
}

/// The mixtures by name.
const MIXTURES: [(&str, Ftype); 5] = [
    ("Q4_0", Ftype::Q4_0),
    ("Q3_K_M", Ftype::Q3KM),
    ("Q4_K_M", Ftype::Q4KM),
    ("Q5_K_M", Ftype::Q5KM),
    ("MXFP4_MOE", Ftype::Mxfp4Moe),
];

impl Ftype {
    /// By name, in any case.
    pub fn parse(name: &str) -> Option<Ftype> {
        let mixture = MIXTURES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        let of_one_type = || types().find(|ty| name.eq_ignore_ascii_case(ty.name())).map(Ftype::All);
        mixture.map(|(_, ftype)| *ftype).or_else(of_one_type)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let plain = types().map(Type::name).filter(|ty| MIXTURES.iter().all(|(name, _)| name != ty));
        MIXTURES.iter().map(|(name, _)| *name).chain(plain)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Ftype::All(ty) => ty.name(),
            _ => MIXTURES.iter().find(|(_, ftype)| *ftype == self).map_or("", |(name, _)| name),
        }
    }

    /// The number in `general.file_type`; none for what llama.cpp has given none.
    pub fn id(self) -> Option<u32> {
        Some(match self {
            Ftype::Q4_0 | Ftype::All(Type::Q4_0) => 2,
            Ftype::Q3KM => 12,
            Ftype::Q4KM => 15,
            Ftype::Q5KM => 17,
            Ftype::Mxfp4Moe => 38,
            Ftype::All(ty) => match ty {
                Type::F32 => 0,
                Type::F16 => 1,
                Type::Q4_1 => 3,
                Type::Q8_0 => 7,
                Type::Q5_0 => 8,
                Type::Q5_1 => 9,
                Type::Q2_K => 10,
                Type::Q3_K => 11,
                Type::Q4_K => 14,
                Type::Q5_K => 16,
                Type::Q6_K => 18,
                Type::IQ2_XXS => 19,
                Type::IQ2_XS => 20,
                Type::IQ3_XXS => 23,
                Type::IQ1_S => 24,
                Type::IQ4_NL => 25,
                Type::IQ3_S => 26,
                Type::IQ2_S => 28,
                Type::IQ4_XS => 30,
                Type::IQ1_M => 31,
                Type::BF16 => 32,
                Type::TQ1_0 => 36,
                Type::TQ2_0 => 37,
                Type::NVFP4 => 39,
                Type::Q1_0 => 40,
                _ => return None,
            },
        })
    }

    /// The type of a matrix whose rows have `cols` elements. `part` is its name within the layer;
    /// `head` is the output matrix, whatever its name.
    pub(super) fn ty(self, part: &str, head: bool, layer: usize, layers: usize, cols: usize) -> Type {
        // One tensor of all rows counts as the queries' do.
        let (value, down) = (part == "attn_v.weight", part.starts_with("ffn_down"));
        let more = head || ((value || down) && more_bits(layer, layers));
        let ty = match self {
            Ftype::All(ty) => ty,
            Ftype::Mxfp4Moe if part.contains("_exps") => Type::MXFP4,
            Ftype::Mxfp4Moe => Type::Q8_0,
            Ftype::Q4_0 if head => Type::Q6_K,
            Ftype::Q4_0 => Type::Q4_0,
            Ftype::Q3KM if head => Type::Q6_K,
            Ftype::Q3KM if (value && layer < 2) || (down && layer < layers / 16) => Type::Q5_K,
            Ftype::Q3KM if value || down || part == "attn_output.weight" => Type::Q4_K,
            Ftype::Q3KM => Type::Q3_K,
            Ftype::Q4KM | Ftype::Q5KM if more => Type::Q6_K,
            Ftype::Q4KM => Type::Q4_K,
            Ftype::Q5KM => Type::Q5_K,
        };
        if cols.is_multiple_of(ty.block_elements()) { ty } else { smaller(ty, cols) }
    }
}

/// The types that weights have.
fn types() -> impl Iterator<Item = Type> {
    Type::ALL.iter().copied().filter(|ty| random::is_known(*ty))
}

/// What llama-quantize takes where rows are no whole blocks of a type.
fn smaller(ty: Type, cols: usize) -> Type {
    let ty = match ty {
        Type::Q4_K => Type::Q5_0,
        Type::Q5_K => Type::Q5_1,
        Type::Q6_K | Type::Q8_K => Type::Q8_0,
        Type::TQ1_0 | Type::TQ2_0 | Type::Q1_0 | Type::Q2_0 | Type::NVFP4 => Type::Q4_0,
        _ => Type::IQ4_NL,
    };
    if cols.is_multiple_of(ty.block_elements()) { ty } else { Type::F16 }
}

/// The layers whose `attn_v` and `ffn_down` llama-quantize gives more bits: the first and the
/// last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_stands_for_itself() {
        for name in Ftype::names() {
            assert_eq!(Ftype::parse(name).map(Ftype::name), Some(name));
        }
        assert_eq!(Ftype::parse("q4_k_m"), Some(Ftype::Q4KM));
        assert_eq!(Ftype::parse("iq2_xxs"), Some(Ftype::All(Type::IQ2_XXS)));
        for unknown in ["", "Q9", "I8", "Q8_1", "F64", "Q4_K_X"] {
            assert_eq!(Ftype::parse(unknown), None, "{unknown}");
        }
    }

    /// The counts of published files of 6 layers: their matrices of 256 columns.
    #[test]
    fn mixtures_are_those_of_known_files() {
        const PARTS: [&str; 7] = [
            "attn_q.weight",
            "attn_k.weight",
            "attn_v.weight",
            "attn_output.weight",
            "ffn_gate.weight",
            "ffn_up.weight",
            "ffn_down.weight",
        ];
        let count = |ftype: Ftype, ty: Type| {
            let layers = (0..6).flat_map(|layer| PARTS.map(|part| ftype.ty(part, false, layer, 6, 256)));
            layers.chain([ftype.ty("token_embd.weight", true, 0, 6, 256)]).filter(|t| *t == ty).count()
        };
        let counts = |ftype| [Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K].map(|ty| count(ftype, ty));
        assert_eq!(counts(Ftype::Q3KM), [24, 16, 2, 1]);
        assert_eq!(counts(Ftype::Q4KM), [0, 38, 0, 5]);
        assert_eq!(counts(Ftype::Q5KM), [0, 0, 38, 5]);
        assert_eq!((count(Ftype::Q4_0, Type::Q4_0), count(Ftype::Q4_0, Type::Q6_K)), (42, 1));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_smaller_ones() {
        let ty = |ftype: &str, cols| Ftype::parse(ftype).unwrap().ty("attn_q.weight", false, 0, 8, cols);
        assert_eq!(ty("Q4_K", 576), Type::Q5_0);
        assert_eq!(ty("Q5_K", 576), Type::Q5_1);
        assert_eq!(ty("Q6_K", 576), Type::Q8_0);
        assert_eq!(ty("Q3_K", 576), Type::IQ4_NL);
        assert_eq!(ty("TQ1_0", 576), Type::Q4_0);
        assert_eq!(ty("NVFP4", 576), Type::NVFP4);
        assert_eq!(ty("Q2_K", 24), Type::F16);
        assert_eq!(ty("F32", 24), Type::F32);
    }
}
