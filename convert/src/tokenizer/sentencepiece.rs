//! `tokenizer.model`, as SentencePiece's training writes it.

use std::path::Path;

use owl2::gguf::lfs;
use owl2::tokenizer::vocabulary::{Piece, PieceType};
use owl2::{Error, Result, files};
use sentencepiece_model::{ModelType, SentencePieceModel};

use super::Trained;

/// LLaMA's file has half a megabyte; this also holds vocabularies ten times the size.
const MAX_MODEL_BYTES: u64 = 16 << 20;

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Trained> {
    let model = read_model(path)?;
    check_model(&model)?;
    let trainer = model.trainer().cloned().unwrap_or_default();
    // -1 is none.
    let id = |id: i32| u32::try_from(id).ok();
    Ok(Trained {
        pieces: pieces(&model)?,
        bos_id: id(trainer.bos_id()),
        eos_id: id(trainer.eos_id()),
        unk_id: id(trainer.unk_id()),
        pad_id: id(trainer.pad_id()),
        add_space_prefix: model
            .normalizer()
            .is_none_or(|normalizer| normalizer.add_dummy_prefix()),
        legacy: None,
        added: Vec::new(),
    })
}

fn read_model(path: &Path) -> Result<SentencePieceModel> {
    let bytes =
        files::read_at_most(files::open(path)?, path, MAX_MODEL_BYTES)?.ok_or_else(|| {
            Error::model(format!(
                "is longer than {} MiB, which no SentencePiece vocabulary of this family is",
                MAX_MODEL_BYTES >> 20
            ))
        })?;
    lfs::check(&bytes)?;
    SentencePieceModel::from_slice(&bytes)
        .map_err(|e| Error::model(format!("is not a SentencePiece model: {e}")).caused_by(e))
}

/// Checks that the runtime's one algorithm (BPE, no normalization) is the file's.
fn check_model(model: &SentencePieceModel) -> Result<()> {
    let model_type = model
        .trainer()
        .map_or(ModelType::Unigram, |trainer| trainer.model_type());
    if model_type != ModelType::Bpe {
        return Err(Error::model(format!(
            "is a SentencePiece model of type {}; LLaMA's is BPE, and only that is supported",
            model_type.as_str_name()
        )));
    }
    let Some(normalizer) = model.normalizer() else {
        return Ok(());
    };
    if !normalizer.precompiled_charsmap().is_empty()
        || normalizer.remove_extra_whitespaces()
        || !normalizer.escape_whitespaces()
    {
        return Err(Error::model(
            "normalizes text before it is split; LLaMA's tokenizer does not, and that is not supported",
        ));
    }
    Ok(())
}

fn pieces(model: &SentencePieceModel) -> Result<Vec<Piece>> {
    model
        .pieces()
        .iter()
        .enumerate()
        .map(|(id, piece)| {
            let number = piece.r#type.unwrap_or(PieceType::Normal as i32);
            Ok(Piece {
                text: piece.piece().to_owned(),
                score: piece.score(),
                piece_type: PieceType::from_number(number).ok_or_else(|| {
                    Error::model(format!(
                        "piece {id} has type {number}, which does not exist"
                    ))
                })?,
            })
        })
        .collect()
}
