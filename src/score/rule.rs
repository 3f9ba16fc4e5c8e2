//! The question and the formula of each rating model.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::write::Metadata;
use crate::gguf::{Gguf, names};
use crate::image::Aspect;
use crate::request::{WordLogits, softmax};

use super::{Score, ScoreSubject, Scoring};

/// Which words are looked at, and what is made of their logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Q-Align (one-align): five levels, 1 to 5.
    QAlign,
    /// DeQA-Score: the same words, trained as a distribution.
    Deqa,
    /// Q-Instruct: good, average and poor, 0 to 1.
    QInstruct,
    /// Compare2Score: comparisons with five anchors, 0 to 100.
    Compare2Score,
}

/// What about a picture is rated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Technical quality.
    #[default]
    Quality,
    /// Beauty.
    Aesthetics,
    /// The same in the singular, as the pyiqa package asks.
    Aesthetic,
}

/// Whose prompts are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Those of the published model's own `score`.
    #[default]
    Hub,
    /// Those of the authors' evaluation scripts.
    Scripts,
}

/// The levels of Q-Align and DeQA, and what they are worth.
const LEVELS: [(&str, f64); 5] = [
    ("excellent", 5.0),
    ("good", 4.0),
    ("fair", 3.0),
    ("poor", 2.0),
    ("bad", 1.0),
];

/// The levels of Q-Instruct, each with the words that stand for it.
const Q_INSTRUCT: [([&str; 3], f64); 3] = [
    (["good", "high", "fine"], 1.0),
    (["average", "medium", "acceptable"], 0.5),
    (["poor", "low", "bad"], 0.0),
];

/// The levels of a comparison, and what they are worth.
pub(super) const COMPARISONS: [(&str, f64); 5] = [
    ("inferior", 0.0),
    ("worse", 0.25),
    ("similar", 0.5),
    ("better", 0.75),
    ("superior", 1.0),
];
/// Compare2Score divides logits by this.
pub(super) const COMPARISON_TEMPERATURE: f64 = 100.0;

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 4] = [
        Rule::QAlign,
        Rule::Deqa,
        Rule::QInstruct,
        Rule::Compare2Score,
    ];

    /// The rule that a model file names, if it does.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) for one that is not known.
    pub fn read(gguf: &Gguf) -> Result<Option<Self>> {
        let key = names::key(names::ARCHITECTURE, names::SCORE_RULE);
        let Some(name) = gguf.find::<&str>(&key)? else {
            return Ok(None);
        };
        let rule = name.parse();
        rule.map(Some)
            .map_err(|e: Error| Error::model(e.to_string()).in_key(key))
    }

    /// Writes what [`Rule::read`] reads.
    pub fn write(self, metadata: &mut Metadata) {
        let key = names::key(names::ARCHITECTURE, names::SCORE_RULE);
        metadata.set(key, self.name());
    }

    /// The rule of the model that a directory or repository of this name holds, if that tells.
    pub fn of_model(name: &str) -> Option<Self> {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        let name: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
        let is = |part: &str| name.contains(part);
        match () {
            () if is("compare2score") => Some(Rule::Compare2Score),
            () if is("deqa") => Some(Rule::Deqa),
            // "q-instruct-plus-one-align" does both; its scores are Q-Align's.
            () if is("onealign") || is("qalign") => Some(Rule::QAlign),
            () if is("qinstruct") => Some(Rule::QInstruct),
            () => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::QAlign => "q-align",
            Rule::Deqa => "deqa",
            Rule::QInstruct => "q-instruct",
            Rule::Compare2Score => "compare2score",
        }
    }

    /// What its authors do to pictures that are not square.
    pub fn aspect(self) -> Aspect {
        match self {
            Rule::QInstruct => Aspect::Crop,
            _ => Aspect::Pad,
        }
    }

    /// The least and the greatest score.
    pub fn range(self) -> (f64, f64) {
        match self {
            Rule::QAlign | Rule::Deqa => (1.0, 5.0),
            Rule::QInstruct => (0.0, 1.0),
            Rule::Compare2Score => (0.0, 100.0),
        }
    }
}

