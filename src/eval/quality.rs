//! Pictures with people's scores, as the JSON files of Q-Align and DeQA-Score have them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::benchmark::{Section, array, lacks, number};
use super::metrics::correlation::Agreement;
use super::metrics::distribution::{Gap, Normal};
use crate::error::Result;
use crate::score::Score;

/// A picture, or a folder of a video's frames, and what people said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    /// As the file names it.
    pub image: String,
    /// Where it is.
    pub path: PathBuf,
    /// The mean of people's scores, on whatever scale.
    pub score: Option<f64>,
    /// The same and their standard deviation on the scale from 1 to 5, where they are known.
    pub distribution: Option<Normal>,
}

/// Reads the first `limit` pictures of a file: an array of objects with `image` or `img_path`, and
/// `gt_score` (a number, or a text that is one) or an `id` that ends in `->` and the score; DeQA's
/// have `gt_score_norm` and `std_norm` too.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Input`](crate::Kind::Input) with
/// the entry that lacks something.
pub fn read(path: &Path, image_root: &Path, limit: usize) -> Result<Vec<Rated>> {
    let entries = array(path, limit)?;
    let entries = entries.iter().enumerate();
    entries
        .map(|(index, entry)| rated(index, entry, image_root).map_err(|e| e.in_file(path)))
        .collect()
}

fn rated(index: usize, entry: &Value, image_root: &Path) -> Result<Rated> {
    let keys = ["image", "img_path"].into_iter();
    let image = keys
        .filter_map(|key| match &entry[key] {
            Value::String(image) => Some(image.as_str()),
            // Videos are listed as one of several.
            Value::Array(images) => images.first()?.as_str(),
            _ => None,
        })
        .next()
        .ok_or_else(|| lacks(index, "image"))?;
    let in_id = || {
        let (_, score) = entry["id"].as_str()?.rsplit_once("->")?;
        number(&score.into())
    };
    let distribution = match (number(&entry["gt_score_norm"]), number(&entry["std_norm"])) {
        (Some(mean), Some(deviation)) if deviation > 0.0 => Some(Normal { mean, deviation }),
        _ => None,
    };
    Ok(Rated {
        image: image.to_owned(),
        path: image_root.join(image),
        score: number(&entry["gt_score"]).or_else(in_id),
        distribution,
    })
}

/// How well scores agree with people's.
pub fn report(truth: &[Rated], scores: &[Score]) -> Vec<Section> {
    let pairs = truth.iter().zip(scores);
    let known = pairs
        .clone()
        .filter_map(|(truth, score)| Some((score.score, truth.score?)));
    let (predicted, people): (Vec<f64>, Vec<f64>) = known.unzip();
    let mut sections = Vec::new();
    let named = |agreement: Agreement| {
        vec![
            ("SRCC".to_owned(), agreement.srcc),
            ("PLCC".to_owned(), agreement.plcc),
            ("KRCC".to_owned(), agreement.krcc),
        ]
    };
    if predicted.len() > 1 {
        let agreement = Agreement::of(&predicted, &people);
        sections.push(Section::new("with people's scores", named(agreement)));
        if let Some(agreement) = Agreement::after_fit(&predicted, &people) {
            sections.push(Section::new("after a logistic fit", named(agreement)));
        }
    }
    let pairs = pairs.filter_map(|(truth, score)| {
        let predicted = Normal {
            mean: score.score,
            deviation: score.deviation?,
        };
        Some((truth.distribution?, predicted))
    });
    let pairs: Vec<(Normal, Normal)> = pairs.filter(|(_, p)| p.deviation > 0.0).collect();
    if !pairs.is_empty() {
        let gap = Gap::of(&pairs);
        let scores = vec![
            ("KL".to_owned(), gap.kl),
            ("JS".to_owned(), gap.js),
            ("W".to_owned(), gap.wasserstein),
        ];
        sections.push(Section::new("between distributions", scores));
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_numbers_texts_or_in_the_id() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q.json");
        std::fs::write(
            &path,
            r#"[{"image": "a.png", "gt_score": 3.5, "gt_score_norm": 2.0, "std_norm": 0.5},
                {"img_path": "b.png", "gt_score": "61.2"},
                {"image": "c.png", "id": "c.png->4.63"},
                {"image": "d.png", "id": "d->nan"}, {"gt_score": 1}]"#,
        )
        .unwrap();
        let rated = read(&path, Path::new("root"), 4).unwrap();
        let scores: Vec<_> = rated.iter().map(|rated| rated.score).collect();
        assert_eq!(scores, [Some(3.5), Some(61.2), Some(4.63), None]);
        assert_eq!(rated[0].path, Path::new("root/a.png"));
        assert!(rated[0].distribution.is_some() && rated[1].distribution.is_none());
        let message = read(&path, Path::new(""), 9).unwrap_err().to_string();
        assert!(
            message.contains("entry 5") && message.contains("image"),
            "{message}"
        );
    }
}
