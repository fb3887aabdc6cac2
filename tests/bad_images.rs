//! Bad and odd image files, through the whole program: each becomes a row, and the image beside it keeps
//! its masks.

mod support;

use maskmill_formats::rows::ImageRow;
use support::{Job, MASKMILL, Ran, Rows, decoder_data, jpeg, picture, png, small_sample};

/// Key of the photo that every job here has besides what it tests.
const GOOD: &str = "good.png";

/// A job with a good photo in it.
fn job() -> Job {
    let job = Job::of_images();
    job.put(GOOD, &png(&small_sample("cat.png", 96), None));
    job
}

/// Runs the job to its end, exit code 0, with masks for the good photo.
fn rows(job: &Job) -> Rows {
    let rows = job.rows_of_run();
    rows.expect_masks(GOOD);
    rows
}

/// The detail of the rejected row of a file beside the good photo.
fn rejected(key: &str, bytes: &[u8], reason: &str) -> String {
    let job = job();
    job.put(key, bytes);
    let ran = job.run();
    ran.expect_code(0);
    let summary = format!("1 images rejected: 1 {reason}");
    assert!(ran.stdout.contains(&summary), "{ran:#?}");
    let rows = job.rows();
    rows.expect_masks(GOOD);
    let row = rows.image(key);
    assert_eq!(row.bytes, bytes.len() as u64);
    assert_eq!(row.sha256.len(), 64, "the file was read: {row:?}");
    rows.expect_reject(key, reason).to_owned()
}

fn size(row: &ImageRow) -> [u32; 2] {
    [row.width, row.height]
}

#[test]
fn a_truncated_jpeg() {
    let whole = jpeg(&small_sample("china.jpg", 200));
    let detail = rejected("cut.jpg", &whole[..whole.len() / 2], "truncated");
    assert!(detail.contains("the JPEG file is cut short"), "{detail}");
}

#[test]
fn a_truncated_png() {
    let whole = png(&picture(80, 60, 1), None);
    let detail = rejected("cut.png", &whole[..whole.len() / 2], "truncated");
    assert!(detail.contains("the PNG file is cut short"), "{detail}");
}

#[test]
fn a_file_of_no_bytes() {
    assert_eq!(rejected("nothing.jpg", b"", "empty"), "the file is empty");
}

#[test]
fn a_text_named_jpg() {
    let detail = rejected("page.jpg", b"<html>404 not found</html>\n", "not_an_image");
    assert!(detail.contains("begins with \"<html>404"), "{detail}");
}

#[test]
fn a_damaged_image_behind_a_good_header() {
    let mut bytes = png(&picture(80, 60, 1), None);
    let data = bytes.windows(4).position(|name| name == b"IDAT").unwrap();
    bytes[data + 20] ^= 0xFF;
    let detail = rejected("damaged.png", &bytes, "corrupt");
    assert!(detail.contains("the PNG file is damaged"), "{detail}");
}

/// Alpha, 16 bits, palette, grayscale.
#[test]
fn every_kind_of_png_has_masks() {
    let names = [
        "png_alpha.png",
        "png_bilevel.png",
        "png_gray.png",
        "png_gray16.png",
        "png_gray_alpha.png",
        "png_palette.png",
        "png_palette_transparent.png",
        "png_rgb16.png",
    ];
    let job = job();
    for name in names {
        job.put(name, &decoder_data(name));
    }
    let rows = rows(&job);
    for name in names {
        let row = rows.expect_masks(name);
        assert_eq!(row.format.as_deref(), Some("png"));
        assert_eq!(size(row), [45, 31], "{name}");
    }
}

#[test]
fn a_cmyk_jpeg_has_masks() {
    let job = job();
    job.put("cmyk.jpg", &decoder_data("jpeg_cmyk.jpg"));
    let rows = rows(&job);
    let row = rows.expect_masks("cmyk.jpg");
    assert_eq!(row.format.as_deref(), Some("jpeg"));
    assert_eq!(size(row), [45, 31]);
}

