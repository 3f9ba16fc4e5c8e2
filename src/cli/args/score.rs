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
log_probabilities (among all that could follow), seconds. CSV has the same in columns. Pictures that
are decoded in time are computed together, and share the seconds; their numbers are those of each alone.

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

    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Include subfolders
    #[arg(short, long)]
    pub recursive: bool,

    /// What to rate: quality, aesthetics, or aesthetic (the word that pyiqa uses)
    #[arg(long, value_name = "TASK", default_value_t)]
    pub task: Task,

    /// Scoring rule: q-align, deqa, q-instruct or compare2score [default: as the model file says]
    #[arg(long, value_name = "NAME")]
    pub rule: Option<Rule>,

    /// Prompts of the published models or of the authors' evaluation scripts
    #[arg(long, value_name = "hub|scripts", default_value_t)]
    pub prompts: Form,

    /// Use nine words instead of three (q-instruct)
    #[arg(long)]
    pub boost: bool,

    /// Folder with the five pictures to compare with, named in order from worst to best
    /// (compare2score)
    #[arg(long, value_name = "DIR")]
    pub anchors: Option<PathBuf>,

    /// How to place pictures among the anchors: normal as in the published model, sigmoid as in the
    /// authors' scorer.py (compare2score)
    #[arg(long, value_name = "normal|sigmoid", default_value_t)]
    pub objective: Objective,

    /// Print the likelihood of these words after the prompt of -p, instead of a score
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub words: Vec<String>,

    /// The question that --words answer; without a PATH it is asked without a picture
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Use the prompt as is, without a template; `<s>`, `</s>` and `<|image|>` are recognized
    #[arg(long)]
    pub raw: bool,

    /// Use only the first token of each word, as in the authors' scripts
    #[arg(long, requires = "words")]
    pub first_piece: bool,

    /// Treat each folder as a video, all files together as another, and each animated GIF or WebP
    /// as one
    #[arg(long)]
    pub video: bool,

    /// Frame rate of the videos; one frame per second is used [default: use all frames]
    #[arg(long, value_name = "F", requires = "video", value_parser = super::frame_rate)]
    pub fps: Option<f64>,

    /// How to fit non-square pictures [default: as the rule says; with --words, as the model file
    /// says]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Apply the EXIF orientation and put white under transparency; the authors' code does neither
    #[arg(long)]
    pub as_shown: bool,

    /// Write all scores to a table, one row at a time
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Continue the table of an earlier run, skipping what it contains
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Print all scores at the end, best first
    #[arg(long)]
    pub sort: bool,

    /// Print the N best at the end, best first
    #[arg(long, value_name = "N")]
    pub best: Option<usize>,

    /// Print the N worst at the end, worst first
    #[arg(long, value_name = "N")]
    pub worst: Option<usize>,

    /// Print only scores of S or more
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub min: Option<f64>,

    /// Copy the N best into this folder
    #[arg(long, value_name = "DIR", requires = "best", conflicts_with = "video")]
    pub copy_best: Option<PathBuf>,

    /// Link the N best into this folder
    #[arg(long, value_name = "DIR", requires = "best", conflicts_with = "video")]
    pub link_best: Option<PathBuf>,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

const COMPARE_NOTES: &str = "\
With Compare2Score's rule and two pictures, prints how likely the second picture is better than the
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

    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Use the words of compare2score, whatever the model file says
    #[arg(long, value_name = "compare2score", conflicts_with = "prompt")]
    pub rule: Option<Rule>,

    /// The question [default: Which image has better quality, and why?]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Maximum number of tokens to generate
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<Length>,

    /// How to fit non-square pictures [default: pad, as the authors do]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