impl Scoring {
    /// The whole prompt for `subject`.
    pub fn prompt(&self, subject: &ScoreSubject) -> String {
        let what = match subject {
            ScoreSubject::Picture(_) => "image",
            ScoreSubject::Clip(_) => "video",
        };
        let task = self.task;
        match (self.rule, self.form) {
            (Rule::QAlign | Rule::Deqa, Form::Hub) => format!(
                "USER: How would you rate the {task} of this {what}?\n<|image|>\nASSISTANT: The \
                 {task} of the {what} is"
            ),
            (Rule::QAlign | Rule::Deqa, Form::Scripts) => match (task, subject) {
                (Task::Quality, _) | (_, ScoreSubject::Clip(_)) => format!(
                    "USER: How would you rate the {task} of this {what}?\n<|image|> ASSISTANT: The \
                     {task} of the {what} is"
                ),
                _ => format!(
                    "USER: <|image|>How would you rate the {task} of this {what}? ASSISTANT: The \
                     {task} of the {what} is"
                ),
            },
            (Rule::QInstruct, Form::Hub) => {
                "USER: <|image|>Rate the quality of the image.\nASSISTANT: ".to_owned()
            }
            (Rule::QInstruct, Form::Scripts) => {
                "USER: <|image|>Rate the quality of the image. ASSISTANT:".to_owned()
            }
            // The scripts' prompt differs by a space; the published model is what is followed.
            (Rule::Compare2Score, _) => {
                "USER: <|image|> <|image|> Compared with the first image, what is your quality \
                 rating for second image? \nASSISTANT: The quality of the second image is"
                    .to_owned()
            }
        }
    }

    /// The words that are looked at, in the order that [`Scoring::rate`] wants them.
    pub fn words(&self) -> Vec<&'static str> {
        match self.rule {
            Rule::QAlign | Rule::Deqa => LEVELS.map(|(word, _)| word).to_vec(),
            Rule::QInstruct => {
                let rows = 0..self.n_rows();
                let words = rows.flat_map(|row| {
                    let levels = self.q_instruct_levels();
                    levels.iter().map(move |(words, _)| words[row])
                });
                words.collect()
            }
            Rule::Compare2Score => COMPARISONS.map(|(word, _)| word).to_vec(),
        }
    }

    /// The words that its levels are called by, in the order of [`Score::probabilities`].
    pub fn levels(&self) -> Vec<&'static str> {
        match self.rule {
            Rule::QAlign | Rule::Deqa => LEVELS.map(|(word, _)| word).to_vec(),
            Rule::QInstruct => {
                let levels = self.q_instruct_levels().iter();
                levels.map(|(words, _)| words[0]).collect()
            }
            Rule::Compare2Score => Vec::new(),
        }
    }

    /// The score that the logits of [`Scoring::words`] make.
    ///
    /// # Panics
    /// For Compare2Score, whose scores need anchors.
    pub fn rate(&self, logits: &WordLogits) -> Score {
        let values = logits.logits();
        let levels: Vec<(&str, f64)> = match self.rule {
            Rule::QAlign | Rule::Deqa => LEVELS.to_vec(),
            Rule::QInstruct => {
                let levels = self.q_instruct_levels().iter();
                levels.map(|(words, worth)| (words[0], *worth)).collect()
            }
            Rule::Compare2Score => panic!("Compare2Score rates by anchors"),
        };
        let n_rows = values.len() / levels.len();
        // The mean over the rows, of which there is one unless boosted.
        let mean = (0..levels.len()).map(|level| {
            let column = values.iter().skip(level).step_by(levels.len());
            column.map(|&logit| f64::from(logit)).sum::<f64>() / n_rows as f64
        });
        let probabilities = softmax(mean);
        let terms = || probabilities.iter().zip(&levels);
        let score: f64 = terms().map(|(p, (_, worth))| p * worth).sum();
        let variance: f64 = terms().map(|(p, (_, w))| p * (w - score).powi(2)).sum();
        let (least, greatest) = self.rule.range();
        Score {
            score,
            unit: (score - least) / (greatest - least),
            deviation: (self.rule != Rule::QInstruct).then(|| variance.sqrt()),
            logits: self.words().into_iter().zip(values).collect(),
            probabilities: terms().map(|(&p, &(word, _))| (word, p)).collect(),
            preferences: Vec::new(),
            n_prompt: logits.n_prompt,
            n_reused: logits.n_reused,
        }
    }

    /// The scripts of Q-Instruct leave the middle out.
    fn q_instruct_levels(&self) -> &'static [([&'static str; 3], f64)] {
        const ENDS: [([&str; 3], f64); 2] = [Q_INSTRUCT[0], Q_INSTRUCT[2]];
        match self.form {
            Form::Hub => &Q_INSTRUCT,
            Form::Scripts => &ENDS,
        }
    }

    fn n_rows(&self) -> usize {
        match self.boost {
            true => 3,
            false => 1,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Rule::ALL.into_iter().find(|rule| rule.name() == text);
        known.ok_or_else(|| {
            let names = Rule::ALL.map(Rule::name).join(", ");
            Error::usage(format!(
                "unknown scoring rule '{text}' (expected one of {names})"
            ))
        })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Quality => "quality",
            Task::Aesthetics => "aesthetics",
            Task::Aesthetic => "aesthetic",
        })
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Task::Quality, Task::Aesthetics, Task::Aesthetic];
        let known = all.into_iter().find(|task| task.to_string() == text);
        known.ok_or_else(|| {
            Error::usage(format!(
                "'{text}' is nothing to rate; there are quality, aesthetics, aesthetic"
            ))
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Hub => "hub",
            Form::Scripts => "scripts",
        })
    }
}

