//! A scene: painted, photographed, and what is seen of each thing.

use maskmill_masks::{BoxPx, ImageSize, Rle};
use maskmill_pixels::RgbImage;

use crate::arrange::{Placed, arrange};
use crate::background;
use crate::camera::Camera;
use crate::canvas::{Canvas, Coat};
use crate::colour::{Colour, mix};
use crate::field::{Field, Pose};
use crate::light::Light;
use crate::masks::masks;
use crate::options::SceneOptions;
use crate::parts::Part;
use crate::phrase::SizeClass;
use crate::random::Random;
use crate::shape::Shape;
use crate::texture::{Surface, Texture};
use crate::thing::apart;

/// An image and everything that can be told apart in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The image.
    pub image: RgbImage,
    /// Its objects, from the back to the front; an object's parts come after it. May be empty.
    pub objects: Vec<SceneObject>,
}

/// A whole, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneObject {
    /// The visible pixels, at the size of the image: those whose centres lie inside the object and in front of which nothing
    /// else lies. Never empty. Includes the visible parts of the object, and theirs.
    pub mask: Rle,
    /// The smallest box around the mask, in pixels.
    pub bounds: BoxPx,
    /// Pixels of the mask.
    pub area: u64,
    /// The index in [`Scene::objects`] of the smallest listed object that this is a part of; it is below the object's own.
    pub part_of: Option<usize>,
    /// The name of the mean colour of the mask in the image, where no listed part covers it; of the whole mask if parts cover all.
    pub colour: Colour,
    /// The pattern of its surface.
    pub texture: Texture,
    /// Its outline, as it would be seen if nothing was in front of it.
    pub shape: Shape,
    /// The class of its area.
    pub size: SizeClass,
}

/// A part that covers more of its whole's visible pixels is not told apart from it.
const MAX_SHARE_OF_WHOLE: f64 = 0.92;

impl SceneOptions {
    /// The scene of a seed: a pure function of the options and the seed, bit for bit, on every platform.
    ///
    /// # Panics
    /// If the options have [`problems`](Self::problems).
    pub fn scene(&self, seed: u64) -> Scene {
        if let Some(problem) = self.problems().first() {
            panic!("options that no scene can be made of: {problem}");
        }
        let mut random = Random::new(seed);
        let size = ImageSize::new(
            random.int(*self.height.start(), *self.height.end()),
            random.int(*self.width.start(), *self.width.end()),
        );
        let light = Light::random(&mut random.fork());
        let camera = Camera::random(&mut random.fork());
        let mut canvas = Canvas::new(size);
        background::paint(&mut random.fork(), &mut canvas, &light);
        let mut painter = Painter {
            canvas,
            light,
            painted: Vec::new(),
        };
        for placed in arrange(&mut random.fork(), self, size) {
            painter.whole(&placed);
        }
        let Painter {
            mut canvas,
            painted,
            ..
        } = painter;
        let owners = std::mem::take(&mut canvas.owners);
        let data = camera.take(canvas);
        let objects = objects(self.min_area(size), size, &owners, &painted, &data);
        let image = RgbImage::new(size, data).expect("every side is at least 8 pixels");
        Scene { image, objects }
    }
}

/// What is known of a thing when it is painted.
struct Painted {
    part_of: Option<u16>,
    shape: Shape,
    texture: Texture,
}

struct Painter {
    canvas: Canvas,
    light: Light,
    painted: Vec<Painted>,
}

impl Painter {
    fn whole(&mut self, placed: &Placed) {
        let Placed {
            thing,
            pose,
            radius,
            low_contrast,
        } = placed;
        let image = self.canvas.window();
        let ([dx, dy], softness) = self.light.shadow_of(*radius);
        let (limit, fringe) = if self.light.shadow > 0.0 {
            (image.grow(dx.abs().max(dy.abs())), softness)
        } else {
            (image, 0.0)
        };
        let rough_px = thing.rough.map_or(0.0, |(_, amplitude)| amplitude);
        let mut field = Field::of(
            &thing.outline,
            pose,
            fringe.max(thing.edge_px) + rough_px,
            limit,
        );
        if let Some((noise, amplitude)) = &thing.rough {
            field.roughen(noise, *amplitude);
        }
        if self.light.shadow > 0.0 {
            self.canvas.shade(&field, &self.light);
        }

        let behind = self.canvas.mean_under(&field);
        let mut surface = thing.surface.clone();
        surface.base = if *low_contrast {
            mix(surface.base, behind, 0.8)
        } else {
            apart(surface.base, behind)
        };
        let owner = self.number(None, thing.shape, surface.texture);
        self.parts(&thing.parts, true, &field, pose, owner);
        self.canvas.paint(
            &Coat {
                field: &field,
                pose,
                surface: &surface,
                relief: thing.relief,
                edge_px: thing.edge_px,
                owner,
            },
            &self.light,
        );
        self.parts(&thing.parts, false, &field, pose, owner);
    }

