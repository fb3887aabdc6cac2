//! What is behind everything.

use crate::canvas::{Canvas, Coat, NOBODY};
use crate::colour::{Rgb, mix, random_colour, scaled, vary};
use crate::field::{Field, Pose};
use crate::light::{Light, Relief};
use crate::noise::Noise;
use crate::outline::{Outline, dot};
use crate::random::{Random, hash_signed};
use crate::texture::{Surface, Texture};

/// Paints the whole canvas.
pub(crate) fn paint(random: &mut Random, canvas: &mut Canvas, light: &Light) {
    #[derive(Clone, Copy)]
    enum Kind {
        Wall,
        Ground,
        Patterned,
        Tiles,
        Horizon,
        Leaves,
    }
    match random.weighted(&[
        (Kind::Wall, 3.0),
        (Kind::Ground, 4.0),
        (Kind::Patterned, 2.0),
        (Kind::Tiles, 1.5),
        (Kind::Horizon, 2.5),
        (Kind::Leaves, 2.0),
    ]) {
        Kind::Wall => wall(random, canvas, 0),
        Kind::Ground => ground(random, canvas, 0),
        Kind::Patterned => patterned(random, canvas, light),
        Kind::Tiles => tiles(random, canvas),
        Kind::Horizon => horizon(random, canvas),
        Kind::Leaves => leaves(random, canvas, light),
    }
    if random.chance(0.4) {
        // Out of focus.
        canvas.blur(random.int(1, 8));
    }
}

/// The longer side, in pixels: what sizes of patterns are relative to.
fn span(canvas: &Canvas) -> f32 {
    canvas.size.width.max(canvas.size.height) as f32
}

/// Two colours from one end to the other, and a little grain, from row `from_y` on.
fn wall(random: &mut Random, canvas: &mut Canvas, from_y: i32) {
    let near = random_colour(random);
    let far = vary(random, near, 0.15);
    let direction = random.direction();
    let reach = span(canvas) * random.range(0.7, 1.5);
    let grain = random.log_range(0.01, 0.15);
    let noise = Noise {
        seed: random.noise_seed(),
        cell_px: [span(canvas) * random.log_range(0.02, 0.5); 2],
        octaves: random.int(1, 6),
        gain: random.range(0.4, 0.8),
    };
    let mut window = canvas.window();
    window.y0 = from_y;
    let values = noise.sample(window);
    fill(canvas, from_y, |x, y| {
        let t = (dot([x as f32, y as f32], direction) / reach + 0.5).clamp(0.0, 1.0);
        scaled(mix(near, far, t), 1.0 + grain * values[window.index(x, y)])
    });
}

/// Three colours by two fractal noises: soil, grass, stone, clouds.
fn ground(random: &mut Random, canvas: &mut Canvas, from_y: i32) {
    let base = random_colour(random);
    let colours = [
        base,
        vary(random, base, 0.14),
        vary(random, scaled(base, 0.6), 0.08),
    ];
    let coarse = span(canvas) * random.log_range(0.03, 0.5);
    let stretch = if random.chance(0.3) {
        random.range(2.0, 6.0)
    } else {
        1.0
    };
    let mut window = canvas.window();
    window.y0 = from_y;
    let mut noise = |cell: f32, octaves: u32| {
        Noise {
            seed: random.noise_seed(),
            cell_px: [cell * stretch, cell],
            octaves,
            gain: random.range(0.45, 0.85),
        }
        .sample(window)
    };
    let (first, second) = (noise(coarse, 7), noise(coarse * 0.4, 4));
    let contrast = random.range(0.8, 2.5);
    fill(canvas, from_y, |x, y| {
        let index = window.index(x, y);
        let t = (0.5 + contrast * first[index]).clamp(0.0, 1.0);
        let u = (0.2 + 0.8 * second[index]).clamp(0.0, 1.0);
        scaled(
            mix(mix(colours[0], colours[1], t), colours[2], u),
            1.0 + 0.2 * first[index],
        )
    });
}

/// Cloth, wallpaper, planks: a surface's pattern, repeated over the image.
fn patterned(random: &mut Random, canvas: &mut Canvas, light: &Light) {
    let texture = random.weighted(&[
        (Texture::Striped, 2.0),
        (Texture::Dotted, 1.0),
        (Texture::Checked, 1.5),
        (Texture::Mottled, 1.5),
        (Texture::Grained, 3.0),
    ]);
    let base = random_colour(random);
    let scale = span(canvas) * random.log_range(0.05, 0.25);
    let surface = Surface::of(random, texture, base, scale);
    let field = Field::from_fn(canvas.window(), |_, _| f32::NEG_INFINITY);
    let pose = Pose {
        centre: [
            canvas.size.width as f32 / 2.0,
            canvas.size.height as f32 / 2.0,
        ],
        axis: [1.0, 0.0],
    };
    let coat = Coat {
        field: &field,
        pose: &pose,
        surface: &surface,
        relief: Relief::Flat,
        edge_px: 1.0,
        owner: NOBODY,
    };
    canvas.paint(&coat, light);
}