impl FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hub" => Ok(Form::Hub),
            "scripts" => Ok(Form::Scripts),
            _ => Err(Error::usage(format!(
                "unknown set of prompts '{text}' (expected hub or scripts)"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Source;
    use crate::request::WordLogit;
    use crate::timing::Timings;

    fn logits(scoring: &Scoring, values: &[f32]) -> WordLogits {
        let words = scoring.words().into_iter().zip(values);
        let words = words.map(|(word, &logit)| WordLogit {
            word: word.to_owned(),
            ids: vec![0],
            logit,
            log_probability: f64::from(logit),
        });
        WordLogits {
            words: words.collect(),
            n_prompt: 0,
            n_reused: 0,
            timings: Timings::default(),
        }
    }

    #[test]
    fn one_certain_level_is_the_score_without_deviation() {
        let scoring = Scoring::new(Rule::Deqa);
        for (level, (word, worth)) in LEVELS.into_iter().enumerate() {
            let mut values = [0.0; 5];
            values[level] = 1000.0;
            let score = scoring.rate(&logits(&scoring, &values));
            assert_eq!((score.score, score.deviation), (worth, Some(0.0)));
            assert_eq!(score.unit, (worth - 1.0) / 4.0);
            assert_eq!(score.probabilities[level], (word, 1.0));
        }
        let even = scoring.rate(&logits(&scoring, &[1.0; 5]));
        assert!((even.score - 3.0).abs() < 1e-12);
        assert!((even.deviation.unwrap() - 2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn boosted_words_are_averaged_by_level() {
        let scoring = Scoring {
            boost: true,
            ..Scoring::new(Rule::QInstruct)
        };
        assert_eq!(
            scoring.words(),
            [
                "good",
                "average",
                "poor",
                "high",
                "medium",
                "low",
                "fine",
                "acceptable",
                "bad"
            ]
        );
        let score = scoring.rate(&logits(
            &scoring,
            &[3.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0],
        ));
        assert!((score.score - 0.5).abs() < 1e-12);
        assert_eq!(score.logits.len(), 9);
        assert_eq!(score.probabilities.len(), 3);
        let scripts = Scoring {
            form: Form::Scripts,
            ..Scoring::new(Rule::QInstruct)
        };
        assert_eq!(scripts.words(), ["good", "poor"]);
    }

    #[test]
    fn videos_are_called_so_and_tasks_twice() {
        let scoring = Scoring {
            task: Task::Aesthetics,
            ..Scoring::new(Rule::QAlign)
        };
        let clip = ScoreSubject::Clip(vec![Source::Bytes(Vec::new())]);
        assert_eq!(
            scoring.prompt(&clip),
            "USER: How would you rate the aesthetics of this video?\n<|image|>\nASSISTANT: The \
             aesthetics of the video is"
        );
    }

    #[test]
    fn models_are_known_by_the_names_they_were_published_under() {
        for (name, rule) in [
            ("q-future/one-align", Some(Rule::QAlign)),
            ("q-align-iqa", Some(Rule::QAlign)),
            ("zhiyuanyou/DeQA-Score-Mix3", Some(Rule::Deqa)),
            ("q-instruct-mplug-owl2-1031", Some(Rule::QInstruct)),
            (
                "mplug_owl2_7b_448_qinstruct_preview_v0.2",
                Some(Rule::QInstruct),
            ),
            ("q-instruct-plus-one-align-preview-v0.3", Some(Rule::QAlign)),
            ("VQA-CityU/Compare2Score_3", Some(Rule::Compare2Score)),
            ("q-future/co-instruct", None),
            ("mplug-owl2-llama2-7b", None),
            ("", None),
        ] {
            assert_eq!(Rule::of_model(name), rule, "{name}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for rule in Rule::ALL {
            assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }
        assert!("q-bench".parse::<Rule>().is_err());
        assert!("beauty".parse::<Task>().is_err());
        assert!("".parse::<Form>().is_err());
    }
}
