//! Files for tests: images, and outputs of a job.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use maskmill_formats::rows::{
    ImageRow, ImageStatus, MaskRow, ParquetMeta, images_to_parquet, masks_to_parquet,
};
use maskmill_masks::{Bitmap, BoxPx, ImageSize, Rle};

/// Writes a PNG of this size.
pub(crate) fn write_image(path: &Path, size: ImageSize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let ImageSize { height, width } = size;
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([x as u8, y as u8, (x * y) as u8])
    });
    image.save(path).unwrap();
}

/// An output directory.
pub(crate) struct Output {
    root: PathBuf,
}

impl Output {
    /// An empty one.
    pub(crate) fn new(root: PathBuf) -> Self {
        for folder in ["images", "masks", "_commits"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        Self { root }
    }

    /// Writes a shard's tables and commits them.
    pub(crate) fn shard(&self, shard: u32, images: &[(&str, Vec<Bitmap>)]) {
        let [masks, images] = self.parts(shard, images);
        let part =
            |path: String| serde_json::json!({"path": path, "rows": 1, "bytes": 1, "sha256": ""});
        let marker = serde_json::json!({
            "shard": shard, "fingerprint": "f00d", "masks": part(masks), "images": part(images)
        });
        let path = self.root.join(format!("_commits/{shard:06}.json"));
        fs::write(path, marker.to_string()).unwrap();
    }

    /// Writes a shard's tables: the paths of its masks and images.
    pub(crate) fn parts(&self, shard: u32, images: &[(&str, Vec<Bitmap>)]) -> [String; 2] {
        let meta = ParquetMeta {
            fingerprint: "f00d".to_owned(),
            entries: BTreeMap::new(),
        };
        let mask_rows: Vec<MaskRow> = images
            .iter()
            .flat_map(|(key, masks)| (0..).zip(masks).map(|(id, mask)| mask_row(key, id, mask)))
            .collect();
        let image_rows: Vec<ImageRow> = images
            .iter()
            .map(|(key, masks)| image_row(key, shard, masks))
            .collect();
        let paths = ["masks", "images"].map(|table| format!("{table}/part-{shard:06}.parquet"));
        let masks = masks_to_parquet(&mask_rows, &meta).unwrap();
        fs::write(self.root.join(&paths[0]), masks).unwrap();
        let images = images_to_parquet(&image_rows, &meta).unwrap();
        fs::write(self.root.join(&paths[1]), images).unwrap();
        paths
    }
}

fn mask_row(key: &str, mask_id: u32, mask: &Bitmap) -> MaskRow {
    MaskRow {
        image_key: key.to_owned(),
        mask_id,
        rle: Rle::encode(mask),
        bbox: mask.bounds().sa_xywh(),
        area: mask.area(),
        predicted_iou: 0.9,
        stability_score: 0.9,
        crop_box: BoxPx::of(mask.size()).xywh(),
        point_coords: vec![],
        label: None,
        label_score: None,
        prompt_box: None,
    }
}

fn image_row(key: &str, shard: u32, masks: &[Bitmap]) -> ImageRow {
    let size = masks.first().map_or(ImageSize::new(1, 1), Bitmap::size);
    ImageRow {
        image_key: key.to_owned(),
        shard,
        width: size.width,
        height: size.height,
        sha256: String::new(),
        bytes: 1,
        format: Some("png".to_owned()),
        exif_orientation: 1,
        masks: masks.len() as u32,
        status: ImageStatus::Ok,
        reason: None,
        detail: None,
        milliseconds: 1.0,
        caption: None,
        boxes: None,
    }
}
