//! What holds for every scene.

use std::collections::BTreeSet;

use maskmill_masks::{ImageSize, Rle};
use maskmill_scenes::{
    Colour, Scene, SceneObject, SceneOptions, Shape, SizeClass, Texture, VERSION,
};

fn of_size(height: u32, width: u32) -> SceneOptions {
    SceneOptions::of_size(ImageSize::new(height, width))
}

/// Sizes that are odd, wide, tall and tiny.
fn scenes() -> Vec<Scene> {
    let sizes = [
        (256, 256),
        (97, 333),
        (410, 63),
        (8, 8),
        (9, 500),
        (240, 321),
    ];
    sizes
        .into_iter()
        .flat_map(|(height, width)| (0..12).map(move |seed| of_size(height, width).scene(seed)))
        .collect()
}

#[test]
fn a_seed_is_a_scene() {
    let options = of_size(120, 170);
    assert_eq!(options.scene(5), options.scene(5));
    assert_ne!(options.scene(5).image, options.scene(6).image);
    let from_threads: Vec<Scene> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn({
                    let options = &options;
                    move || options.scene(seed)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (seed, scene) in (0..).zip(from_threads) {
        assert_eq!(scene, options.scene(seed));
    }
}

/// When this fails because scenes were changed on purpose, raise `VERSION` and take the new number.
#[test]
fn the_scenes_of_a_version_do_not_change() {
    // FNV-1a, over all that is drawn and said.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for seed in 0..8 {
        let scene = of_size(150, 220).scene(seed);
        scene.image.data().iter().for_each(|&byte| add(byte));
        for object in &scene.objects {
            let text = format!("{} {:?}", object.phrase(), object.part_of);
            text.bytes().for_each(&mut add);
            object
                .mask
                .counts()
                .iter()
                .flat_map(|count| count.to_le_bytes())
                .for_each(&mut add);
        }
    }
    assert_eq!((VERSION, hash), (1, 8_116_515_053_019_160_027));
}

#[test]
fn sizes_are_within_their_ranges() {
    let options = SceneOptions {
        height: 20..=40,
        width: 50..=53,
        ..SceneOptions::default()
    };
    let sizes: Vec<ImageSize> = (0..60)
        .map(|seed| options.scene(seed).image.size())
        .collect();
    assert!(
        sizes
            .iter()
            .all(|size| (20..=40).contains(&size.height) && (50..=53).contains(&size.width))
    );
    assert!((50..=53).all(|width| sizes.iter().any(|size| size.width == width)));
}

#[test]
fn masks_have_the_size_of_the_image_and_what_is_said_of_them_agrees() {
    for scene in scenes() {
        let size = scene.image.size();
        let fewest = 64.max((size.pixels() as f64 * 0.0002).ceil() as u64);
        for object in &scene.objects {
            assert_eq!(object.mask.size(), size);
            assert!(object.area >= fewest, "{}", object.phrase());
            let mask = object.mask.decode();
            assert_eq!(object.area, mask.area());
            assert_eq!(object.bounds, mask.bounds());
            assert_eq!(object.size, SizeClass::of(object.area, size));
        }
    }
}

#[test]
fn parts_lie_inside_their_wholes_and_come_after_them() {
    let mut parts = 0;
    for scene in scenes() {
        for (index, object) in scene.objects.iter().enumerate() {
            let Some(whole) = object.part_of else {
                continue;
            };
            assert!(whole < index);
            let whole = &scene.objects[whole];
            assert_eq!(object.mask.intersection_area(&whole.mask), Ok(object.area));
            assert!(object.area < whole.area);
            parts += 1;
        }
    }
    assert!(parts > 100, "{parts}");
}

/// Visible pixels belong to one thing: of two masks, one is a part of the other, or of the same whole, or they share nothing.
#[test]
fn only_wholes_and_their_parts_share_pixels() {
    for scene in scenes() {
        let is_part_of = |part: usize, whole: usize| {
            std::iter::successors(Some(part), |&index| scene.objects[index].part_of)
                .any(|index| index == whole)
        };
        for (b, object) in scene.objects.iter().enumerate() {
            for (a, earlier) in scene.objects[..b].iter().enumerate() {
                let shared = object.mask.intersection_area(&earlier.mask).unwrap();
                assert!(
                    shared == 0 || is_part_of(b, a),
                    "{} over {}",
                    object.phrase(),
                    earlier.phrase()
                );
            }
        }
    }
}

/// By a rule of its own, coarser than the one that names colours.
fn fits(colour: Colour, [r, g, b]: [f64; 3]) -> bool {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    match colour {
        Colour::Black => high < 66.0,
        Colour::Gray => high - low < 45.0 && high > 35.0,
        Colour::White => high > 200.0 && high - low < 50.0,
        Colour::Red | Colour::Brown | Colour::Orange => r >= g && r >= b,
        Colour::Beige => r > b && g > b && r > g * 0.97,
        Colour::Yellow => r > b && g > b,
        Colour::Green => g >= b && g > r * 0.85,
        Colour::Blue => b > r && g > r * 0.7,
        Colour::Purple | Colour::Pink => r > g && b > g * 0.7,
    }
}

#[test]
fn colour_words_are_true_of_the_image() {
    let mut named = std::collections::HashSet::new();
    for seed in 0..40 {
        let scene = of_size(200, 260).scene(seed);
        for (index, object) in scene.objects.iter().enumerate() {
            let parts = scene
                .objects
                .iter()
                .filter(|part| part.part_of == Some(index));
            let parts: Vec<&Rle> = parts.map(|part| &part.mask).collect();
            let Some(mean) =
                mean_colour(&scene, object, &parts).or_else(|| mean_colour(&scene, object, &[]))
            else {
                panic!("{} has no pixels", object.phrase());
            };
            assert!(fits(object.colour, mean), "{}: {mean:?}", object.phrase());
            assert!(object.phrase().contains(object.colour.word()));
            named.insert(object.colour);
        }
    }
    assert!(named.len() >= 10, "{named:?}");
}

/// Of the object's pixels that are in none of `without`.
fn mean_colour(scene: &Scene, object: &SceneObject, without: &[&Rle]) -> Option<[f64; 3]> {
    let mask = object.mask.decode();
    let without: Vec<_> = without.iter().map(|mask| mask.decode()).collect();
    let pixels = mask
        .as_slice()
        .iter()
        .enumerate()
        .filter(|&(index, &inside)| inside && without.iter().all(|mask| !mask.as_slice()[index]));
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (index, _) in pixels {
        for (channel, sum) in sum.iter_mut().enumerate() {
            *sum += f64::from(scene.image.data()[index * 3 + channel]);
        }
        count += 1.0;
    }
    (count > 0.0).then(|| sum.map(|sum| sum / count))
}

#[test]
fn scenes_are_varied() {
    let scenes: Vec<Scene> = (0..60).map(|seed| of_size(192, 256).scene(seed)).collect();
    let objects: Vec<&SceneObject> = scenes.iter().flat_map(|scene| &scene.objects).collect();
    let share = |wanted: &dyn Fn(&SceneObject) -> bool| {
        objects.iter().filter(|object| wanted(object)).count() as f64 / objects.len() as f64
    };
    assert!(objects.len() > 500, "{}", objects.len());
    assert!((0.1..0.6).contains(&share(&|object| object.part_of.is_some())));
    assert!(share(&|object| object.size == SizeClass::Small) > 0.3);
    assert!(share(&|object| object.size == SizeClass::Large) > 0.03);
    assert!((0.3..0.8).contains(&share(&|object| object.texture == Texture::Plain)));
    for texture in Texture::ALL {
        assert!(
            share(&|object| object.texture == texture) > 0.01,
            "{texture}"
        );
    }
    let huge = |scene: &&Scene| {
        scene
            .objects
            .iter()
            .any(|object| object.area * 10 > scene.image.size().pixels() * 3)
    };
    assert!((6..40).contains(&scenes.iter().filter(huge).count()));
}

#[test]
fn objects_have_the_shapes_the_textures_and_the_size_that_are_asked_for() {
    let plain = SceneOptions {
        objects: 1..=1,
        shapes: vec![Shape::Star, Shape::Disc],
        parts: 0.0,
        ..of_size(200, 300)
    };
    assert_eq!(plain.possible_shapes(), [Shape::Star, Shape::Disc]);
    let with_parts = SceneOptions {
        parts: 1.0,
        ..plain.clone()
    };
    assert_eq!(with_parts.possible_shapes(), Shape::ALL);
    let seen = |options: &SceneOptions| -> BTreeSet<&str> {
        let objects = (0..60).flat_map(|seed| options.scene(seed).objects);
        objects.map(|object| object.shape.word()).collect()
    };
    assert_eq!(seen(&plain), BTreeSet::from(["disc", "star"]));
    assert!(seen(&with_parts).contains("section"));

    let dotted = SceneOptions {
        textures: vec![Texture::Dotted],
        radius: 0.2..=0.2,
        ..plain.clone()
    };
    assert_eq!(dotted.possible_textures(), [Texture::Dotted]);
    assert_eq!(with_parts.possible_textures(), Texture::ALL);
    for object in (0..20).flat_map(|seed| dotted.scene(seed).objects) {
        assert_eq!(object.texture, Texture::Dotted);
    }

    // A disc's area, without what lies outside the image; some scenes have a larger thing first.
    let areas = |radius: f32| {
        let options = SceneOptions {
            radius: radius..=radius,
            shapes: vec![Shape::Disc],
            ..plain.clone()
        };
        let of_scene = move |seed| options.scene(seed).objects.first().map(|o| o.area);
        (0..60).filter_map(of_scene).collect::<Vec<u64>>()
    };
    let disc = |radius: f64| std::f64::consts::PI * radius * radius * 60_000.0;
    for radius in [0.05, 0.2] {
        // Each thing's radius is its own by a factor of 1.4 at most.
        let near = |area: &&u64| (0.5..2.0).contains(&(**area as f64 / disc(radius)));
        let areas = areas(radius as f32);
        assert!(
            areas.iter().filter(near).count() >= 25,
            "{radius}: {areas:?}"
        );
        let most = *areas.iter().max().unwrap() as f64;
        assert!(most > disc(0.26) * 0.9 && most < disc(0.45) * 2.0, "{most}");
    }
}

#[test]
fn a_scene_may_be_empty() {
    let options = SceneOptions {
        objects: 0..=0,
        ..of_size(32, 48)
    };
    assert_eq!(options.scene(1).objects, []);
}

#[test]
#[should_panic(expected = "width = 0..=0 is not within 8..=8192")]
fn invalid_options_make_no_scene() {
    of_size(16, 0).scene(0);
}
