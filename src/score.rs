//! Scores of pictures by the mPLUG-Owl2 models that were trained to rate them.
//!
//! Such a model gets a fixed question. The score is made of the probabilities of a few words at the end
//! of the prompt, in one pass and without a new token. [`Rule`] has the words and the formula;
//! [`Scoring`] adds what to rate and the form of the question.
//!
//! ```no_run
//! use owl2::Assistant;
//! use owl2::request::Source;
//! use owl2::score::{Rule, ScoreSubject, Scoring};
//!
//! # fn main() -> owl2::Result<()> {
//! let assistant = Assistant::open("one-align.gguf")?;
//! let scoring = Scoring::new(Rule::QAlign);
//! let photo = ScoreSubject::Picture(Source::File("photo.jpg".into()));
//! println!("{:.3}", assistant.score(&photo, &scoring)?.score);
//! # Ok(())
//! # }
//! ```

mod preference;
mod rule;
mod scorer;

pub use preference::{ANCHOR_MATRIX, Objective, Placement, place};
pub use rule::{Form, Rule, Task};
pub use scorer::{Comparison, Scorer};

use crate::error::Result;
use crate::image::{Aspect, Reading};
use crate::request::{Assistant, Source};

/// What is rated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoreSubject {
    /// A picture.
    Picture(Source),
    /// The frames of a video, at least one.
    Clip(Vec<Source>),
}

/// How subjects are rated.
#[derive(Clone, Debug, PartialEq)]
pub struct Scoring {
    /// The words, and what is made of their logits.
    pub rule: Rule,
    /// What about the subject is rated. Q-Instruct and Compare2Score know quality alone.
    pub task: Task,
    /// The prompts of the published model, or of its authors' evaluation scripts.
    pub form: Form,
    /// Whether Q-Instruct looks at nine words in place of three.
    pub boost: bool,
    /// What Compare2Score places a picture among the anchors by.
    pub objective: Objective,
    /// What becomes of pictures that are not square; `None` is the rule's own way.
    pub aspect: Option<Aspect>,
    /// How pictures are decoded; that of the authors' code unless this says otherwise.
    pub reading: Reading,
}

impl Scoring {
    /// Quality, as the published model of this rule rates it.
    pub fn new(rule: Rule) -> Self {
        Scoring {
            rule,
            task: Task::default(),
            form: Form::default(),
            boost: false,
            objective: Objective::default(),
            aspect: None,
            reading: Reading::Reference,
        }
    }
}

/// A rating.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// On the rule's own scale: 1 to 5 for Q-Align and DeQA, 0 to 1 for Q-Instruct, 0 to 100 for
    /// Compare2Score. More is better.
    pub score: f64,
    /// The same from 0 to 1.
    pub unit: f64,
    /// Standard deviation of the rating on the rule's scale, for Q-Align and DeQA.
    pub deviation: Option<f64>,
    /// The words that were looked at, with their logits; none for Compare2Score.
    pub logits: Vec<(&'static str, f32)>,
    /// Probabilities of the levels, the best first; none for Compare2Score.
    pub probabilities: Vec<(&'static str, f64)>,
    /// For Compare2Score, how likely the picture is better than each anchor, the worst first.
    pub preferences: Vec<f64>,
    /// Positions of the prompt, and how many of them earlier ratings had computed; of the last
    /// prompt where there are several.
    pub n_prompt: usize,
    /// See above.
    pub n_reused: usize,
}

impl Assistant {
    /// Rates one subject. For several, a [`Scorer`] computes what they have in common once.
    ///
    /// # Errors
    /// As [`Scorer::new`] and [`Scorer::score`].
    pub fn score(&self, subject: &ScoreSubject, scoring: &Scoring) -> Result<Score> {
        Scorer::new(self, scoring.clone())?.score(subject)
    }
}
