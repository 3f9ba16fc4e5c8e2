//! The plan of a conversion: every tensor with its type, and the sizes that come of it.

use std::collections::BTreeMap;
use std::fmt;

use indicatif::HumanBytes;

use owl2::gguf::DType;
use owl2::gguf::write::TensorDecl;
use owl2::model::layout::{Component, TensorSpec};
use owl2::quant::Rotation;

/// A tensor and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the file will hold.
    pub spec: TensorSpec,
    /// How it will be stored.
    pub dtype: DType,
    /// What the recipe says; `dtype` differs where that cannot hold the rows.
    pub wanted: DType,
    /// Whether its columns are rotated.
    pub is_rotated: bool,
}

/// Every tensor of the file to be, in order. Displayed, it is the table that the user sees.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversionPlan {
    /// The tensors.
    pub tensors: Vec<Planned>,
    /// How columns are rotated, if any are.
    pub rotation: Option<Rotation>,
    /// Whether nothing is rotated because every input's weights would round worse.
    pub is_rotation_harmful: bool,
}

/// The size of a group of tensors.
#[derive(Clone, Debug, Default)]
pub struct Size {
    /// Bytes of their data.
    pub bytes: u64,
    /// Number of values.
    pub weights: u64,
    dtypes: BTreeMap<DType, usize>,
}

impl Size {
    fn add(&mut self, tensor: &Planned) {
        let weights: usize = tensor.spec.shape.iter().product();
        let (len, bytes) = (tensor.dtype.block_len(), tensor.dtype.block_bytes());
        self.weights += weights as u64;
        self.bytes += (weights / len * bytes) as u64;
        *self.dtypes.entry(tensor.dtype).or_default() += 1;
    }

    /// Bits that one weight takes on average.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dtypes: Vec<_> = self.dtypes.iter().collect();
        dtypes.sort_by_key(|&(_, n)| std::cmp::Reverse(*n));
        let dtypes: Vec<_> = dtypes
            .iter()
            .map(|(dtype, n)| format!("{n} {dtype}"))
            .collect();
        write!(
            f,
            "{:>8.1} M  {:>11}  {:>15.2}  {}",
            self.weights as f64 / 1e6,
            HumanBytes(self.bytes).to_string(),
            self.bits_per_weight(),
            dtypes.join(", ")
        )
    }
}

impl ConversionPlan {
    /// Size of the whole.
    pub fn size(&self) -> Size {
        let mut size = Size::default();
        self.tensors.iter().for_each(|tensor| size.add(tensor));
        size
    }

    /// How the columns of a tensor are rotated, if they are.
    pub fn rotation_of(&self, tensor: &Planned) -> Option<&Rotation> {
        self.rotation.as_ref().filter(|_| tensor.is_rotated)
    }

    /// Names of the tensors that are stored in blocks and not rotated, where others are.
    pub fn exceptions(&self) -> Vec<String> {
        let has_rotation = self.rotation.is_some();
        let is_exception = |t: &&Planned| has_rotation && !t.dtype.is_float() && !t.is_rotated;
        let exceptions = self.tensors.iter().filter(is_exception);
        exceptions.map(|tensor| tensor.spec.name.clone()).collect()
    }

    /// The tensors as the writer wants them.
    pub fn declarations(&self) -> Vec<TensorDecl> {
        self.tensors
            .iter()
            .map(|tensor| TensorDecl {
                name: tensor.spec.name.clone(),
                dtype: tensor.dtype,
                shape: tensor.spec.shape.clone(),
            })
            .collect()
    }

    /// Per pair of wanted and actual type: the first tensor and how many there are.
    fn fallbacks(&self) -> BTreeMap<(DType, DType), (&str, usize)> {
        let mut fallbacks = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|t| t.dtype != t.wanted) {
            let name = tensor.spec.name.as_str();
            let entry = fallbacks.entry((tensor.wanted, tensor.dtype));
            entry.or_insert((name, 0)).1 += 1;
        }
        fallbacks
    }
}

impl fmt::Display for ConversionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = BTreeMap::<Component, Size>::new();
        for tensor in &self.tensors {
            parts.entry(tensor.spec.part).or_default().add(tensor);
        }
        writeln!(
            f,
            "Component           Weights         Size  Bits per weight  Tensors"
        )?;
        for (part, size) in &parts {
            writeln!(f, "{:<11} {size}", part.name())?;
        }
        write!(f, "{:<11} {}", "all", self.size())?;
        if let [first, others @ ..] = &self.exceptions()[..] {
            let others = and_more(others.len());
            write!(
                f,
                "\n{first}{others}: not rotated, since the weights would round worse"
            )?;
        }
        if self.is_rotation_harmful {
            write!(
                f,
                "\nno columns are rotated, since the weights of every input would round worse"
            )?;
        }
        for ((wanted, dtype), (name, n)) in self.fallbacks() {
            let others = and_more(n - 1);
            write!(
                f,
                "\n{name}{others}: {dtype} instead of {wanted}, whose blocks do not divide the rows"
            )?;
        }
        Ok(())
    }
}

/// What stands for `n` more names after one.
fn and_more(n: usize) -> String {
    match n {
        0 => String::new(),
        n => format!(" and {n} more"),
    }
}

#[cfg(test)]
mod tests {
    use crate::random::RandomShape;
    use crate::recipe::{Quant, Recipe};

    #[test]
    fn the_table_says_where_rotation_was_left_out_altogether() {
        let mut plan = Recipe::default().plan(&RandomShape::Tiny.config()).unwrap();
        let said = "no columns are rotated";
        assert!(!plan.to_string().contains(said));
        plan.rotation = None;
        plan.is_rotation_harmful = true;
        assert!(plan.to_string().contains(said), "{plan}");
    }

    #[test]
    fn the_table_says_sizes_and_fallbacks() {
        let recipe = Recipe {
            quant: Quant::Q8_0,
            ..Recipe::default()
        };
        let plan = recipe.plan(&RandomShape::SevenB.config()).unwrap();
        let text = plan.to_string();
        // The public checkpoint is 16.4 GB at 16 bits.
        assert!((8.15e9..8.25e9).contains(&(plan.size().weights as f64)));
        assert!((8.49..8.6).contains(&plan.size().bits_per_weight()));
        assert!(
            text.contains("v.patch_embd.weight: F16 instead of Q8_0"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1 + 5 + 1 + 1, "{text}");
    }
}
