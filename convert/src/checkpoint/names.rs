//! Names of a checkpoint's tensors without what programs that wrapped the model put around them,
//! and the name of the model itself.

use std::path::Path;

/// Parts of names that stand for a wrapper (torch.compile, DeepSpeed, FSDP), wherever they are.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// What DistributedDataParallel puts before all names.
const PARALLEL: &str = "module.";

/// The names that the model itself has for its tensors.
pub(crate) fn unwrapped(names: &[String]) -> Vec<String> {
    let names: Vec<_> = names.iter().map(|name| without_wrappers(name)).collect();
    without_peft(&names)
}

/// A name without the wrappers of training programs; what PEFT puts around it stays.
pub(crate) fn without_wrappers(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    let name = parts.collect::<Vec<_>>().join(".");
    let mut rest = name.as_str();
    while let Some(inner) = rest.strip_prefix(PARALLEL) {
        rest = inner;
    }
    rest.to_owned()
}

/// The reference's renaming of what was saved from inside PEFT's model: `base_model.` is dropped, and then one
/// `model.` from every name if any begins with two.
fn without_peft(names: &[String]) -> Vec<String> {
    let without = |prefix: &str, name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
    let names: Vec<_> = names
        .iter()
        .map(|name| without("base_model.", name))
        .collect();
    if names.iter().any(|name| name.starts_with("model.model.")) {
        names.iter().map(|name| without("model.", name)).collect()
    } else {
        names
    }
}

/// The reference's `get_model_name_from_path`, but that a folder of the hub's cache, which is called by the
/// commit's hash, has the name of its repository.
pub(super) fn of_model(dir: &Path) -> String {
    // Resolves `.`; where that fails the path is as good as any.
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut around = dir.ancestors().map(|path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    });
    let mut next = || around.next().unwrap_or_default();
    let (name, parent, grandparent) = (next(), next(), next());
    let repository = grandparent.strip_prefix("models--");
    match repository.and_then(|name| name.rsplit("--").next()) {
        Some(repository) if parent == "snapshots" && !repository.is_empty() => {
            repository.to_owned()
        }
        _ if name.starts_with("checkpoint-") && !parent.is_empty() => format!("{parent}_{name}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_leave_the_models_own_names() {
        let own = [
            "model.layers.0.self_attn.q_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ];
        let with = |prefix: &str| own.map(|name| format!("{prefix}{name}"));
        for prefix in [
            "",
            "module.",
            "module.module.",
            "_orig_mod.",
            "_forward_module.",
            "_orig_mod.module.",
            "module._orig_mod.",
            "_fsdp_wrapped_module.",
            "base_model.model.",
            "module.base_model.model.",
            "model.",
        ] {
            assert_eq!(unwrapped(&with(prefix)), own, "{prefix}");
        }
        let inside = "model.layers.0._checkpoint_wrapped_module.self_attn._orig_mod.q_proj.weight";
        assert_eq!(unwrapped(&[inside.to_owned()]), own[..1]);
        assert_eq!(unwrapped(&["other.x".to_owned()]), ["other.x"]);
    }

    #[test]
    fn models_are_called_by_their_folders() {
        let root = tempfile::tempdir().unwrap();
        for (path, name) in [
            ("plain", "plain"),
            ("tune/checkpoint-20", "tune_checkpoint-20"),
            ("models--MAGAer13--mplug-owl2/snapshots/f00d", "mplug-owl2"),
            ("models--gpt2/snapshots/f00d", "gpt2"),
            ("elsewhere/snapshots/f00d", "f00d"),
        ] {
            let dir = root.path().join(path);
            std::fs::create_dir_all(&dir).unwrap();
            assert_eq!(of_model(&dir), name);
            assert_eq!(of_model(&dir.join(".")), name);
        }
    }
}