/// Tiles, bricks or paving in mortar, each of a shade of its own.
fn tiles(random: &mut Random, canvas: &mut Canvas) {
    let base = random_colour(random);
    let brightness = random.range(0.4, 1.3);
    let mortar = vary(random, scaled(base, brightness), 0.06).map(|v| v.min(1.0));
    let height = span(canvas) * random.log_range(0.03, 0.2);
    let width = height * random.log_range(1.0, 3.0);
    let joint = (height * random.range(0.03, 0.1)).max(1.0);
    // Bricks are laid with every other row moved by half a brick.
    let bond = if random.chance(0.6) { 0.5 } else { 0.0 };
    let spread = random.range(0.02, 0.2);
    let seed = random.noise_seed();
    let axis = if random.chance(0.6) {
        [1.0, 0.0]
    } else {
        random.direction()
    };
    let noise = Noise {
        seed: random.noise_seed(),
        cell_px: [height * 0.7; 2],
        octaves: 5,
        gain: 0.65,
    };
    let window = canvas.window();
    let values = noise.sample(window);
    let grain = random.range(0.05, 0.3);
    let pose = Pose {
        centre: [0.0; 2],
        axis,
    };
    fill(canvas, 0, |x, y| {
        let value = values[window.index(x, y)];
        let [u, v] = pose.local(x, y);
        let row = (v / height).floor();
        let odd = row - 2.0 * (row / 2.0).floor();
        let u = u + odd * bond * width;
        let column = (u / width).floor();
        let across = ((u / width - column - 0.5).abs() - 0.5) * width;
        let along = ((v / height - row - 0.5).abs() - 0.5) * height;
        let in_joint = (across.max(along) + joint * 0.5 + 0.5 + value).clamp(0.0, 1.0);
        let shade = 1.0 + spread * hash_signed(column as i32, row as i32, seed);
        scaled(
            mix(scaled(base, shade), mortar, in_joint),
            1.0 + grain * value,
        )
    });
}

/// Sky or wall above ground.
fn horizon(random: &mut Random, canvas: &mut Canvas) {
    wall(random, canvas, 0);
    let y = canvas.size.height as f32 * random.range(0.3, 0.75);
    if random.chance(0.6) {
        ground(random, canvas, y as i32);
    } else {
        wall(random, canvas, y as i32);
    }
}

/// Leaves upon leaves, which have the statistics of photos (Lee, Mumford and Huang, "Occlusion models for natural images",
/// 2001), out of focus so that none of them is a thing.
fn leaves(random: &mut Random, canvas: &mut Canvas, light: &Light) {
    ground(random, canvas, 0);
    let base = random_colour(random);
    let spread = random.range(0.05, 0.25);
    let span = span(canvas);
    for _ in 0..random.int(30, 120) {
        let radius = random.log_range(0.015, 0.12) * span;
        let stretch = [radius, radius * random.range(0.5, 1.0)];
        let outline = Outline::lobed(random, stretch, 0.6);
        let pose = Pose {
            centre: [
                random.unit() * canvas.size.width as f32,
                random.unit() * canvas.size.height as f32,
            ],
            axis: random.direction(),
        };
        let colour = vary(random, base, spread);
        let field = Field::of(&outline, &pose, 2.0, canvas.window());
        let coat = Coat {
            field: &field,
            pose: &pose,
            surface: &Surface::of(random, Texture::Plain, colour, radius),
            relief: Relief::Flat,
            edge_px: 4.0,
            owner: NOBODY,
        };
        canvas.paint(&coat, light);
    }
    canvas.blur(random.int(6, 16));
}

fn fill(canvas: &mut Canvas, from_y: i32, colour: impl Fn(i32, i32) -> Rgb) {
    let width = canvas.size.width as usize;
    let rows = canvas.pixels.chunks_exact_mut(width);
    for (y, row) in (0..).zip(rows).skip(from_y.max(0) as usize) {
        for (x, pixel) in (0..).zip(row) {
            *pixel = colour(x, y);
        }
    }
}
