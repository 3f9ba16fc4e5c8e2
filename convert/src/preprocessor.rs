//! `preprocessor_config.json`: what the reference's `CLIPImageProcessor` does to a picture.

use std::path::Path;

use owl2::Result;
use owl2::image::Preprocess;
use serde_json::Value;

use crate::config::foreign;
use crate::json::Object;

/// Name of the file with the preprocessing.
pub(crate) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// Edge in pixels where the file names none (transformers 4.31's `CLIPImageProcessor`).
const DEFAULT_EDGE: usize = 224;
/// Mean per channel where the file names none (`OPENAI_CLIP_MEAN` of transformers).
const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Standard deviation per channel where the file names none (`OPENAI_CLIP_STD`).
const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// Pillow's number for the bicubic filter, the only one that the runtime has.
const BICUBIC: usize = 3;

/// Reads the file in `dir`.
pub(crate) fn read(dir: &Path) -> Result<Preprocess> {
    let json = Object::read(&dir.join(PREPROCESSOR_FILE))?;
    foreign::check_pictures(&json)?;
    if let Some(filter) = json.count("resample")?
        && filter != BICUBIC
    {
        return Err(json.error(
            "resample",
            format!("is {filter}; only {BICUBIC} (bicubic) is supported"),
        ));
    }
    let (crop_height, crop_width) = read_crop_size(&json)?;
    Ok(Preprocess {
        do_resize: json.flag("do_resize")?.unwrap_or(true),
        shortest_edge: read_size(&json)?,
        do_center_crop: json.flag("do_center_crop")?.unwrap_or(true),
        crop_height,
        crop_width,
        do_rescale: json.flag("do_rescale")?.unwrap_or(true),
        rescale_factor: json.number("rescale_factor")?.unwrap_or(1.0 / 255.0),
        do_normalize: json.flag("do_normalize")?.unwrap_or(true),
        mean: read_channels(&json, "image_mean", CLIP_MEAN)?,
        std: read_std(&json)?,
    })
}

/// `size`: a number, or a dictionary with the shortest edge.
fn read_size(json: &Object) -> Result<usize> {
    match json.get("size") {
        None => Ok(DEFAULT_EDGE),
        Some(Value::Object(_)) => {
            let size = json.object("size")?;
            size.count("shortest_edge")?.ok_or_else(|| {
                size.error("shortest_edge", "is missing; other rules are not supported")
            })
        }
        Some(_) => Ok(json.count("size")?.unwrap_or(DEFAULT_EDGE)),
    }
}

/// `crop_size`: a number, or a dictionary with height and width.
fn read_crop_size(json: &Object) -> Result<(usize, usize)> {
    match json.get("crop_size") {
        None => Ok((DEFAULT_EDGE, DEFAULT_EDGE)),
        Some(Value::Object(_)) => {
            let size = json.object("crop_size")?;
            let edge = |key| {
                size.count(key)?
                    .ok_or_else(|| size.error(key, "is missing"))
            };
            Ok((edge("height")?, edge("width")?))
        }
        Some(_) => {
            let edge = json.count("crop_size")?.unwrap_or(DEFAULT_EDGE);
            Ok((edge, edge))
        }
    }
}

fn read_channels(json: &Object, key: &str, default: [f64; 3]) -> Result<[f32; 3]> {
    let Some(value) = json.get(key) else {
        return Ok(default.map(|x| x as f32));
    };
    value
        .as_array()
        .and_then(|values| {
            let numbers: Option<Vec<f32>> = values
                .iter()
                .map(|x| x.as_f64().map(|x| x as f32))
                .collect();
            <[f32; 3]>::try_from(numbers?).ok()
        })
        .ok_or_else(|| json.error(key, "needs three numbers, one per colour channel"))
}

fn read_std(json: &Object) -> Result<[f32; 3]> {
    let std = read_channels(json, "image_std", CLIP_STD)?;
    if std.iter().any(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(json.error("image_std", "needs positive numbers"));
    }
    Ok(std)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Preprocess> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PREPROCESSOR_FILE), text).unwrap();
        read(dir.path())
    }

    #[test]
    fn reads_numbers_and_dictionaries_alike() {
        let plain = read_text(r#"{"size": 448, "crop_size": 448, "resample": 3}"#).unwrap();
        let full = read_text(
            r#"{"size": {"shortest_edge": 448}, "crop_size": {"height": 448, "width": 448},
                "do_rescale": true, "rescale_factor": 0.00392156862745098, "resample": 3,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711]}"#,
        )
        .unwrap();
        assert_eq!(plain, full);
        assert!(plain.do_resize && plain.do_center_crop && plain.do_normalize);
        assert_eq!(plain.rescale_factor, 1.0 / 255.0);
    }

    #[test]
    fn refuses_what_the_runtime_cannot_do() {
        for (text, part) in [
            (r#"{"resample": 2}"#, "bicubic"),
            (
                r#"{"size": {"height": 448, "width": 448}}"#,
                "size.shortest_edge",
            ),
            (r#"{"crop_size": {"height": 448}}"#, "crop_size.width"),
            (r#"{"crop_size": "big"}"#, "crop_size"),
            (r#"{"image_mean": [0.5]}"#, "three"),
            (r#"{"mean": [0.5, 0.5, 0.5]}"#, "'image_mean'"),
            (r#"{"do_pad": true}"#, "do_pad"),
            (r#"{"image_std": [0.5, 0.5, 0]}"#, "positive"),
        ] {
            let message = read_text(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
