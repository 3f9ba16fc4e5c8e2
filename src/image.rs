//! Stub.
#![allow(missing_docs)]

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    Squash,
    Pad,
    Crop,
}
impl std::fmt::Display for Aspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Aspect::Squash => "squash",
            Aspect::Pad => "pad",
            Aspect::Crop => "crop",
        })
    }
}
impl std::str::FromStr for Aspect {
    type Err = crate::Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        match text {
            "squash" => Ok(Aspect::Squash),
            "pad" => Ok(Aspect::Pad),
            "crop" => Ok(Aspect::Crop),
            _ => Err(crate::Error::usage("aspect")),
        }
    }
}
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    pub do_resize: bool,
    pub shortest_edge: usize,
    pub do_center_crop: bool,
    pub crop_height: usize,
    pub crop_width: usize,
    pub do_rescale: bool,
    pub rescale_factor: f64,
    pub do_normalize: bool,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}
