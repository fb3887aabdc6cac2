//! Phrases for objects.

use std::fmt;

use maskmill_masks::ImageSize;

use crate::{Colour, SceneObject, Shape, Texture};

/// How large an object is in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeClass {
    /// Less than 1 % of the image's pixels.
    Small,
    /// 1 to 10 %.
    Medium,
    /// 10 % and more.
    Large,
}

impl SizeClass {
    /// The class of `area` pixels in an image of `image`.
    pub fn of(area: u64, image: ImageSize) -> Self {
        let pixels = image.pixels();
        if area * 100 < pixels {
            SizeClass::Small
        } else if area * 10 < pixels {
            SizeClass::Medium
        } else {
            SizeClass::Large
        }
    }

    /// The adjective of phrases; medium has none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            SizeClass::Small => Some("small"),
            SizeClass::Medium => None,
            SizeClass::Large => Some("large"),
        }
    }
}

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word().unwrap_or("medium"))
    }
}

impl SceneObject {
    /// Everything that is said of the object: `a small red striped disc`.
    pub fn phrase(&self) -> String {
        let words = [
            self.size.word(),
            Some(self.colour.word()),
            self.texture.word(),
            Some(self.shape.word()),
        ];
        with_article(words)
    }

    /// The phrase and all shorter ones, without repetitions, the longest first and the bare noun last: `a small red striped disc`, `a
    /// red striped disc`, `a red disc`, `a striped disc`, `a disc`.
    pub fn phrases(&self) -> Vec<String> {
        let (size, colour) = (self.size.word(), Some(self.colour.word()));
        let (texture, shape) = (self.texture.word(), Some(self.shape.word()));
        let mut phrases = vec![
            with_article([size, colour, texture, shape]),
            with_article([None, colour, texture, shape]),
            with_article([None, colour, None, shape]),
            with_article([None, None, texture, shape]),
            with_article([None, None, None, shape]),
        ];
        if self.texture == Texture::Plain {
            // The fourth is the fifth then, and the second the third.
            phrases.remove(3);
        }
        phrases.dedup();
        phrases
    }
}

/// The phrase for things of these kinds, as [`SceneObject::phrases`] has it: `a red striped disc`. What is usual, medium size
/// and a plain surface, is not said.
pub fn phrase(size: SizeClass, colour: Option<Colour>, texture: Texture, shape: Shape) -> String {
    let colour = colour.map(Colour::word);
    with_article([size.word(), colour, texture.word(), Some(shape.word())])
}

/// Every word that phrases are made of, sorted.
pub fn words() -> Vec<&'static str> {
    let sizes = [SizeClass::Small, SizeClass::Medium, SizeClass::Large];
    let sizes = sizes.into_iter().filter_map(SizeClass::word);
    let colours = Colour::ALL.into_iter().map(Colour::word);
    let textures = Texture::ALL.into_iter().filter_map(Texture::word);
    let shapes = Shape::ALL.into_iter().flat_map(|s| s.word().split(' '));
    let mut words: Vec<&str> = ["a", "an"].into_iter().collect();
    words.extend(sizes.chain(colours).chain(textures).chain(shapes));
    words.sort_unstable();
    words.dedup();
    words
}

fn with_article(words: [Option<&str>; 4]) -> String {
    let words: Vec<&str> = words.into_iter().flatten().collect();
    let vowel = words[0].starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {}", if vowel { "an" } else { "a" }, words.join(" "))
}

#[cfg(test)]
mod tests {
    use maskmill_masks::{BoxPx, Rle};

    use super::*;

    fn object(size: SizeClass, colour: Colour, texture: Texture, shape: Shape) -> SceneObject {
        SceneObject {
            mask: Rle::empty(ImageSize::new(1, 1)),
            bounds: BoxPx::EMPTY,
            area: 0,
            part_of: None,
            colour,
            texture,
            shape,
            size,
        }
    }

    #[test]
    fn phrases_get_shorter() {
        let disc = object(SizeClass::Small, Colour::Red, Texture::Striped, Shape::Disc);
        assert_eq!(disc.phrase(), "a small red striped disc");
        assert_eq!(
            disc.phrases(),
            [
                "a small red striped disc",
                "a red striped disc",
                "a red disc",
                "a striped disc",
                "a disc"
            ]
        );
    }

    #[test]
    fn phrases_of_kinds_are_those_of_objects_and_of_known_words() {
        let (size, colour) = (SizeClass::Large, Colour::Orange);
        let (texture, shape) = (Texture::Dotted, Shape::RoundedRectangle);
        let of = object(size, colour, texture, shape);
        assert_eq!(phrase(size, Some(colour), texture, shape), of.phrase());
        let phrases = of.phrases();
        assert_eq!(phrase(SizeClass::Medium, None, texture, shape), phrases[3]);
        let words = words();
        for word in phrases.iter().flat_map(|phrase| phrase.split(' ')) {
            assert!(words.contains(&word), "{word}");
        }
        assert!(words.is_sorted() && words.len() == 2 + 2 + 12 + 6 + 19);
    }

    #[test]
    fn what_is_usual_is_not_said() {
        let oval = object(
            SizeClass::Medium,
            Colour::Orange,
            Texture::Plain,
            Shape::Oval,
        );
        assert_eq!(oval.phrases(), ["an orange oval", "an oval"]);
        let star = object(SizeClass::Large, Colour::Blue, Texture::Plain, Shape::Star);
        assert_eq!(
            star.phrases(),
            ["a large blue star", "a blue star", "a star"]
        );
    }

    #[test]
    fn size_classes_are_shares_of_the_image() {
        let image = ImageSize::new(100, 50);
        assert_eq!(SizeClass::of(49, image), SizeClass::Small);
        assert_eq!(SizeClass::of(50, image), SizeClass::Medium);
        assert_eq!(SizeClass::of(499, image), SizeClass::Medium);
        assert_eq!(SizeClass::of(500, image), SizeClass::Large);
    }
}
