//! `--verify`: reopens a file, checks it, and compares it with what it was made from.
//!
//! The structure is checked three times over: by the library's reader, by the `gguf-rs` package,
//! which shares no code with it, and by binding the model. Values stream through the same pipeline
//! as in packing, so memory stays small.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read};
use std::num::NonZeroUsize;
use std::path::Path;

use gguf_rs::{ByteOrder, GGUFContainer};
use indicatif::HumanCount;

use owl2::gguf::header::MAGIC;
use owl2::gguf::names::{self, tokenizer, visual};
use owl2::gguf::{DType, Gguf, TensorBytes};
use owl2::model::Model;
use owl2::ops::Compute;
use owl2::prompt::Template;
use owl2::quant::{self, Rotation};
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;
use owl2::{Error, Result};

use crate::input::ConversionInput;
use crate::interrupt;
use crate::mapping::Mapped;
use crate::pack::{TensorPiece, first_beyond, pieces, row_len};
use crate::pipeline;
use crate::progress::Progress;

/// More than any header has. `gguf-rs` may take 64 times of this in memory.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Tensors with values that are not finite, named in one error; the rest are counted.
const MAX_LISTED: usize = 20;

/// A tensor's distance from its original: `rms(stored - original) / rms(original)`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorError {
    /// The tensor's name in the file.
    pub name: String,
    /// How it is stored.
    pub dtype: DType,
    /// Relative error; 0 where both are zero throughout.
    pub relative: f64,
}

/// What a file that passed looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyReport {
    /// Number of tensors.
    pub n_tensors: usize,
    /// Number of values in them.
    pub n_values: u64,
    /// Each tensor's error, the worst first; `None` without an original.
    pub errors: Option<Vec<TensorError>>,
}

impl VerifyReport {
    /// The report as text, one tensor a line.
    pub fn text(&self) -> String {
        let mut text = format!(
            "structure  {} tensors, read alike by two readers, bound to the model\n\
             values     {}, all finite\n",
            self.n_tensors,
            HumanCount(self.n_values)
        );
        if let Some(errors) = &self.errors {
            text += "\nRelative error  Type  Tensor\n";
            for error in errors {
                writeln!(
                    text,
                    "{:>14.3e}  {:<4}  {}",
                    error.relative, error.dtype, error.name
                )
                .expect("writing to a string cannot fail");
            }
        }
        text
    }
}

/// Checks the file at `path`, and compares it with `original` if there is one.
///
/// # Errors
/// [`Kind::Model`](owl2::Kind::Model) for whatever is wrong with the file, or where `original`
/// does not have the tensors it would be made from; those of reading.
pub fn verify(
    path: &Path,
    original: Option<&ConversionInput>,
    n_threads: NonZeroUsize,
    quiet: bool,
) -> Result<VerifyReport> {
    let gguf = Gguf::open(path)?;
    gguf.check_types().map_err(|e| e.in_file(path))?;
    // gguf-rs refuses types that ggml has not.
    if gguf
        .tensors()
        .iter()
        .all(|tensor| tensor.dtype.is_of_ggml())
    {
        compare_readers(path, &gguf)?;
    }
    check_contents(&gguf).map_err(|e| e.in_file(path))?;
    let mapped = original
        .map(|original| originals(&gguf, original))
        .transpose()?;
    let sums = measure(&gguf, original.zip(mapped.as_deref()), n_threads, quiet)?;
    check_finite(&gguf, &sums).map_err(|e| e.in_file(path))?;

    let errors = original.is_some().then(|| {
        let mut errors: Vec<_> = gguf
            .tensors()
            .iter()
            .zip(&sums)
            .map(|(tensor, sums)| TensorError {
                name: tensor.name.clone(),
                dtype: tensor.dtype,
                relative: sums.relative_error(),
            })
            .collect();
        errors.sort_by(|a, b| b.relative.total_cmp(&a.relative));
        errors
    });
    Ok(VerifyReport {
        n_tensors: gguf.tensors().len(),
        n_values: gguf.tensors().iter().map(|t| n_values(&t.shape)).sum(),
        errors,
    })
}

