//! What a checkpoint is, told by its tensors: each layout that people have, under any name and wrapper.

use std::path::{Path, PathBuf};

use maskmill_weights::{Checkpoint, ModelKind};
use safetensors::SafeTensors;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn checkpoints() -> [(PathBuf, ModelKind, &'static str); 7] {
    let grounding = root().join("tests/reference/fixtures/grounding");
    let of = |name: &str, kind, setting| (grounding.join(name), kind, setting);
    [
        (
            root().join("models/sam-seeded-tiny.safetensors"),
            ModelKind::Sam,
            "model.checkpoint",
        ),
        of(
            "clip-small/model.safetensors",
            ModelKind::Clip,
            "model.labeller",
        ),
        of(
            "clip-small-gelu/pytorch_model.bin",
            ModelKind::Clip,
            "model.labeller",
        ),
        of(
            "openclip-small/open_clip_model.safetensors",
            ModelKind::OpenClip,
            "model.labeller",
        ),
        of(
            "openclip-small-quick/open_clip_pytorch_model.bin",
            ModelKind::OpenClip,
            "model.labeller",
        ),
        of(
            "owlvit-small/model.safetensors",
            ModelKind::OwlVit,
            "model.detector",
        ),
        of(
            "owlv2-small/model.safetensors",
            ModelKind::Owlv2,
            "model.detector",
        ),
    ]
}

#[test]
fn every_layout_is_told_apart() {
    for (path, kind, setting) in checkpoints() {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(ModelKind::of(&checkpoint), kind, "{}", path.display());
        assert_eq!(kind.belongs_in(), Some(setting));
    }
}

/// Training code wraps models; CLIP's tensors are also part of a detector's, under a prefix that must stay.
#[test]
fn a_wrapper_does_not_hide_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let wrapped = folder.path().join("weights");
    for (path, kind, _) in checkpoints() {
        if path
            .extension()
            .is_none_or(|extension| extension != "safetensors")
        {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let views = tensors
            .iter()
            .map(|(name, view)| (format!("module.net.{name}"), view));
        std::fs::write(&wrapped, safetensors::serialize(views, None).unwrap()).unwrap();
        let (wrapped, plain) = (
            Checkpoint::open(&wrapped).unwrap(),
            Checkpoint::open(&path).unwrap(),
        );
        assert_eq!(ModelKind::of(&wrapped), kind, "{}", path.display());
        assert!(wrapped.shapes().eq(plain.shapes()), "{}", path.display());
    }
}