/// Turned upright before the model sees it, and recorded: the masks are those of the upright photo.
#[test]
fn an_exif_orientation_is_applied_and_recorded() {
    let upright = small_sample("cat.png", 96);
    // Orientation 6: shown after a quarter turn clockwise; 8: counter-clockwise; 3: half a turn.
    let stored = [
        (3, image::imageops::rotate180(&upright)),
        (6, image::imageops::rotate270(&upright)),
        (8, image::imageops::rotate90(&upright)),
    ];
    let job = job();
    for (orientation, stored) in &stored {
        job.put(
            &format!("exif_{orientation}.png"),
            &png(stored, Some(*orientation)),
        );
    }
    job.put("photo.jpg", &decoder_data("jpeg_exif_6.jpg"));
    let rows = rows(&job);

    let good = rows.masks(GOOD);
    for (orientation, stored) in &stored {
        let key = format!("exif_{orientation}.png");
        let row = rows.expect_masks(&key);
        assert_eq!(row.exif_orientation, *orientation);
        assert_eq!(size(row), [upright.width(), upright.height()]);
        assert_ne!(stored, &upright);
        let turned = rows.masks(&key);
        assert_eq!(turned.len(), good.len());
        for (turned, good) in turned.iter().zip(&good) {
            assert_eq!((&turned.rle, turned.area), (&good.rle, good.area), "{key}");
            assert_eq!(turned.predicted_iou, good.predicted_iou);
            assert_eq!(turned.point_coords, good.point_coords);
        }
    }
    let photo = rows.expect_masks("photo.jpg");
    assert_eq!(photo.exif_orientation, 6);
    assert_eq!(size(photo), [31, 45], "stored as 45 x 31");
    assert_eq!(rows.image(GOOD).exif_orientation, 1);
}

#[test]
fn images_one_pixel_wide_and_high() {
    let job = job();
    job.put("1x1.png", &decoder_data("png_1x1.png"));
    job.put("1x5000.jpg", &decoder_data("jpeg_1x5000.jpg"));
    job.put("5000x1.png", &decoder_data("png_5000x1.png"));
    let rows = rows(&job);
    for (key, expected) in [
        ("1x1.png", [1, 1]),
        ("1x5000.jpg", [1, 5000]),
        ("5000x1.png", [5000, 1]),
    ] {
        assert_eq!(size(rows.expect_masks(key)), expected, "{key}");
    }
    job.maskmill(&["verify", "out/job"]).expect_code(0);
}

