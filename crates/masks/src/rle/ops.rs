//! Masks combined and moved without being decoded.

use super::{Rle, RleError, RunBuilder};
use crate::{BoxPx, ImageSize};

/// How [`Rle::merge`] combines masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MergeOp {
    /// The pixels inside any of the masks.
    Union,
    /// The pixels inside all of the masks.
    Intersection,
}

impl Rle {
    /// The union or intersection of masks.
    ///
    /// # Errors
    /// [`RleError::NothingToMerge`] without masks, [`RleError::SizeMismatch`] if their sizes differ.
    pub fn merge(masks: &[&Rle], op: MergeOp) -> Result<Rle, RleError> {
        let (first, others) = masks.split_first().ok_or(RleError::NothingToMerge)?;
        let mut merged = (*first).clone();
        for other in others {
            let mut runs = RunBuilder::new(merged.size);
            merged.zip_runs(other, |left, right, length| {
                let inside = match op {
                    MergeOp::Union => left || right,
                    MergeOp::Intersection => left && right,
                };
                runs.push(inside, length);
            })?;
            merged = runs.finish();
        }
        Ok(merged)
    }

    /// Pixels inside both masks.
    ///
    /// # Errors
    /// [`RleError::SizeMismatch`] if the sizes differ.
    pub fn intersection_area(&self, other: &Rle) -> Result<u64, RleError> {
        let mut area = 0;
        self.zip_runs(other, |left, right, length| {
            if left && right {
                area += u64::from(length);
            }
        })?;
        Ok(area)
    }

    /// Intersection over union, in `[0, 1]`; 0 for two empty masks, as pycocotools has it.
    ///
    /// # Errors
    /// [`RleError::SizeMismatch`] if the sizes differ.
    pub fn iou(&self, other: &Rle) -> Result<f64, RleError> {
        let intersection = self.intersection_area(other)?;
        let union = self.area() + other.area() - intersection;
        Ok(fraction(intersection, union))
    }

    /// The fraction of this mask that lies inside `other`, in `[0, 1]`; 0 for an empty mask.
    ///
    /// # Errors
    /// [`RleError::SizeMismatch`] if the sizes differ.
    pub fn containment(&self, other: &Rle) -> Result<f64, RleError> {
        Ok(fraction(self.intersection_area(other)?, self.area()))
    }

    /// A crop's mask placed in its image; outside the crop nothing is inside the mask.
    ///
    /// - `crop`: where the crop lies in the image; `self` is a mask of the crop
    /// - `image`: the size of the result
    ///
    /// Follows `uncrop_masks` (segment-anything).
    ///
    /// # Errors
    /// [`RleError::CropMismatch`] if the mask is not of the crop's size, [`RleError::CropOutside`] if the crop reaches
    /// beyond the image, [`RleError::TooLarge`] if the image has more than `u32::MAX` pixels.
    pub fn uncrop(&self, crop: BoxPx, image: ImageSize) -> Result<Rle, RleError> {
        if crop.size() != self.size {
            let mask = self.size;
            return Err(RleError::CropMismatch { mask, crop });
        }
        if crop.x1 > image.width || crop.y1 > image.height {
            return Err(RleError::CropOutside { crop, image });
        }
        if image.pixels() > u64::from(u32::MAX) {
            return Err(RleError::TooLarge { size: image });
        }
        if image == self.size {
            return Ok(self.clone());
        }
        let mut runs = RunBuilder::new(image);
        let mut position = 0; // column-major pixels of the image written so far
        for (x, y0, y1) in self.column_spans(true) {
            // Inside the image, so below 2^32.
            let start = (crop.x0 + x) * image.height + crop.y0 + y0;
            runs.push(false, start - position);
            runs.push(true, y1 - y0);
            position = start + (y1 - y0);
        }
        runs.push(false, image.pixels() as u32 - position);
        Ok(runs.finish())
    }

    /// Calls `visit(in_self, in_other, length)` for every stretch in which neither mask changes.
    fn zip_runs(
        &self,
        other: &Rle,
        mut visit: impl FnMut(bool, bool, u32),
    ) -> Result<(), RleError> {
        if self.size != other.size {
            return Err(RleError::SizeMismatch {
                left: self.size,
                right: other.size,
            });
        }
        let (mut left, mut right) = (0, 0); // current run of each
        let (mut left_rest, mut right_rest) = (0, 0); // what is left of it
        let next = |counts: &[u32], run: &mut usize, rest: &mut u32| {
            // A first run of 0 is passed over; `run` is one past the current one.
            while *rest == 0 && *run < counts.len() {
                *rest = counts[*run];
                *run += 1;
            }
            *rest > 0
        };
        while next(&self.counts, &mut left, &mut left_rest)
            && next(&other.counts, &mut right, &mut right_rest)
        {
            let length = left_rest.min(right_rest);
            // `left` and `right` are one past the current run, so even numbers mean inside.
            visit(left % 2 == 0, right % 2 == 0, length);
            left_rest -= length;
            right_rest -= length;
        }
        Ok(())
    }
}

