//! Point grids, crops, stability, NMS, RLE and small regions: pure mask algorithms.
//!
//! # What enters
//! Plain numbers: image sizes, a decoder's low-resolution logits as `&[f32]`, boxes, scores and thresholds.
//!
//! # What leaves
//! - the prompts of automatic mask generation: [`point_grid()`], [`layer_point_grids`], [`crops`];
//! - masks at the size of the image, as run-length encodings: [`Upscaler::scan`] thresholds the upscaled logits, and
//!   counts what the stability score needs, without ever holding the upscaled image;
//! - what is done with a mask afterwards: [`Rle`] (COCO's format: area, box, IoU, union, intersection, un-cropping, all
//!   on the runs), [`box_nms`], [`mask_nms`], [`containment_nms`], [`Rle::remove_small_regions`], and the filters
//!   [`passes_iou`], [`passes_stability`], [`passes_min_area`], [`passes_max_coverage`].
//!
//! # What never happens here
//! No tensors, no files, no threads, no clocks, no randomness: a function of this crate gives the same bits on every
//! machine, whatever the compiler's target features, because nothing is re-associated or contracted to fused
//! multiply-adds. Devices and thread counts are the callers' concern; so is the validity of a configuration, and a
//! function that panics on a nonsensical one says so under `# Panics`.
//!
//! # Conventions
//! - A box is half-open, in pixels: [`BoxPx`]. The reference's boxes hold inclusive maxima; they exist only as the
//!   results of [`BoxPx::sa_xyxy`] and [`BoxPx::sa_xywh`].
//! - Sizes are [`ImageSize`] `{ height, width }`; points are `[x, y]`.
//! - Logits and [`Bitmap`]s are row-major; run lengths are column-major, as COCO has them.
//! - "The reference" is the `segment_anything` 1.0 package, with torchvision's NMS, pycocotools and OpenCV where it calls
//!   them. Every departure is recorded where it happens. `tests/reference.rs` compares with values those packages
//!   computed (`tests/generate_expected.py`).

mod bitmap;
mod crop;
mod filter;
mod geometry;
mod nms;
mod point_grid;
mod regions;
mod rle;
mod stability;
mod upscale;

pub use bitmap::Bitmap;
pub use crop::{Crop, crops, is_near_crop_edge};
pub use filter::{passes_iou, passes_max_coverage, passes_min_area, passes_stability};
pub use geometry::{BoxPx, ImageSize};
pub use nms::{box_nms, containment_nms, mask_nms};
pub use point_grid::{layer_point_grids, point_grid, scale_points};
pub use regions::{RegionMode, remove_small_regions};
pub use rle::{MergeOp, Rle, RleError};
pub use stability::{StabilityCounts, stability_counts, stability_score};
pub use upscale::{Scan, ScanOptions, Upscaler};