    /// Paints those of the parts that are behind their whole, or those that are not.
    fn parts(&mut self, parts: &[Part], behind: bool, whole: &Field, pose: &Pose, part_of: u16) {
        for part in parts
            .iter()
            .filter(|part| part.region.is_behind() == behind)
        {
            let (field, pose) = part.region.field(whole, pose, self.canvas.window());
            let owner = self.number(Some(part_of), part.shape, part.surface.texture);
            let surface: &Surface = &part.surface;
            self.canvas.paint(
                &Coat {
                    field: &field,
                    pose: &pose,
                    surface,
                    relief: part.relief,
                    edge_px: 1.0,
                    owner,
                },
                &self.light,
            );
            self.parts(&part.parts, false, &field, &pose, owner);
        }
    }

    fn number(&mut self, part_of: Option<u16>, shape: Shape, texture: Texture) -> u16 {
        let number =
            u16::try_from(self.painted.len()).expect("1000 wholes have fewer parts than 65 each");
        self.painted.push(Painted {
            part_of,
            shape,
            texture,
        });
        number
    }
}

/// The objects that are seen of what was painted.
///
/// # Shapes
/// - `owners`: `[height, width]`, row-major, indices into `painted`
/// - `data`: `[height, width, 3]`, the image
fn objects(
    min_area: u64,
    size: ImageSize,
    owners: &[u16],
    painted: &[Painted],
    data: &[u8],
) -> Vec<SceneObject> {
    let parents: Vec<Option<u16>> = painted.iter().map(|thing| thing.part_of).collect();
    let masks = masks(size, owners, &parents);
    let areas: Vec<u64> = masks.iter().map(Rle::area).collect();

    // Per painted thing, the listed object that its pixels belong to first. A part comes after its whole.
    let mut listed: Vec<Option<usize>> = Vec::with_capacity(painted.len());
    let mut objects: Vec<SceneObject> = Vec::new();
    for ((thing, mask), &area) in painted.iter().zip(masks).zip(&areas) {
        let whole = thing.part_of.and_then(|whole| listed[usize::from(whole)]);
        let same = whole
            .is_some_and(|whole| area as f64 > MAX_SHARE_OF_WHOLE * objects[whole].area as f64);
        if area < min_area || same {
            listed.push(whole);
            continue;
        }
        listed.push(Some(objects.len()));
        objects.push(SceneObject {
            bounds: mask.bounds(),
            mask,
            area,
            part_of: whole,
            // Known when the pixels are counted.
            colour: Colour::Gray,
            texture: thing.texture,
            shape: thing.shape,
            size: SizeClass::of(area, size),
        });
    }
    let colours = mean_colours(owners, &listed, &objects, data);
    for (object, colour) in objects.iter_mut().zip(colours) {
        object.colour = Colour::of(colour);
    }
    objects
}

/// The mean colour of each object's pixels that belong to none of its parts; of all its pixels if there are none such.
fn mean_colours(
    owners: &[u16],
    listed: &[Option<usize>],
    objects: &[SceneObject],
    data: &[u8],
) -> Vec<[u8; 3]> {
    let mut own = vec![Sum::default(); objects.len()];
    for (&owner, pixel) in owners.iter().zip(data.chunks_exact(3)) {
        if let Some(object) = listed.get(usize::from(owner)).copied().flatten() {
            own[object].add(pixel);
        }
    }
    let mut all = own.clone();
    for index in (0..objects.len()).rev() {
        if let Some(whole) = objects[index].part_of {
            let part = all[index];
            all[whole].join(part);
        }
    }
    own.iter()
        .zip(&all)
        .map(|(own, all)| {
            if own.pixels > 0 {
                own.mean()
            } else {
                all.mean()
            }
        })
        .collect()
}

#[derive(Clone, Copy, Default)]
struct Sum {
    channels: [u64; 3],
    pixels: u64,
}

impl Sum {
    fn add(&mut self, pixel: &[u8]) {
        for (sum, &channel) in self.channels.iter_mut().zip(pixel) {
            *sum += u64::from(channel);
        }
        self.pixels += 1;
    }

    fn join(&mut self, other: Self) {
        for (sum, channel) in self.channels.iter_mut().zip(other.channels) {
            *sum += channel;
        }
        self.pixels += other.pixels;
    }

    /// Rounded to the nearest; there is a pixel.
    fn mean(&self) -> [u8; 3] {
        self.channels
            .map(|sum| ((sum + self.pixels / 2) / self.pixels) as u8)
    }
}
