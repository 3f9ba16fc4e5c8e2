//! Whether a source has the tensors that a model needs, and no others.

use std::collections::HashSet;

use owl2::{Error, Result};

use crate::checkpoint::TensorSource;

/// Tensors that an error lists of each kind; a configuration alone can make tens of thousands.
const MAX_LISTED: usize = 10;

/// What to do about tensors that no part of the model is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extra {
    /// Refuse the source: it may be another model.
    #[default]
    Refuse,
    /// Leave them out, as the reference does.
    Ignore,
}

/// Compares what the mapping needs with what the source has.
pub(super) struct Check<'a> {
    source: &'a dyn TensorSource,
    used: HashSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
}

impl<'a> Check<'a> {
    pub fn new(source: &'a dyn TensorSource) -> Self {
        Check {
            source,
            used: HashSet::new(),
            missing: Vec::new(),
            misshapen: Vec::new(),
        }
    }

    /// A tensor that may be there though nothing is made from it.
    pub fn allow(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// Notes as a problem where the source does not have `name`, or in another shape.
    pub fn require(&mut self, name: &str, shape: &[usize]) {
        if !self.has(name, shape) {
            self.missing.push(format!("{name} is missing"));
        }
    }

    /// Whether the source has `name`; another shape than `shape` is noted as a problem.
    pub fn has(&mut self, name: &str, shape: &[usize]) -> bool {
        let Some(meta) = self.source.meta(name) else {
            return false;
        };
        self.used.insert(name.to_owned());
        if meta.shape != shape {
            self.misshapen.push(format!(
                "{name} has shape {:?}, expected {shape:?}",
                meta.shape
            ));
        }
        true
    }

    /// The names of the tensors that are left out.
    pub fn finish(self, extra: Extra) -> Result<Vec<String>> {
        let names = self.source.names();
        let mut unknown: Vec<_> = names
            .filter(|name| !self.used.contains(*name))
            .map(str::to_owned)
            .collect();
        unknown.sort();
        let fits = self.missing.is_empty() && self.misshapen.is_empty();
        match fits && (unknown.is_empty() || extra == Extra::Ignore) {
            true => Ok(unknown),
            false => Err(self.error(&unknown)),
        }
    }

    fn error(&self, unknown: &[String]) -> Error {
        let n = self.missing.len() + self.misshapen.len() + unknown.len();
        let mut message = format!("{n} tensors do not fit the model's configuration:");
        let unknown_lines: Vec<_> = unknown
            .iter()
            .map(|name| format!("{name} is not part of such a model"))
            .collect();
        for lines in [&self.missing, &self.misshapen, &unknown_lines] {
            for line in lines.iter().take(MAX_LISTED) {
                message += &format!("\n  {line}");
            }
            if lines.len() > MAX_LISTED {
                message += &format!("\n  and {} more like this", lines.len() - MAX_LISTED);
            }
        }
        match self.way_out(unknown) {
            Some(way_out) => Error::model(format!("{message}\n{way_out}")),
            None => Error::model(message),
        }
    }

    fn way_out(&self, unknown: &[String]) -> Option<String> {
        let any = |parts: &[&str]| {
            let mut names = unknown.iter();
            names.any(|name| parts.iter().any(|part| name.contains(part)))
        };
        if any(&[".lora_A.", ".base_layer."]) {
            return Some(
                "an adapter is in it that is not merged; merge it (PEFT's merge_and_unload) and \
                 save the model again"
                    .to_owned(),
            );
        }
        if any(&[".qweight", ".SCB", ".absmax", ".quant_map", ".weight_scale"]) {
            return Some(
                "the checkpoint is quantized; take the one of 16 bits that it was made from"
                    .to_owned(),
            );
        }
        if self.missing.is_empty() {
            let only_unknown = self.misshapen.is_empty();
            return only_unknown
                .then(|| "--ignore-extra leaves out what is not part of the model".to_owned());
        }
        common_prefix(self.source.names()).map(|prefix| {
            format!(
                "all names of the checkpoint begin with '{prefix}', which is none of the wrappers \
                 that are known; rename the tensors"
            )
        })
    }
}

/// The whole parts that all names begin with, if there are several names.
fn common_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut prefix = names.next()?;
    let mut n_names = 1;
    for name in names {
        let same = prefix.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
        let common = prefix.floor_char_boundary(same.count());
        let end = prefix[..common].rfind('.').map_or(0, |dot| dot + 1);
        prefix = &prefix[..end];
        n_names += 1;
    }
    (n_names > 1 && !prefix.is_empty()).then(|| prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefixes_are_whole_parts() {
        let common = |names: &[&str]| common_prefix(names.iter().copied());
        assert_eq!(
            common(&["net.model.a", "net.model.b", "net.lm"]).unwrap(),
            "net."
        );
        assert_eq!(common(&["model.a", "mod.b"]), None);
        assert_eq!(common(&["nét.a", "nèt.b"]), None);
        assert_eq!(common(&["net.a"]), None);
        assert_eq!(common(&[]), None);
    }
}