fn n_values(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64
}

/// Decodes the header with `gguf-rs` and compares every key and tensor.
fn compare_readers(path: &Path, gguf: &Gguf) -> Result<()> {
    let differ = |what: String| Err(Error::model(format!("gguf-rs {what}")).in_file(path));
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    let mut reader = BufReader::new(file).take(MAX_HEADER_BYTES);
    let mut magic = [0; MAGIC.len()];
    reader
        .read_exact(&mut magic)
        .map_err(|e| Error::io("cannot read", path, e))?;
    let mut container = GGUFContainer::new(ByteOrder::LE, Box::new(reader), u64::MAX);
    let model = match container.decode() {
        Ok(model) => model,
        Err(e) => return differ(format!("cannot read the header: {e}")),
    };

    if let Some(key) = gguf.keys().find(|key| !model.metadata().contains_key(*key)) {
        return differ(format!("does not find the key '{key}'"));
    }
    if model.metadata().len() != gguf.keys().count() {
        return differ(format!("finds {} keys", model.metadata().len()));
    }
    if model.tensors().len() != gguf.tensors().len() {
        return differ(format!("finds {} tensors", model.tensors().len()));
    }
    for (ours, theirs) in gguf.tensors().iter().zip(model.tensors()) {
        let shape = ours.shape.iter().rev().map(|&n| n as u64);
        let alike = ours.name == theirs.name
            && ours.dtype.ggml() == theirs.kind
            && shape.eq(theirs.shape.iter().copied())
            && ours.range.start as u64 == model.data_offset() + theirs.offset;
        if !alike {
            return differ(format!("sees the tensor '{}' otherwise", ours.name));
        }
    }
    Ok(())
}

/// Binds the model and reads all other parts of the metadata.
fn check_contents(gguf: &Gguf) -> Result<()> {
    let model = Model::new(gguf, Compute::new(NonZeroUsize::MIN)?)?;
    Sampling::read(gguf)?;
    let template = Template::read(gguf)?;
    let is_plain = model.config().visual.is_none();
    if !is_plain && template.is_none() {
        let key = names::key(names::ARCHITECTURE, visual::PROMPT_TEMPLATE);
        return Err(Error::model("is missing from the file's metadata").in_key(key));
    }
    // Plain LLaMA files may have a tokenizer that this program cannot run.
    let tokenizer_model = gguf.find::<&str>(tokenizer::MODEL)?;
    if is_plain && tokenizer_model != Some(tokenizer::MODEL_LLAMA) {
        return Ok(());
    }
    let vocabulary = Vocabulary::read(gguf)?;
    let (n_pieces, n_rows) = (vocabulary.pieces.len(), model.config().decoder.vocab_size);
    if n_pieces > n_rows {
        return Err(Error::model(format!(
            "the vocabulary has {n_pieces} tokens, but the embedding {n_rows} rows"
        )));
    }
    Ok(())
}

/// For each tensor of the file, in its order, where it comes from.
fn originals(gguf: &Gguf, original: &ConversionInput) -> Result<Vec<Mapped>> {
    let mut mapped = original.map()?.tensors;
    gguf.tensors()
        .iter()
        .map(|tensor| {
            let found = mapped.iter().position(|mapped| {
                mapped.spec.name == tensor.name && mapped.spec.shape == tensor.shape
            });
            found.map(|i| mapped.swap_remove(i)).ok_or_else(|| {
                Error::model(
                    "is not made from this checkpoint: it has no tensor of this name and shape",
                )
                .in_tensor(&tensor.name)
            })
        })
        .collect()
}

/// What is measured of a tensor, or of a piece of one.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// First element that is not finite.
    bad: Option<usize>,
    /// Sum of squares of the original.
    original: f64,
    /// Sum of squares of the differences.
    difference: f64,
}

