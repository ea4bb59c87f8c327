//! Where a model's tensors come from: a file, or random valid blocks.

use std::borrow::Cow;
use std::ops::Range;

use super::synthetic::Synthetic;
use crate::gguf::File;
use crate::quant::{Layout, TILE, Type, dequantize};
use crate::{Error, Result};

/// A matrix of the model: `rows` outputs from `cols` inputs; or one such of each expert, one after
/// the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// The tensor's name.
    pub name: String,
    /// The tensor's row that it begins with: not 0 where several matrices are one tensor.
    pub first: usize,
    /// The type of its blocks.
    pub ty: Type,
    /// Outputs.
    pub rows: usize,
    /// Inputs: the elements of a row.
    pub cols: usize,
    /// Matrices of this shape: 1, or the number of experts.
    pub experts: usize,
    /// A factor of all its products, from a tensor `….scale` beside the weight (NVFP4 files have
    /// them); 1 where there is none.
    pub scale: f32,
}

impl Matrix {
    /// A whole tensor of one matrix.
    pub fn whole(name: &str, ty: Type, rows: usize, cols: usize) -> Matrix {
        Matrix { name: name.to_owned(), first: 0, ty, rows, cols, experts: 1, scale: 1.0 }
    }

    /// How `rows` of its rows lie on the GPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type without kernels.
    pub fn layout(&self, rows: usize) -> Result<Layout> {
        Layout::new(self.ty, rows, self.cols).ok_or_else(|| {
            Error::Unsupported(format!("tensor {}: type {} is not supported", self.name, self.ty))
        })
    }

    /// The dimensions in a file, fastest first: a vector has one.
    pub fn dims(&self) -> Vec<u64> {
        let dims = [self.cols as u64, self.rows as u64, self.experts as u64];
        let used = match self.experts {
            1 if self.is_vector() => 1,
            1 => 2,
            _ => 3,
        };
        dims[..used].to_vec()
    }

    /// Rows that `rows` of each expert take on the GPU: an expert's are whole tiles.
    pub fn packed_rows(&self, rows: usize) -> usize {
        if self.experts == 1 { rows } else { self.experts * rows.next_multiple_of(TILE) }
    }

    /// Rows of all experts.
    pub fn all_rows(&self) -> usize {
        self.experts * self.rows
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        (self.all_rows() * self.row_bytes()) as u64
    }

    /// True for one row of F32, which norms and biases are.
    pub(super) fn is_vector(&self) -> bool {
        self.rows == 1 && self.ty == Type::F32
    }

    /// Bytes of a row in the file.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_elements() * self.ty.block_bytes()
    }
}

/// A small tensor of the model, read as F32.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// The tensor's name.
    pub name: String,
    /// The tensor's element that it begins with.
    pub first: usize,
    /// Elements.
    pub len: usize,
}

/// The source of tensors.
pub enum Weights {
    /// A GGUF file.
    File(File),
    /// Random valid blocks at a model's shapes.
    Synthetic(Box<Synthetic>),
}

impl Weights {
    /// The type and the dimensions (fastest first) of a tensor, if it exists.
    pub fn tensor(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        match self {
            Weights::File(file) => file.tensor(name).map(|t| (t.ty, t.dims().to_vec())),
            Weights::Synthetic(s) => s.tensor(name),
        }
    }