/// `part / whole`, and 0 for nothing of nothing.
pub(crate) fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bitmap;
    use crate::rle::tests::{any_mask, mask_of};
    use proptest::prelude::*;

    fn rle(drawing: &str) -> Rle {
        Rle::encode(&Bitmap::from_ascii(drawing))
    }

    #[test]
    fn union_and_intersection() {
        let left = rle("##...\n##...\n.....");
        let right = rle(".##..\n.##..\n.##..");
        let merge = |op| {
            Rle::merge(&[&left, &right], op)
                .unwrap()
                .decode()
                .to_ascii()
        };
        assert_eq!(merge(MergeOp::Union), "###..\n###..\n.##..\n");
        assert_eq!(merge(MergeOp::Intersection), ".#...\n.#...\n.....\n");
        assert_eq!(left.intersection_area(&right), Ok(2));
        assert_eq!(left.iou(&right), Ok(0.25));
        assert_eq!(left.containment(&right), Ok(0.5));
        assert_eq!(right.containment(&left), Ok(2.0 / 6.0));
    }

    #[test]
    fn nothing_over_nothing_is_zero() {
        let empty = Rle::empty(ImageSize::new(3, 5));
        assert_eq!(empty.iou(&empty), Ok(0.0));
        assert_eq!(empty.containment(&empty), Ok(0.0));
    }

    #[test]
    fn masks_of_different_images_are_not_combined() {
        // As many pixels, but another shape.
        let (left, right) = (ImageSize::new(3, 4), ImageSize::new(4, 3));
        let masks = [&Rle::empty(left), &Rle::empty(right)];
        let error = RleError::SizeMismatch { left, right };
        assert_eq!(masks[0].iou(masks[1]), Err(error.clone()));
        assert_eq!(Rle::merge(&masks, MergeOp::Union), Err(error));
        assert_eq!(
            Rle::merge(&[], MergeOp::Union),
            Err(RleError::NothingToMerge)
        );
    }

    #[test]
    fn a_crop_lands_in_its_place() {
        let crop = BoxPx {
            x0: 2,
            y0: 1,
            x1: 5,
            y1: 3,
        };
        let placed = rle("##.\n.##").uncrop(crop, ImageSize::new(4, 6)).unwrap();
        assert_eq!(
            placed.decode().to_ascii(),
            "......\n..##..\n...##.\n......\n"
        );
    }

    #[test]
    fn a_crop_that_does_not_fit_is_refused() {
        let mask = rle("##.\n.##");
        let crop = BoxPx::of(mask.size());
        let image = ImageSize::new(2, 5);
        assert_eq!(
            mask.uncrop(BoxPx::of(image), image),
            Err(RleError::CropMismatch {
                mask: mask.size(),
                crop: BoxPx::of(image)
            })
        );
        let beyond = crop.translate(3, 0);
        assert_eq!(
            mask.uncrop(beyond, image),
            Err(RleError::CropOutside {
                crop: beyond,
                image
            })
        );
    }

    proptest! {
        #[test]
        fn merging_and_measuring_agree_with_bitmaps(
            masks in (1u32..9, 1u32..9).prop_flat_map(|(height, width)| {
                proptest::collection::vec(mask_of(ImageSize::new(height, width)), 1..4)
            })
        ) {
            let rles: Vec<Rle> = masks.iter().map(Rle::encode).collect();
            let refs: Vec<&Rle> = rles.iter().collect();
            let size = masks[0].size();
            let any = Bitmap::from_fn(size, |y, x| masks.iter().any(|mask| mask.get(y, x)));
            let all = Bitmap::from_fn(size, |y, x| masks.iter().all(|mask| mask.get(y, x)));
            prop_assert_eq!(Rle::merge(&refs, MergeOp::Union), Ok(Rle::encode(&any)));
            prop_assert_eq!(Rle::merge(&refs, MergeOp::Intersection), Ok(Rle::encode(&all)));

            let (first, last) = (&masks[0], &masks[masks.len() - 1]);
            let both = Bitmap::from_fn(size, |y, x| first.get(y, x) && last.get(y, x)).area();
            let either = first.area() + last.area() - both;
            let (left, right) = (&rles[0], &rles[rles.len() - 1]);
            prop_assert_eq!(left.intersection_area(right), Ok(both));
            prop_assert_eq!(left.iou(right), Ok(fraction(both, either)));
            prop_assert_eq!(left.containment(right), Ok(fraction(both, first.area())));
        }

        #[test]
        fn uncropping_is_encoding_the_padded_mask(
            mask in any_mask(),
            left in 0u32..4, right in 0u32..4, top in 0u32..4, bottom in 0u32..4,
        ) {
            let size = mask.size();
            let image = ImageSize::new(size.height + top + bottom, size.width + left + right);
            let crop = BoxPx::of(size).translate(left, top);
            let padded = Bitmap::from_fn(image, |y, x| {
                (crop.y0..crop.y1).contains(&y)
                    && (crop.x0..crop.x1).contains(&x)
                    && mask.get(y - top, x - left)
            });
            prop_assert_eq!(Rle::encode(&mask).uncrop(crop, image), Ok(Rle::encode(&padded)));
        }
    }
}