/// A PNG file that says it is 100,000 x 100,000 pixels: 30 GB of RGB.
fn huge_png() -> Vec<u8> {
    let mut bytes = decoder_data("png_1x1.png");
    let side = 100_000_u32.to_be_bytes();
    bytes[16..24].copy_from_slice(&[side, side].concat());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn a_huge_header_is_rejected() {
    let detail = rejected("huge.png", &huge_png(), "too_large");
    let words = "the header says 100000 x 100000 pixels, sides of at most 65535 pixels are allowed";
    assert!(detail.contains(words), "{detail}");
}

/// With 8 GB of address space, a buffer of 30 GB would end the process. The limit on sides is lifted, so
/// that the one on pixels has to hold.
#[cfg(target_os = "linux")]
#[test]
fn a_huge_header_is_rejected_before_memory_is_taken() {
    let mut job = job();
    job.put("huge.png", &huge_png())
        .put("small_photo.png", &png(&picture(64, 48, 2), None));
    job.set("limits.max_side=1000000");
    let limited = "ulimit -v 8000000; exec \"$0\" \"$@\"";
    let mut command = job.command("sh");
    command
        .args(["-c", limited, MASKMILL])
        .args(job.arguments());
    Ran::of(&mut command).expect_code(0);
    let rows = job.rows();
    rows.expect_masks(GOOD);
    rows.expect_masks("small_photo.png");
    let detail = rows.expect_reject("huge.png", "too_large");
    assert!(
        detail.contains("100000 x 100000 pixels, at most 100000000 pixels are allowed"),
        "{detail}"
    );
}

/// Each of the limits rejects the larger of two images, in one job each.
#[test]
fn the_limits_are_in_the_pipeline_file() {
    for (limit, words) in [
        ("limits.max_pixels=9999", "at most 9999 pixels are allowed"),
        ("limits.max_side=99", "sides of at most 99 pixels are"),
        (
            "limits.max_file_bytes=20000",
            "limits.max_file_bytes = 20000",
        ),
    ] {
        let mut job = Job::of_images();
        job.put("small.png", &png(&picture(40, 30, 1), None));
        // Noise, which PNG cannot make small.
        let noise = image::RgbImage::from_fn(100, 100, |x, y| {
            let hash = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
            image::Rgb([(hash >> 8) as u8, (hash >> 16) as u8, (hash >> 24) as u8])
        });
        job.put("large.png", &png(&noise, None));
        job.set(limit);
        let rows = job.rows_of_run();
        rows.expect_masks("small.png");
        let detail = rows.expect_reject("large.png", "too_large");
        assert!(detail.contains(words), "{limit}: {detail}");
    }
}

#[cfg(unix)]
#[test]
fn files_that_cannot_be_read() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    let job = job();
    symlink("nowhere", job.path("source/link.jpg")).unwrap();
    let made = job
        .command("mkfifo")
        .arg("source/pipe.png")
        .status()
        .unwrap();
    assert!(made.success());
    job.put("secret.png", &png(&picture(40, 30, 1), None));
    let secret = job.path("source/secret.png");
    set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    // A folder with the name of an image is a folder.
    job.put("folder.jpg/inside.png", &png(&picture(40, 30, 2), None));

    let rows = rows(&job);
    let detail = rows.expect_reject("link.jpg", "unreadable");
    assert!(
        detail.contains("a link that cannot be followed"),
        "{detail}"
    );
    rows.expect_reject("pipe.png", "not_a_file");
    rows.expect_masks("folder.jpg/inside.png");
    // Root may read it all the same.
    if std::fs::File::open(&secret).is_err() {
        let detail = rows.expect_reject("secret.png", "unreadable");
        assert!(detail.contains("ermission denied"), "{detail}");
    } else {
        rows.expect_masks("secret.png");
    }
    assert_eq!(rows.images.len(), 5);
}

/// Linux names are bytes; macOS refuses such a name.
#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let job = job();
    let name = OsStr::from_bytes(b"caf\xE9.png");
    let bytes = png(&picture(40, 30, 1), None);
    std::fs::write(job.path("source").join(name), bytes).unwrap();
    let rows = rows(&job);
    let detail = rows.expect_reject("caf\\xE9.png", "non_utf8_name");
    assert!(detail.contains("rename it"), "{detail}");
}

#[test]
fn files_of_other_kinds_are_not_counted() {
    let job = job();
    job.put("notes.txt", b"not an image")
        .put("labels.json", b"{}");
    assert_eq!(rows(&job).keys(), [GOOD]);
}

/// All of it at once, with an image per shard and as one shard: the order and number of rows is that of
/// the files, whatever becomes of each.
#[test]
fn rows_keep_the_order_of_the_files() {
    let mut expected = None;
    for images_per_shard in [1, 3, 100] {
        let mut job = job();
        job.put("a_empty.jpg", b"")
            .put("b.png", &png(&picture(40, 30, 1), None))
            .put("c_text.png", b"text")
            .put("d.jpg", &jpeg(&picture(30, 40, 2)))
            .put("z_huge.png", &huge_png());
        job.set(&format!("source.images_per_shard={images_per_shard}"));
        let mut rows = rows(&job);
        let keys = [
            "a_empty.jpg",
            "b.png",
            "c_text.png",
            "d.jpg",
            GOOD,
            "z_huge.png",
        ];
        assert_eq!(rows.keys(), keys);
        for (index, image) in rows.images.iter_mut().enumerate() {
            assert_eq!(image.shard, index as u32 / images_per_shard);
            image.shard = 0;
        }
        match &expected {
            None => expected = Some(rows),
            Some(expected) => assert_eq!(&rows, expected),
        }
    }
}
