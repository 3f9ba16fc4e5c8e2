//! The flags of scoring and comparing pictures.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::numbers::Length;
use crate::image::Aspect;
use crate::score::{Form, Objective, Rule, Task};

const SCORE_NOTES: &str = "\
Scores are on the scale of the model's authors: 1 to 5 by q-align and deqa, 0 to 1 by q-instruct, 0
to 100 by compare2score. Pictures are decoded as the authors' code does (see --as-shown) and padded
to a square (cropped by q-instruct), so that the numbers are theirs.

JSON keys: image, score, score_unit (the same from 0 to 1), deviation (of the rating; q-align and
deqa), probabilities and logits by word, preferences (over each anchor, the worst first), seconds;
or image and error. With --words: image, probabilities (among the words), logits (of first pieces),
log_probabilities (among all that could follow), seconds. CSV has the same in columns.

Examples:
  owl2 score -m one-align.gguf -r photos --csv scores.csv
  owl2 score -m one-align.gguf photos --best 20 --link-best best
  owl2 score -m deqa.gguf --json photo.jpg
  owl2 score -m one-align.gguf --video --fps 30 frames/
  owl2 score -m compare2score.gguf --anchors anchors photos
  owl2 score -m owl2.gguf --words yes,no -p \"Is there a dog? Answer yes or no.\" photos";

/// Arguments of `owl2 score`.
#[derive(Debug, Args)]
#[command(after_long_help = SCORE_NOTES, group = ArgGroup::new("table").args(["csv", "resume"]))]
pub(in crate::cli) struct ScoreArgs {
    /// Pictures, and folders of pictures
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Look into folders in folders too
    #[arg(short, long)]
    pub recursive: bool,

    /// What is rated: quality, aesthetics, or aesthetic as pyiqa asks
    #[arg(long, value_name = "TASK", default_value_t)]
    pub task: Task,

    /// What is made of the logits: q-align, deqa, q-instruct or compare2score [default: as the
    /// model file says]
    #[arg(long, value_name = "NAME")]
    pub rule: Option<Rule>,

    /// Whose prompts: those of the published models, or of the authors' evaluation scripts
    #[arg(long, value_name = "hub|scripts", default_value_t)]
    pub prompts: Form,

    /// Look at nine words in place of three (q-instruct)
    #[arg(long)]
    pub boost: bool,

    /// The five pictures that compare2score compares others with, whose names sort from the worst
    /// to the best
    #[arg(long, value_name = "DIR")]
    pub anchors: Option<PathBuf>,

    /// How compare2score places pictures among the anchors: normal as the published model, sigmoid
    /// as the authors' scorer.py
    #[arg(long, value_name = "normal|sigmoid", default_value_t)]
    pub objective: Objective,

    /// In place of a score, how likely these words are at the end of the prompt of -p
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub words: Vec<String>,

    /// The question whose answer would be one of --words; without pictures where no PATH is given
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Take the prompt as it is, without a template; `<s>`, `</s>` and `<|image|>` in it count
    #[arg(long)]
    pub raw: bool,

    /// Of words of several pieces, only the first counts, as in the authors' scripts
    #[arg(long, requires = "words")]
    pub first_piece: bool,

    /// Take each folder for one video, the files given for another, and an animated GIF or WebP for
    /// one by itself
    #[arg(long)]
    pub video: bool,

    /// Frames a second: of a video's frames, take one for each second [default: all]
    #[arg(long, value_name = "F", requires = "video", value_parser = super::frame_rate)]
    pub fps: Option<f64>,

    /// What becomes of pictures that are not square [default: as the rule says; with --words as the
    /// model file says]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Turn pictures as their EXIF data says, and put white below transparency; the authors' code
    /// does neither
    #[arg(long)]
    pub as_shown: bool,

    /// Write a table of all scores, a row as each is done
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Go on with the table of an earlier run: what is in it is not done again
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Print all at the end, the best first
    #[arg(long)]
    pub sort: bool,

    /// Print the N best at the end, the best first
    #[arg(long, value_name = "N")]
    pub best: Option<usize>,

    /// Print the N worst at the end, the worst first
    #[arg(long, value_name = "N")]
    pub worst: Option<usize>,

    /// Print no scores below S
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub min: Option<f64>,

    /// Copy the N best into this folder
    #[arg(long, value_name = "DIR", requires = "best", conflicts_with = "video")]
    pub copy_best: Option<PathBuf>,

    /// Put links to the N best into this folder
    #[arg(long, value_name = "DIR", requires = "best", conflicts_with = "video")]
    pub link_best: Option<PathBuf>,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

const COMPARE_NOTES: &str = "\
By Compare2Score's rule (two pictures) this prints how likely the second picture is better than the
first. Other models, such as Co-Instruct, answer a question about two to four pictures.

Examples:
  owl2 compare -m compare2score.gguf a.jpg b.jpg
  owl2 compare -m co-instruct.gguf a.jpg b.jpg -p \"Which image is sharper?\"";

/// Arguments of `owl2 compare`.
#[derive(Debug, Args)]
#[command(after_long_help = COMPARE_NOTES)]
pub(in crate::cli) struct CompareArgs {
    /// The pictures
    #[arg(value_name = "PICTURE", num_args = 2..=4, required = true)]
    pub pictures: Vec<PathBuf>,

    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Compare by the words of compare2score, whatever the model file says
    #[arg(long, value_name = "compare2score", conflicts_with = "prompt")]
    pub rule: Option<Rule>,

    /// The question [default: Which image has better quality, and why?]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Longest answer, in tokens
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<Length>,

    /// What becomes of pictures that are not square [default: pad, as the authors do]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