    /// A matrix by name, with the shape that it must have.
    ///
    /// # Errors
    /// A missing tensor, another shape, a type without kernels, or a scale that is no number.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.part(name, 0..rows, rows, cols)
    }

    /// A range of the rows of a tensor that has `of` of them.
    ///
    /// # Errors
    /// As for [`Weights::matrix`].
    pub fn part(&self, name: &str, rows: Range<usize>, of: usize, cols: usize) -> Result<Matrix> {
        let (ty, mut dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        if of == 1 && dims.len() == 1 {
            dims.push(1);
        }
        self.shaped(name, ty, &dims, &[cols as u64, of as u64])?;
        let scale = self.scale(name)?;
        Ok(Matrix { name: name.to_owned(), first: rows.start, ty, rows: rows.len(), cols, experts: 1, scale })
    }

    /// The matrices of `experts` experts, which are one tensor.
    ///
    /// # Errors
    /// As for [`Weights::matrix`].
    pub fn experts(&self, name: &str, experts: usize, rows: usize, cols: usize) -> Result<Matrix> {
        let (ty, mut dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        if experts == 1 && dims.len() == 2 {
            dims.push(1);
        }
        self.shaped(name, ty, &dims, &[cols as u64, rows as u64, experts as u64])?;
        let scale = self.scale(name)?;
        Ok(Matrix { name: name.to_owned(), first: 0, ty, rows, cols, experts, scale })
    }

    fn shaped(&self, name: &str, ty: Type, dims: &[u64], want: &[u64]) -> Result<()> {
        if dims != want {
            return Err(shape(&self.placed(name), want, dims));
        }
        match ty.is_supported() {
            true => Ok(()),
            false => Err(Error::Unsupported(format!("tensor {name}: type {ty} is not supported yet"))),
        }
    }

    /// A tensor's name, and where a model lies in several files, which of them it is in: it may be
    /// another model's.
    fn placed(&self, name: &str) -> String {
        let Weights::File(file) = self else { return name.to_owned() };
        match file.tensor(name).and_then(|t| file.parts().get(t.part)) {
            Some(part) if file.parts().len() > 1 => format!("{name} (in {})", part.name()),
            _ => name.to_owned(),
        }
    }

    /// The factor of a weight's products.
    fn scale(&self, weight: &str) -> Result<f32> {
        let Some(name) = scale_of(weight).filter(|scale| self.tensor(scale).is_some()) else {
            return Ok(1.0);
        };
        let value = self.floats(&self.vector(&name, 1)?)[0];
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::Unsupported(format!("tensor {name}: a scale of {value}"))),
        }
    }

    /// A vector by name, with the length that it must have.
    ///
    /// # Errors
    /// A missing tensor, another shape, or a type that cannot be decoded.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vector> {
        self.vector_of(name, &[len])
    }

    /// A vector of each expert, one after the other: `dims` are the length and the experts.
    ///
    /// # Errors
    /// As for [`Weights::vector`].
    pub fn vector_of(&self, name: &str, dims: &[usize]) -> Result<Vector> {
        let (ty, has) = self.tensor(name).ok_or_else(|| missing(name))?;
        let mut want: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        // A file may leave out a last dimension of 1.
        want.truncate(if want.last() == Some(&1) { has.len().clamp(1, want.len()) } else { want.len() });
        self.shaped(name, ty, &has, &want)?;
        Ok(Vector { name: name.to_owned(), first: 0, len: dims.iter().product() })
    }

    /// The bytes of a range of a matrix's rows, as in a file; rows of a next expert follow those of
    /// the one before.
    pub fn rows(&self, matrix: &Matrix, rows: Range<usize>) -> Cow<'_, [u8]> {
        let size = matrix.row_bytes();
        match self {
            Weights::File(file) => {
                let data = file.tensor(&matrix.name).map_or(&[][..], |t| file.data(t));
                let at = |row: usize| (matrix.first + row) * size;
                Cow::Borrowed(data.get(at(rows.start)..at(rows.end)).unwrap_or(&[]))
            }
            Weights::Synthetic(s) => Cow::Owned(s.rows(matrix, rows)),
        }
    }

    /// Says whether what has been read so far is what the file held when it was opened.
    ///
    /// # Errors
    /// [`Error::File`] for one that has changed.
    pub fn intact(&self) -> Result<()> {
        match self {
            Weights::File(file) => file.intact(),
            Weights::Synthetic(_) => Ok(()),
        }
    }

    /// A vector's elements.
    pub fn floats(&self, vector: &Vector) -> Vec<f32> {
        let mut out = vec![0.0; vector.first + vector.len];
        match self {
            Weights::File(file) => {
                if let Some(t) = file.tensor(&vector.name) {
                    // What stands behind it may belong to others.
                    out.resize(t.elements() as usize, 0.0);
                    dequantize(t.ty, file.data(t), &mut out);
                }
            }
            Weights::Synthetic(s) => s.floats(vector, &mut out),
        }
        out.truncate(vector.first + vector.len);
        out.split_off(vector.first)
    }
}

/// The name of the factor of a weight's products. An embedding has none: its rows are no products.
pub(super) fn scale_of(weight: &str) -> Option<String> {
    let stem = weight.strip_suffix(".weight").filter(|stem| *stem != "token_embd")?;
    Some(format!("{stem}.scale"))
}

fn missing(name: &str) -> Error {
    Error::Unsupported(format!("tensor {name} is missing"))
}

fn shape(name: &str, want: &[u64], got: &[u64]) -> Error {
    Error::Unsupported(format!("tensor {name}: expected {want:?}, file has {got:?}"))
}
