//! The pipeline's source as a plan: a listing, cut into shards.

use std::path::Path;

use maskmill_job::{FileRef, Plan, Reject, Source, TarRef};
use maskmill_storage::{Listing, SourceError, SourceFile, SourceReject, list_images, list_tars};

/// Extensions of the files of a folder that are taken for images, in any case.
const IMAGE_EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp"];

/// Lists the source and cuts it into shards. Blocking.
///
/// # Errors
/// The source is missing, of the wrong kind or cannot be listed.
pub fn plan(source: &Source) -> Result<Plan, SourceError> {
    match source {
        Source::Images {
            path,
            images_per_shard,
        } => {
            let Listing { files, rejects } = list_images(Path::new(path), &IMAGE_EXTENSIONS)?;
            let files = files
                .into_iter()
                .map(file)
                .chain(rejects.into_iter().map(reject));
            Ok(Plan::of_files(files.collect(), *images_per_shard))
        }
        Source::Webdataset { path } => {
            let Listing { files, rejects } = list_tars(Path::new(path))?;
            let tars = files.into_iter().map(|file| TarRef {
                key: file.key,
                path: file.path,
                bytes: file.bytes,
            });
            let rejects = rejects.into_iter().map(reject);
            Ok(Plan::of_tars(tars.collect(), rejects.collect()))
        }
    }
}

fn file(file: SourceFile) -> FileRef {
    FileRef {
        key: file.key,
        path: file.path,
        bytes: file.bytes,
        reject: None,
    }
}

fn reject(reject: SourceReject) -> FileRef {
    FileRef {
        key: reject.key,
        path: reject.path,
        bytes: 0,
        reject: Some(Reject {
            reason: reject.reason.as_str().to_owned(),
            detail: reject.detail,
        }),
    }
}
