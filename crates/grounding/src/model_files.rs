//! What stands beside a trained detector's weights, so that [`Owl::load`](crate::Owl::load) and `transformers` read it.

use std::io;
use std::path::{Path, PathBuf};

use maskmill_weights::write_whole;
use serde_json::{Value, json};

use crate::byte_pairs::BytePairs;
use crate::owl::OwlArchitecture;
use crate::pixel_values::{CLIP_MEAN, CLIP_STD};
use crate::tokenizer::{END, START};
use crate::transformer::{Activation, TransformerSizes};

/// Writes `config.json`, `preprocessor_config.json`, `vocab.json`, `merges.txt`, `tokenizer_config.json` and
/// `special_tokens_map.json` of an OWLv2 into `folder`, each whole.
///
/// # Errors
/// The file that cannot be written and the operating system's reason.
///
/// # Panics
/// If the model has another number of tokens than the vocabulary.
pub fn write_model_files(
    folder: &Path,
    architecture: &OwlArchitecture,
    byte_pairs: &BytePairs,
) -> Result<(), (PathBuf, io::Error)> {
    assert_eq!(
        architecture.text.vocabulary,
        byte_pairs.size(),
        "tokens of the model"
    );
    let pretty = |value: Value| format!("{value:#}\n");
    let files = [
        ("config.json", pretty(configuration(architecture))),
        ("preprocessor_config.json", pretty(processor(architecture))),
        ("vocab.json", byte_pairs.vocabulary_file()),
        ("merges.txt", byte_pairs.merges_file()),
        ("tokenizer_config.json", pretty(tokenizer(architecture))),
        ("special_tokens_map.json", pretty(special_tokens())),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        write_whole(&path, text.as_bytes()).map_err(|error| (path, error))?;
    }
    Ok(())
}

/// `Owlv2Config`.
fn configuration(architecture: &OwlArchitecture) -> Value {
    let tower = |sizes: &TransformerSizes| {
        json!({
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp_dim,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "hidden_act": match sizes.activation {
                Activation::QuickGelu => "quick_gelu",
                Activation::Gelu => "gelu",
            },
        })
    };
    let (text, image) = (&architecture.text, &architecture.image);
    let mut text_config = tower(&text.transformer);
    text_config["model_type"] = "owlv2_text_model".into();
    text_config["vocab_size"] = text.vocabulary.into();
    text_config["max_position_embeddings"] = text.context.into();
    text_config["bos_token_id"] = (text.vocabulary - 2).into();
    text_config["eos_token_id"] = (text.vocabulary - 1).into();
    text_config["pad_token_id"] = (text.vocabulary - 1).into();
    let mut vision_config = tower(&image.transformer);
    vision_config["model_type"] = "owlv2_vision_model".into();
    vision_config["image_size"] = image.image_size.into();
    vision_config["patch_size"] = image.patch_size.into();
    json!({
        "architectures": ["Owlv2ForObjectDetection"],
        "model_type": "owlv2",
        "projection_dim": text.embed_dim,
        "text_config": text_config,
        "vision_config": vision_config,
    })
}

/// `Owlv2ImageProcessor`.
fn processor(architecture: &OwlArchitecture) -> Value {
    let side = architecture.image.image_size;
    json!({
        "image_processor_type": "Owlv2ImageProcessor",
        "do_pad": true,
        "do_resize": true,
        "do_rescale": true,
        "do_normalize": true,
        "rescale_factor": 1.0 / 255.0,
        "resample": 2,
        "size": { "height": side, "width": side },
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    })
}

fn tokenizer(architecture: &OwlArchitecture) -> Value {
    let mut tokenizer = special_tokens();
    tokenizer["tokenizer_class"] = "CLIPTokenizer".into();
    tokenizer["model_max_length"] = architecture.text.context.into();
    tokenizer["do_lower_case"] = true.into();
    tokenizer
}

fn special_tokens() -> Value {
    json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END })
}
