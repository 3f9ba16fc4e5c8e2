//! Source pictures: as the reference decoded them, and as our decoder does.

use owl2::image::{Aspect, Limits, Picture, Preprocess, Reading, decode};
use serde_json::Value;

use crate::golden::{Golden, count, elements, members, text};
use crate::report::Report;
use crate::sha256;

/// The aspect mode that the vectors call `resize`, `pad`, and `none` or null.
pub fn aspect(name: &Value) -> Aspect {
    match name.as_str() {
        Some("resize") => Aspect::Squash,
        Some("pad") => Aspect::Pad,
        None | Some("none") => Aspect::Crop,
        Some(other) => panic!("unknown aspect mode '{other}'"),
    }
}

/// The picture `name` as the reference decoded it.
pub fn reference(golden: &Golden, name: &str) -> Picture {
    let decoded = golden.tensors("images_rgb.safetensors");
    if decoded.has(name) {
        let shape = decoded.shape(name);
        return Picture::from_rgb(shape[1], shape[0], decoded.u8s(name)).unwrap();
    }
    // Large ones are stored as a PNG each.
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let png = golden.bytes(&format!("{stem}_rgb.png"));
    decode(&png, Reading::Reference, &Limits::default()).unwrap()
}

/// Our decoders on every source picture: exact.
pub fn check_decoding(golden: &Golden, report: &mut Report) {
    let listed = golden.json("images.json");
    for (name, entry) in members(&listed) {
        let wanted = reference(golden, name);
        report.equal(
            "reference sha256",
            name,
            sha256(wanted.rgb()).as_str(),
            text(&entry["rgb_sha256"]),
        );
        let bytes = golden.bytes(&format!("images/{name}"));
        let decoded = decode(&bytes, Reading::Reference, &Limits::default());
        let Some(picture) = report.ok("decoding", name, decoded) else {
            continue;
        };
        let size = (count(&entry["width"]), count(&entry["height"]));
        report.equal(
            "picture size",
            name,
            &(picture.width(), picture.height()),
            &size,
        );
        if picture.rgb().len() != wanted.rgb().len() {
            continue;
        }
        let differences = picture.rgb().iter().zip(wanted.rgb());
        let differences: Vec<u8> = differences.map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().copied().max().unwrap_or(0);
        report.near("decoded levels", name, &[worst.into()], &[0.0], 0.0);
    }
}

/// Pairs of pictures before and after the bicubic filter.
pub fn check_resizing(golden: &Golden, report: &mut Report) {
    let tensors = golden.tensors("preprocess/resize_units.safetensors");
    for unit in elements(&golden.json("preprocess/resize_units.json")) {
        let i = match &unit["i"] {
            Value::String(name) => name.clone(),
            number => number.to_string(),
        };
        let [width, height] = [0, 1].map(|axis| count(&unit["src"][axis]));
        let [new_width, new_height] = [0, 1].map(|axis| count(&unit["dst"][axis]));
        let rgb = tensors.u8s(&format!("{i}.in"));
        let picture = Picture::from_rgb(width, height, rgb).unwrap();
        let at = format!("{i}: {width}x{height} to {new_width}x{new_height}");
        let resized = picture.resized(new_width, new_height);
        if let Some(resized) = report.ok("resized", &at, resized) {
            let wanted = tensors.u8s(&format!("{i}.out"));
            report.equal("resized", &at, &(resized.rgb() == wanted), &true);
        }
    }
}

/// Pixel values of each picture in each aspect mode, with a checkpoint's own preprocessing.
pub fn check_pixels(
    golden: &Golden,
    report: &mut Report,
    preprocess_of: impl Fn(&str) -> Preprocess,
) {
    let tensors = golden.tensors("preprocess/pixel_values.safetensors");
    for (at, case) in members(&golden.json("preprocess/preprocess.json")["float"]) {
        let picture = reference(golden, text(&case["image"]));
        let preprocess = preprocess_of(text(&case["checkpoint"]));
        let pixels = preprocess.pixels(&picture, aspect(&case["mode"]));
        if let Some(pixels) = report.ok("pixel values", at, pixels) {
            report.bits("pixel values", at, &pixels, &tensors.f32s(at));
        }
    }
}

/// Checksums of crops and pixel values at the real model's size.
pub fn check_large_pixels(golden: &Golden, report: &mut Report) {
    let config = golden.json("preprocess/preprocessor_config_448.json");
    let preprocess = large_preprocess(&config);
    let crop_only = Preprocess {
        do_rescale: false,
        do_normalize: false,
        ..preprocess.clone()
    };
    for (at, case) in members(&golden.json("preprocess/preprocess.json")["big"]) {
        let picture = reference(golden, text(&case["image"]));
        let aspect = aspect(&case["mode"]);
        let crop = crop_only.pixels(&picture, aspect);
        if let Some(crop) = report.ok("448 crop", at, crop) {
            let levels: Vec<u8> = crop.iter().map(|&x| x as u8).collect();
            let wanted = text(&case["crop_u8_chw_sha256"]);
            report.equal("448 crop", at, sha256(&levels).as_str(), wanted);
        }
        let pixels = preprocess.pixels(&picture, aspect);
        if let Some(pixels) = report.ok("448 pixel values", at, pixels) {
            let bytes: Vec<u8> = pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
            let wanted = text(&case["pixel_values_f32_chw_sha256"]);
            report.equal("448 pixel values", at, sha256(&bytes).as_str(), wanted);
        }
    }
}

fn large_preprocess(config: &Value) -> Preprocess {
    let edge = |value: &Value, name: &str| count(value.get(name).unwrap_or(value));
    let three = |value: &Value| [0, 1, 2].map(|i| value[i].as_f64().unwrap() as f32);
    Preprocess {
        do_resize: true,
        shortest_edge: edge(&config["size"], "shortest_edge"),
        do_center_crop: true,
        crop_height: edge(&config["crop_size"], "height"),
        crop_width: edge(&config["crop_size"], "width"),
        do_rescale: true,
        rescale_factor: config["rescale_factor"].as_f64().unwrap_or(1.0 / 255.0),
        do_normalize: true,
        mean: three(&config["image_mean"]),
        std: three(&config["image_std"]),
    }
}