impl Sums {
    fn relative_error(self) -> f64 {
        if self.difference == 0.0 {
            0.0
        } else {
            (self.difference / self.original).sqrt()
        }
    }
}

/// Buffers of one worker: stored and original values.
type Buffers = (Vec<f32>, Vec<f32>);

fn measure(
    gguf: &Gguf,
    original: Option<(&ConversionInput, &[Mapped])>,
    n_threads: NonZeroUsize,
    quiet: bool,
) -> Result<Vec<Sums>> {
    let tensors = gguf.tensors();
    let rotation = Rotation::read(gguf)?;
    let not_rotated = Rotation::read_exceptions(gguf)?;
    let data: Vec<_> = tensors.iter().map(|tensor| gguf.data(tensor)).collect();
    let pieces = pieces(tensors.iter().map(|tensor| tensor.shape.as_slice()));
    let make = |i: usize, (stored, wanted): &mut Buffers| {
        let piece = pieces[i];
        let tensor = &tensors[piece.tensor];
        let dtype = tensor.dtype;
        stored.resize(piece.len, 0.0);
        quant::dequantize(dtype, piece_bytes(&data, dtype, piece), stored);
        let mut sums = Sums {
            bad: first_beyond(stored, f32::MAX).map(|i| piece.start + i),
            ..Sums::default()
        };
        if let Some((input, mapped)) = original {
            let is_rotated = !dtype.is_float() && !not_rotated.contains(&tensor.name);
            if let Some(rotation) = rotation.as_ref().filter(|_| is_rotated) {
                stored
                    .chunks_exact_mut(row_len(&tensor.shape))
                    .for_each(|row| rotation.undo(row));
            }
            wanted.resize(piece.len, 0.0);
            mapped[piece.tensor].read(input.tensors.as_ref(), piece.start, wanted)?;
            sums.original = sum_of_squares(wanted.iter().copied());
            sums.difference = sum_of_squares(stored.iter().zip(&*wanted).map(|(a, b)| a - b));
        }
        Ok((piece, sums))
    };

    let n_bytes: usize = tensors.iter().map(|tensor| tensor.range.len()).sum();
    let mut progress = Progress::start(n_bytes as u64, quiet);
    let mut totals = vec![Sums::default(); tensors.len()];
    let take = |(piece, sums): (TensorPiece, Sums)| {
        interrupt::check()?;
        let total = &mut totals[piece.tensor];
        total.bad = total.bad.or(sums.bad);
        total.original += sums.original;
        total.difference += sums.difference;
        progress.advance(piece_range(tensors[piece.tensor].dtype, piece).len());
        Ok(())
    };
    let buffers = || (Vec::new(), Vec::new());
    let measured = pipeline::ordered(pieces.len(), n_threads, buffers, make, take);
    progress.finish();
    measured.map(|()| totals)
}

/// Where the bytes of `piece` are in its tensor.
fn piece_range(dtype: DType, piece: TensorPiece) -> std::ops::Range<usize> {
    let bytes = |n_values: usize| n_values / dtype.block_len() * dtype.block_bytes();
    bytes(piece.start)..bytes(piece.start + piece.len)
}

fn piece_bytes(data: &[TensorBytes], dtype: DType, piece: TensorPiece) -> &[u8] {
    &data[piece.tensor][piece_range(dtype, piece)]
}

fn sum_of_squares(values: impl Iterator<Item = f32>) -> f64 {
    values.map(f64::from).map(|x| x * x).sum()
}

fn check_finite(gguf: &Gguf, sums: &[Sums]) -> Result<()> {
    let bad: Vec<_> = gguf
        .tensors()
        .iter()
        .zip(sums)
        .filter_map(|(tensor, sums)| Some(format!("\n  {} at {}", tensor.name, sums.bad?)))
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    let listed = bad[..bad.len().min(MAX_LISTED)].concat();
    let more = match bad.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    Err(Error::model(format!(
        "these tensors have values that are not finite:{listed}{more}"
    )))
}
