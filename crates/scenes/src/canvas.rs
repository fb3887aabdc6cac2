//! The picture while it is painted, and whose each pixel is.

use maskmill_masks::ImageSize;

use crate::colour::{Rgb, mix};
use crate::field::{Field, Pose};
use crate::light::{Light, Relief};
use crate::texture::Surface;
use crate::window::Window;

/// Whose a pixel is: nobody's, or that of the thing painted last over its centre.
pub(crate) const NOBODY: u16 = u16::MAX;

/// Colours and owners of an image's pixels, row-major.
pub(crate) struct Canvas {
    pub(crate) size: ImageSize,
    pub(crate) pixels: Vec<Rgb>,
    pub(crate) owners: Vec<u16>,
}

/// What is painted at once.
pub(crate) struct Coat<'a> {
    pub(crate) field: &'a Field,
    /// The frame of the surface's pattern.
    pub(crate) pose: &'a Pose,
    pub(crate) surface: &'a Surface,
    pub(crate) relief: Relief,
    /// Width over which the edge fades, in pixels; 1 is sharp.
    pub(crate) edge_px: f32,
    pub(crate) owner: u16,
}

impl Canvas {
    pub(crate) fn new(size: ImageSize) -> Self {
        let pixels = size.pixels() as usize;
        Self {
            size,
            pixels: vec![[0.5; 3]; pixels],
            owners: vec![NOBODY; pixels],
        }
    }

    pub(crate) fn window(&self) -> Window {
        Window::of(self.size)
    }

    /// Paints over what is there. Pixels whose centres are inside the field become the coat's owner's.
    pub(crate) fn paint(&mut self, coat: &Coat<'_>, light: &Light) {
        let fringe = coat.edge_px * 0.5;
        let window = coat.field.window.intersect(self.window());
        let noise = coat.surface.noise.sample(window);
        let depth = coat.field.depth();
        let image = self.window();
        for y in window.y0..window.y1 {
            for x in window.x0..window.x1 {
                let distance = coat.field.at(x, y);
                if distance >= fringe {
                    continue;
                }
                let coverage = ((fringe - distance) / coat.edge_px).min(1.0);
                let local = coat.pose.local(x, y);
                let colour = coat.surface.colour(local, noise[window.index(x, y)]);
                let (brightness, highlight) = light.on(coat.relief, coat.field, depth, x, y);
                let lit = colour.map(|channel| channel * brightness + highlight);
                let index = image.index(x, y);
                self.pixels[index] = mix(self.pixels[index], lit, coverage);
                if distance < 0.0 {
                    self.owners[index] = coat.owner;
                }
            }
        }
    }

    /// Darkens what is there by the shadow of `field`.
    pub(crate) fn shade(&mut self, field: &Field, light: &Light) {
        let ([dx, dy], softness) = light.shadow_of(field.depth());
        let image = self.window();
        let shadow = Window {
            x0: field.window.x0 + dx,
            y0: field.window.y0 + dy,
            x1: field.window.x1 + dx,
            y1: field.window.y1 + dy,
        }
        .intersect(image);
        for y in shadow.y0..shadow.y1 {
            for x in shadow.x0..shadow.x1 {
                let coverage = (0.5 - field.at(x - dx, y - dy) / (2.0 * softness)).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    // Smoothed, so that no edge of the penumbra is seen.
                    let darkness = light.shadow * coverage * coverage * (3.0 - 2.0 * coverage);
                    let pixel = &mut self.pixels[image.index(x, y)];
                    *pixel = pixel.map(|channel| channel * (1.0 - darkness));
                }
            }
        }
    }

    /// The mean colour of what lies inside the field now, from every third pixel of every third row; gray if there is none.
    pub(crate) fn mean_under(&self, field: &Field) -> Rgb {
        let image = self.window();
        let window = field.window.intersect(image);
        let (mut sum, mut count) = ([0.0; 3], 0.0_f32);
        for y in (window.y0..window.y1).step_by(3) {
            for x in (window.x0..window.x1).step_by(3) {
                if field.at(x, y) < 0.0 {
                    let pixel = self.pixels[image.index(x, y)];
                    sum = [sum[0] + pixel[0], sum[1] + pixel[1], sum[2] + pixel[2]];
                    count += 1.0;
                }
            }
        }
        if count == 0.0 {
            return [0.5; 3];
        }
        sum.map(|channel| channel / count)
    }

    /// Blurs the picture, not the owners: `times` passes of the binomial `[1, 2, 1] / 4` along both axes, together a Gaussian of
    /// `sqrt(times / 2)` pixels.
    pub(crate) fn blur(&mut self, times: u32) {
        let width = self.size.width as usize;
        let mut above = vec![[0.0; 3]; width];
        for _ in 0..times {
            for row in self.pixels.chunks_exact_mut(width) {
                let mut left = row[0];
                for x in 0..width {
                    let here = row[x];
                    let right = row[(x + 1).min(width - 1)];
                    row[x] = binomial(left, here, right);
                    left = here;
                }
            }
            above.copy_from_slice(&self.pixels[..width]);
            for y in 0..self.size.height as usize {
                let (row, rest) = self.pixels[y * width..].split_at_mut(width);
                for (x, (pixel, above)) in row.iter_mut().zip(&mut above).enumerate() {
                    let here = *pixel;
                    let below = rest.get(x).copied().unwrap_or(here);
                    *pixel = binomial(*above, here, below);
                    *above = here;
                }
            }
        }
    }
}

fn binomial(a: Rgb, b: Rgb, c: Rgb) -> Rgb {
    [
        (a[0] + 2.0 * b[0] + c[0]) * 0.25,
        (a[1] + 2.0 * b[1] + c[1]) * 0.25,
        (a[2] + 2.0 * b[2] + c[2]) * 0.25,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_spreads_a_point_evenly_and_keeps_its_sum() {
        let mut canvas = Canvas::new(ImageSize::new(7, 9));
        canvas.pixels.fill([0.0; 3]);
        canvas.pixels[3 * 9 + 4] = [16.0; 3];
        canvas.blur(1);
        let value = |y: usize, x: usize| canvas.pixels[y * 9 + x][1];
        assert_eq!(
            [value(3, 4), value(3, 5), value(2, 4), value(4, 3)],
            [4.0, 2.0, 2.0, 1.0]
        );
        assert_eq!(
            canvas.pixels.iter().map(|pixel| pixel[0]).sum::<f32>(),
            16.0
        );
    }

    #[test]
    fn blur_leaves_an_even_picture_alone() {
        let mut canvas = Canvas::new(ImageSize::new(3, 1));
        canvas.blur(5);
        assert!(canvas.pixels.iter().all(|pixel| *pixel == [0.5; 3]));
    }
}
