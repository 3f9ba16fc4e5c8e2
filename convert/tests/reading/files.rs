//! Makes small checkpoint directories in every layout, well-formed and not.

use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use owl2_convert::checkpoint::ElementType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: ElementType,
    pub values: Vec<f32>,
}

/// A tensor of small integers, which every element type holds exactly.
pub fn sample(name: &str, shape: &[usize], element: ElementType, first: i32) -> Sample {
    let n: usize = shape.iter().product();
    Sample {
        name: name.to_owned(),
        shape: shape.to_vec(),
        element,
        values: (0..n as i32).map(|i| (first + i) as f32).collect(),
    }
}

/// Four tensors of mixed types.
pub fn samples() -> Vec<Sample> {
    vec![
        sample("lm_head.weight", &[5, 3], ElementType::F16, 1),
        sample("model.embed_tokens.weight", &[5, 3], ElementType::F32, -7),
        sample("model.norm.weight", &[3], ElementType::BF16, 20),
        sample(
            "model.visual_abstractor.vit_eos",
            &[1, 1, 3],
            ElementType::F16,
            3,
        ),
    ]
}

impl Sample {
    pub fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter();
        match self.element {
            ElementType::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            ElementType::F16 => values
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
            ElementType::BF16 => values
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect(),
        }
    }

    fn row_major_strides(&self) -> Vec<usize> {
        (1..=self.shape.len())
            .map(|i| self.shape[i..].iter().product())
            .collect()
    }

    fn view(&self) -> TorchView {
        let class = match self.element {
            ElementType::F32 => "FloatStorage",
            ElementType::F16 => "HalfStorage",
            ElementType::BF16 => "BFloat16Storage",
        };
        TorchView {
            name: self.name.clone(),
            class: class.to_owned(),
            n_elements: self.values.len(),
            storage: self.bytes(),
            offset: 0,
            shape: self.shape.clone(),
            strides: self.row_major_strides(),
        }
    }
}

/// A directory with everything but weights.
pub fn model_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_json(
        dir.path(),
        "config.json",
        r#"{"model_type": "mplug_owl2", "vocab_size": 768}"#,
    );
    write_json(
        dir.path(),
        "preprocessor_config.json",
        r#"{"size": 448, "crop_size": 448, "resample": 3}"#,
    );
    std::fs::write(
        dir.path().join("tokenizer.model"),
        include_bytes!("../data/tokenizer.model"),
    )
    .unwrap();
    dir
}

pub fn write_json(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// Writes an index that maps each tensor to its file.
pub fn write_index(dir: &Path, name: &str, files: &[(&str, &[Sample])]) {
    let weight_map: serde_json::Map<_, _> = files
        .iter()
        .flat_map(|(file, samples)| {
            samples
                .iter()
                .map(|sample| (sample.name.clone(), (*file).into()))
        })
        .collect();
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    write_json(dir, name, &index.to_string());
}

/// The bytes of a safetensors file.
pub fn safetensors_bytes(samples: &[Sample]) -> Vec<u8> {
    let data: Vec<_> = samples.iter().map(Sample::bytes).collect();
    let views = samples.iter().zip(&data).map(|(sample, data)| {
        let dtype = match sample.element {
            ElementType::F32 => Dtype::F32,
            ElementType::F16 => Dtype::F16,
            ElementType::BF16 => Dtype::BF16,
        };
        let view = TensorView::new(dtype, sample.shape.clone(), data).unwrap();
        (sample.name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A safetensors file with this header and data, right or wrong.
pub fn raw_safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

/// A tensor as a torch file describes it, right or wrong.
#[derive(Clone, Debug)]
pub struct TorchView {
    pub name: String,
    pub class: String,
    pub n_elements: usize,
    pub storage: Vec<u8>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The bytes of a torch file with these tensors.
pub fn torch_bytes(samples: &[Sample]) -> Vec<u8> {
    let views: Vec<_> = samples.iter().map(Sample::view).collect();
    torch_views(&views)
}

/// The bytes of a torch file with these views.
pub fn torch_views(views: &[TorchView]) -> Vec<u8> {
    let storages: Vec<_> = views.iter().map(|view| view.storage.clone()).collect();
    torch_archive(&pickle(views), &storages, CompressionMethod::Stored)
}

/// A torch file with this pickle and these storages.
pub fn torch_archive(
    pickle: &[u8],
    storages: &[Vec<u8>],
    compression: CompressionMethod,
) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(compression);
    let mut add = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("archive/data.pkl".to_owned(), pickle);
    for (i, storage) in storages.iter().enumerate() {
        add(format!("archive/data/{i}"), storage);
    }
    add("archive/version".to_owned(), b"3\n");
    zip.finish().unwrap().into_inner()
}

/// What `torch.save` pickles for a `state_dict()`: an ordered dictionary with `_metadata`.
fn pickle(views: &[TorchView]) -> Vec<u8> {
    let mut code = b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(".to_vec();
    for (key, view) in views.iter().enumerate() {
        text(&mut code, &view.name);
        code.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut code, "storage");
        code.extend(format!("ctorch\n{}\n", view.class).bytes());
        text(&mut code, &key.to_string());
        text(&mut code, "cpu");
        int(&mut code, view.n_elements);
        code.extend(b"tQ");
        int(&mut code, view.offset);
        tuple(&mut code, &view.shape);
        tuple(&mut code, &view.strides);
        code.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    code.extend(b"u}");
    text(&mut code, "_metadata");
    code.extend(b"}");
    text(&mut code, "");
    code.extend(b"}");
    text(&mut code, "version");
    code.extend(b"K\x01sssb.");
    code
}

/// Appends a string.
pub fn text(code: &mut Vec<u8>, text: &str) {
    code.push(b'X');
    code.extend((text.len() as u32).to_le_bytes());
    code.extend(text.bytes());
}

fn int(code: &mut Vec<u8>, n: usize) {
    code.extend([0x8a, 8]);
    code.extend((n as u64).to_le_bytes());
}

fn tuple(code: &mut Vec<u8>, items: &[usize]) {
    code.push(b'(');
    for item in items {
        int(code, *item);
    }
    code.push(b't');
}
