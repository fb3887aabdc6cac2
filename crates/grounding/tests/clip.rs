//! CLIP against transformers and OpenCLIP: four seeded checkpoints, in the layouts that people have.

mod support;

use maskmill_grounding::{
    Activation, Clip, ClipInput, Embeddings, ImageSizes, TextSizes, TransformerSizes,
};

use support::clip::check_clip;
use support::{Inputs, channels_first, fixture, fixtures, load_clip, photos};

fn transformer(
    width: usize,
    layers: usize,
    heads: usize,
    mlp_dim: usize,
    activation: Activation,
) -> TransformerSizes {
    TransformerSizes {
        width,
        layers,
        heads,
        mlp_dim,
        activation,
    }
}

/// Parity, and the sizes that must have been read for it.
fn check(name: &str, image: (usize, usize, TransformerSizes), text: (TransformerSizes, usize)) {
    let clip = check_clip(&fixtures(), name);
    let (image_size, patch_size, transformer) = image;
    let expected = ImageSizes {
        image_size,
        patch_size,
        transformer,
    };
    assert_eq!(clip.architecture().image, expected);
    let (transformer, embed_dim) = text;
    let expected = TextSizes {
        vocabulary: 1314,
        context: 77,
        transformer,
        embed_dim,
    };
    assert_eq!(clip.architecture().text, expected);
}

/// A sparse `config.json`; `vocab.json` and `merges.txt`.
#[test]
fn transformers_safetensors() {
    let quick = Activation::QuickGelu;
    check(
        "clip-small",
        (64, 16, transformer(64, 3, 4, 128, quick)),
        (transformer(48, 3, 4, 96, quick), 40),
    );
}

/// `pytorch_model.bin` with buffers, GELU, and values in the configuration that mean nothing.
#[test]
fn transformers_bin() {
    let gelu = Activation::Gelu;
    check(
        "clip-small-gelu",
        (32, 8, transformer(56, 2, 7, 144, gelu)),
        (transformer(40, 2, 5, 96, gelu), 24),
    );
}

/// OpenCLIP's keys; heads by their width, MLPs of other ratios.
#[test]
fn open_clip_safetensors() {
    let gelu = Activation::Gelu;
    check(
        "openclip-small",
        (64, 16, transformer(64, 2, 4, 160, gelu)),
        (transformer(48, 2, 3, 144, gelu), 40),
    );
}

#[test]
fn open_clip_bin() {
    let quick = Activation::QuickGelu;
    check(
        "openclip-small-quick",
        (48, 8, transformer(48, 2, 4, 144, quick)),
        (transformer(40, 2, 2, 160, quick), 32),
    );
}

/// The published size, from photos that are shrunk and one that is enlarged: byte for byte.
#[test]
fn pixels_at_the_published_size() {
    let (inputs, tensors) = Inputs::open("clip");
    assert_eq!(inputs.image_size, 224);
    for case in inputs.cases() {
        let input = ClipInput::new(&case.image, inputs.image_size);
        let (_, expected) = tensors.bytes(&format!("{}/pixels_u8", case.name));
        assert!(
            inputs.kept(input.pixels().data()) == expected,
            "{}",
            case.name
        );
    }
}

/// A side of one pixel, and images as small as the model's: nothing is lost or divided by zero.
#[test]
fn images_of_any_shape_are_prepared() {
    use maskmill_masks::ImageSize;
    use maskmill_pixels::RgbImage;
    for (height, width) in [(1, 1), (1, 40), (300, 1), (32, 32), (33, 32), (31, 57)] {
        let data = vec![90; height as usize * width as usize * 3];
        let image = RgbImage::new(ImageSize::new(height, width), data).unwrap();
        let input = ClipInput::new(&image, 32);
        assert_eq!(input.pixels().size(), ImageSize::new(32, 32));
        assert!(
            channels_first(input.pixels().data())
                .iter()
                .all(|&v| v == 90)
        );
    }
}

const MODELS: [&str; 4] = [
    "clip-small",
    "clip-small-gelu",
    "openclip-small",
    "openclip-small-quick",
];

/// Bit for bit: rows of a job must not depend on what else is in a batch.
#[test]
fn a_batch_of_images_is_as_one_by_one() {
    for name in MODELS {
        let clip = load_clip(&fixture(name));
        let side = clip.architecture().image.image_size;
        let inputs = photos().map(|photo| ClipInput::new(&photo, side));
        let [cat, coffee, dogs] = &inputs;
        let alone: Vec<Embeddings> = inputs
            .iter()
            .map(|input| clip.embed_images(&[input]))
            .collect();
        let batches: [&[(&ClipInput, usize)]; 3] = [
            &[(cat, 0), (coffee, 1), (dogs, 2)],
            &[(dogs, 2), (cat, 0)],
            &[
                (cat, 0),
                (cat, 0),
                (dogs, 2),
                (coffee, 1),
                (dogs, 2),
                (cat, 0),
                (coffee, 1),
            ],
        ];
        for batch in batches {
            let images: Vec<&ClipInput> = batch.iter().map(|(input, _)| *input).collect();
            let together = clip.embed_images(&images);
            for (row, (_, index)) in together.rows().zip(batch) {
                assert_eq!(row, alone[*index].values(), "{name}, photo {index}");
            }
        }
    }
}

fn embed(clip: &Clip, texts: &[&str]) -> Embeddings {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    clip.text_encoder().embed(&texts).0
}

/// Bit for bit, whatever the other texts, their lengths and their order.
#[test]
fn a_text_s_embedding_does_not_depend_on_the_others() {
    const TEXTS: [&str; 9] = [
        "",
        "cat",
        "dog",
        "red",
        "a photo of a cat",
        "a photo of a dog",
        "two dogs at a balcony",
        "the sky, the sea & the street",
        "a very long text about nothing in particular and something else",
    ];
    for name in MODELS {
        let clip = load_clip(&fixture(name));
        let alone: Vec<Embeddings> = TEXTS.iter().map(|text| embed(&clip, &[text])).collect();
        let mut order: Vec<usize> = (0..TEXTS.len()).collect();
        for turn in 0..TEXTS.len() {
            order.rotate_left(turn);
            order.reverse();
            // Some texts, each several times: more than one batch of a length.
            let some = &order[..1 + turn];
            let chosen: Vec<usize> = some.repeat(1 + 17 * (turn % 2) * (turn % 3));
            let texts: Vec<&str> = chosen.iter().map(|&index| TEXTS[index]).collect();
            let together = embed(&clip, &texts);
            assert_eq!(together.count(), texts.len());
            for (row, index) in together.rows().zip(chosen) {
                assert_eq!(row, alone[index].values(), "{name}: {:?}", TEXTS[index]);
            }
        }
    }
}
