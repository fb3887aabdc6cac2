//! The pipeline's source as the items of a plan: objects listed, footers and manifests read.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use maskmill_formats::image_table::{ImageTable, ImageTableColumns, ImageTableError};
use maskmill_formats::manifest::{
    Manifest, ManifestColumns, ManifestError, ManifestFormat, ManifestReject, ManifestRow,
};
use maskmill_formats::tar_shard::is_image_extension;
use maskmill_job::{Config, Extras, Item, ItemKind, Reject, Source};
use maskmill_storage::{
    Expect, Listing, ReadError, SourceError, SourceFile, SourceReject, SourceStore, StoreOptions,
    Wanted,
};
use tokio::runtime::Handle;

use crate::blob_table::BlobTable;
use crate::describe::describe;
use crate::open_source::OpenSource;

/// Parquet footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;
/// Memory for the blocks of one footer's file.
const FOOTER_BYTES: u64 = 2 << 20;
/// A manifest is read whole.
const MAX_MANIFEST_BYTES: u64 = 16 << 30;

/// The source could not be turned into a plan.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be listed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An object that lists images cannot be read.
    #[error("{at} cannot be read")]
    Read {
        /// The object.
        at: String,
        /// Why.
        source: ReadError,
    },
    /// The manifest is not one.
    #[error("the manifest {at} cannot be used")]
    Manifest {
        /// The object.
        at: String,
        /// Why.
        source: ManifestError,
    },
    /// The manifest's name does not say what it is.
    #[error(
        "the manifest {at} is neither .parquet, .csv, .tsv, .jsonl nor .ndjson; rename it after its format"
    )]
    ManifestFormat {
        /// The object.
        at: String,
    },
    /// A table of images could not be read for another reason than its content.
    #[error("{at} cannot be read")]
    Table {
        /// The object.
        at: String,
        /// Why.
        source: ImageTableError,
    },
    /// There is nothing to do.
    #[error(
        "the source {location} holds no {what}; check source.path and source.kind in the pipeline file"
    )]
    Empty {
        /// The source.
        location: String,
        /// What was looked for.
        what: &'static str,
    },
}

/// How the config reaches stores: for outputs, or for the source.
pub fn store_options(config: &Config, of_source: bool) -> StoreOptions {
    let store = match of_source {
        true => config.store.for_source(),
        false => config.store.clone(),
    };
    StoreOptions {
        s3_endpoint: store.s3_endpoint,
        s3_region: store.s3_region,
        s3_path_style: store.s3_path_style,
        s3_anonymous: store.s3_anonymous,
        request_timeout: seconds(store.request_timeout_seconds),
        connect_timeout: seconds(store.connect_timeout_seconds),
        max_retries: store.max_retries,
        retry_timeout: seconds(store.retry_timeout_seconds),
        first_backoff: seconds(store.first_backoff_seconds),
        longest_backoff: seconds(store.longest_backoff_seconds),
    }
}

/// A setting in seconds, which has been checked to be one.
pub(crate) fn seconds(seconds: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(seconds)
}

/// The columns of a table source; the defaults for others.
pub(crate) fn table_columns(source: &Source) -> ImageTableColumns {
    match source {
        Source::Parquet {
            image_column,
            key_column,
            caption_column,
            boxes_column,
            labels_column,
            scores_column,
            points_column,
            ..
        } => ImageTableColumns {
            image: image_column.clone(),
            key: key_column.clone(),
            caption: caption_column.clone(),
            boxes: boxes_column.clone(),
            labels: labels_column.clone(),
            scores: scores_column.clone(),
            points: points_column.clone(),
        },
        _ => ImageTableColumns::default(),
    }
}

/// Everything that the source holds now, not cut yet. Blocking; called from outside the runtime.
///
/// # Errors
/// The source is missing, empty, of the wrong kind, or cannot be listed or read.
pub(crate) fn list_items(
    source: &Source,
    opened: &OpenSource,
    runtime: &Handle,
) -> Result<Vec<Item>, InputError> {
    let store = match opened {
        OpenSource::Store(store) => store,
        OpenSource::Scenes(scenes) => return Ok(scenes.items()),
    };
    let (items, what) = match source {
        Source::Scenes { .. } => unreachable!("scenes have no store"),
        Source::Images { .. } => {
            let listing = runtime.block_on(store.list(&wanted_image))?;
            let what = "images (JPEG, PNG, TIFF, BMP, WebP)";
            (of_listing(listing, ItemKind::Image), what)
        }
        Source::Webdataset { .. } => {
            let listing = runtime.block_on(store.list(&Wanted::tar))?;
            (of_listing(listing, ItemKind::Tar), "tar shards of images")
        }
        Source::Parquet { .. } => {
            let is_table = |name: &str| Wanted::extension(name, &["parquet", "pq"]);
            let listing = runtime.block_on(store.list(&is_table))?;
            let items = of_tables(listing, store, &table_columns(source), runtime)?;
            (items, "Parquet files")
        }
        Source::Manifest {
            path,
            uri_column,
            key_column,
            caption_column,
            boxes_column,
            labels_column,
            scores_column,
            points_column,
            ..
        } => {
            let columns = ManifestColumns {
                uri: uri_column.clone(),
                key: key_column.clone(),
                caption: caption_column.clone(),
                boxes: boxes_column.clone(),
                labels: labels_column.clone(),
                scores: scores_column.clone(),
                points: points_column.clone(),
                ..ManifestColumns::default()
            };
            let items = of_manifest(path, store, &columns, runtime)?;
            (items, "rows in its manifest")
        }
    };
    if items.is_empty() {
        let location = source.path().to_owned();
        return Err(InputError::Empty { location, what });
    }
    Ok(items)
}

/// Whether a file of this name is an image, by its last extension.
fn wanted_image(name: &str) -> Wanted {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    match extension.is_some_and(is_image_extension) {
        true => Wanted::Yes,
        false => Wanted::No,
    }
}

fn of_listing(listing: Listing, kind: ItemKind) -> Vec<Item> {
    let files = listing.files.into_iter().map(|file| Item {
        key: file.key.into(),
        uri: None,
        bytes: file.bytes,
        etag: file.etag.map(Into::into),
        kind,
        extras: None,
    });
    files
        .chain(listing.rejects.into_iter().map(rejected))
        .collect()
}

fn rejected(reject: SourceReject) -> Item {
    rejected_item(&reject.key, reject.reason.as_str(), reject.detail)
}

fn rejected_item(key: &str, reason: &str, detail: String) -> Item {
    let reject = Reject {
        reason: reason.to_owned(),
        detail,
    };
    Item {
        key: key.into(),
        uri: None,
        bytes: 0,
        etag: None,
        kind: ItemKind::Image,
        extras: Some(Box::new(Extras {
            reject: Some(reject),
            ..Extras::default()
        })),
    }
}

/// The row groups of tables, by their footers. A damaged table is one rejected item.
fn of_tables(
    listing: Listing,
    store: &SourceStore,
    columns: &ImageTableColumns,
    runtime: &Handle,
) -> Result<Vec<Item>, InputError> {
    let files = Mutex::new(listing.files.into_iter());
    let found = Mutex::new(Ok(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..FOOTERS_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = files.lock().expect("no panic while it is held").next();
                    let Some(file) = next else { return };
                    let items = of_table(&file, store, columns, runtime);
                    let mut found = found.lock().expect("no panic while it is held");
                    match (found.as_mut(), items) {
                        (Ok(found), Ok(items)) => found.extend(items),
                        (Ok(_), Err(error)) => *found = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    let mut items = found.into_inner().expect("no panic while it is held")?;
    items.extend(listing.rejects.into_iter().map(rejected));
    Ok(items)
}

fn of_table(
    file: &SourceFile,
    store: &SourceStore,
    columns: &ImageTableColumns,
    runtime: &Handle,
) -> Result<Vec<Item>, InputError> {
    let at = || file.key.clone();
    let expect = Expect {
        bytes: Some(file.bytes),
        etag: file.etag.as_deref(),
    };
    let blob = runtime.block_on(store.open_blob(&file.key, expect));
    let blob = blob.map_err(|source| InputError::Read { at: at(), source })?;
    let input = BlobTable::new(&blob, runtime.clone(), FOOTER_BYTES);
    let table = match ImageTable::open(Arc::new(input), columns) {
        Ok(table) => table,
        Err(source) if source.io_error().is_some() => {
            return Err(InputError::Table { at: at(), source });
        }
        Err(error) => {
            let detail = format!("{}: {}", file.key, describe(&error));
            return Ok(vec![rejected_item(&file.key, "table_corrupt", detail)]);
        }
    };
    let groups = table.row_groups().into_iter().enumerate();
    let items = groups.map(|(index, group)| Item {
        key: file.key.as_str().into(),
        uri: None,
        bytes: group.bytes,
        etag: file.etag.as_deref().map(Into::into),
        kind: ItemKind::Rows {
            row_group: u32::try_from(index).unwrap_or(u32::MAX),
            rows: group.rows,
        },
        extras: None,
    });
    Ok(items.collect())
}

fn of_manifest(
    path: &str,
    store: &SourceStore,
    columns: &ManifestColumns,
    runtime: &Handle,
) -> Result<Vec<Item>, InputError> {
    let at = || path.to_owned();
    let name = folder_and_name(path).1;
    let format = ManifestFormat::of_name(name);
    let format = format.ok_or_else(|| InputError::ManifestFormat { at: at() })?;
    let bytes = runtime.block_on(async {
        let anything = Expect {
            bytes: None,
            etag: None,
        };
        let found = store.get(name, anything, MAX_MANIFEST_BYTES).await?;
        found.body().await
    });
    let bytes = bytes.map_err(|source| InputError::Read { at: at(), source })?;
    let manifest = Manifest::read(bytes, format, columns);
    let manifest = manifest.map_err(|source| InputError::Manifest { at: at(), source })?;
    let mut items = Vec::with_capacity(manifest.len());
    manifest.drain(|row| items.push(of_row(row)));
    reject_duplicates(&mut items);
    Ok(items)
}

fn of_row(row: Result<ManifestRow<'_>, ManifestReject>) -> Item {
    let row = match row {
        Ok(row) => row,
        Err(reject) => {
            let numbered = || format!("row-{:08}", reject.row);
            let key = reject.key.unwrap_or_else(numbered);
            return rejected_item(&key, reject.reason, reject.detail);
        }
    };
    let key = row.key.unwrap_or_else(|| key_of_uri(row.uri));
    let extras = Extras {
        reject: None,
        caption: row.caption.map(str::to_owned),
        boxes: row.boxes,
        labels: row.labels,
        scores: row.scores,
        points: row.points,
    };
    Item {
        key: key.into(),
        uri: (key != row.uri).then(|| row.uri.into()),
        bytes: row.bytes.unwrap_or(0),
        etag: None,
        kind: ItemKind::Image,
        extras: (extras != Extras::default()).then(|| Box::new(extras)),
    }
}

/// Of several rows with one key the first that can be used keeps it. Each of the others becomes a
/// rejected row with a key of its own, `KEY#2` and so on: an image's rows are found by its key.
fn reject_duplicates(items: &mut [Item]) {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_unstable_by_key(|at| (&items[*at].key, items[*at].reject().is_some(), *at));
    let is_taken = |key: &str| {
        let found = order.binary_search_by(|at| (*items[*at].key).cmp(key));
        found.is_ok()
    };
    let mut renamed: Vec<(usize, String)> = Vec::new();
    let mut number = 1;
    for pair in order.windows(2) {
        let (key, at) = (&items[pair[0]].key, pair[1]);
        if *key != items[at].key {
            number = 1;
            continue;
        }
        let name = loop {
            number += 1;
            let name = format!("{key}#{number}");
            if !is_taken(&name) {
                break name;
            }
        };
        renamed.push((at, name));
    }
    for (at, name) in renamed {
        let item = &mut items[at];
        let detail = format!("another row of the manifest has the key {:?}", item.key);
        item.key = name.into();
        let extras = item.extras.get_or_insert_default();
        extras.reject.get_or_insert(Reject {
            reason: "duplicate_key".to_owned(),
            detail,
        });
    }
}

/// The key of a table's row, below the table's own. Keys and paths in tables repeat more often than their
/// authors think, and one shard does not see the rows of another: the row's number makes it unique, and
/// keeps the order of the table.
pub(crate) fn row_key(row: u64, key: &str) -> String {
    let number = format!("{row:08}");
    match key == number {
        true => number,
        false => format!("{number}-{key}"),
    }
}

/// A key for an image that is only an address: `https://h/a/b.jpg?x=1` is `h/a/b.jpg`. Schemes and
/// leading slashes make no file names.
fn key_of_uri(uri: &str) -> &str {
    let key = without_secrets(uri).map_or(uri, |(_, rest)| rest);
    key.trim_start_matches('/')
}

/// An address as messages may repeat it.
pub(crate) fn shown(at: &str) -> String {
    match without_secrets(at) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => at.to_owned(),
    }
}

/// The scheme of a URI and what follows, but for the query, which may be a signature, and the user. In
/// a bucket `?` and `#` are characters of a key like any other.
fn without_secrets(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let buckets = ["s3", "s3a", "gs", "az", "abfs"];
    let rest = match buckets.iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
        true => rest,
        false => rest.split(['?', '#']).next().unwrap_or(rest),
    };
    Some((scheme, without_user(rest)))
}

/// `host/path` of `user:password@host/path`. Such an address is refused when it is read; the key of
/// its row must not repeat the password.
fn without_user(rest: &str) -> &str {
    let authority = rest.split('/').next().unwrap_or(rest);
    if let Some(at) = authority.rfind('@') {
        return &rest[at + 1..];
    }
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    if authority.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit()) {
        return rest;
    }
    // A `/` in the password hides the `@` behind it.
    rest.rsplit_once('@').map_or("(hidden)", |(_, host)| host)
}

/// `s3://b/lists/a.csv` is `a.csv` in `s3://b/lists`.
pub(crate) fn folder_and_name(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => (".", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_lie_in_folders() {
        for (path, folder, name) in [
            ("a.csv", ".", "a.csv"),
            ("/a.csv", "/", "a.csv"),
            ("x/y/a.csv", "x/y", "a.csv"),
            ("s3://b/lists/a.csv", "s3://b/lists", "a.csv"),
        ] {
            assert_eq!(folder_and_name(path), (folder, name));
        }
    }

    #[test]
    fn every_row_of_a_manifest_gets_a_key_of_its_own() {
        let image = |key: &str| Item {
            extras: None,
            ..rejected_item(key, "", String::new())
        };
        let mut items = vec![
            rejected_item("a", "bad_boxes", String::new()),
            image("b"),
            image("a"),
            image("b"),
            image("b#2"),
            image("b"),
        ];
        reject_duplicates(&mut items);
        let found: Vec<(&str, Option<&str>)> = items
            .iter()
            .map(|item| {
                (
                    &*item.key,
                    item.reject().map(|reject| reject.reason.as_str()),
                )
            })
            .collect();
        let twice = Some("duplicate_key");
        assert_eq!(
            found,
            [
                ("a#2", Some("bad_boxes")),
                ("b", None),
                ("a", None),
                ("b#3", twice),
                ("b#2", None),
                ("b#4", twice)
            ]
        );
    }

    #[test]
    fn what_a_manifest_says_of_an_image_is_in_its_item() {
        let text = "{\"uri\":\"a.jpg\",\"what\":[\"a cat\",\"a dog\"],\"boxes\":[[0,1,8,6]],\"conf\":[0.5],\"clicks\":[[2,1,0]]}\n\
                    {\"uri\":\"b.jpg\"}\n{\"uri\":\"c.jpg\",\"what\":[\"\"]}\n";
        let columns = ManifestColumns {
            labels: Some("what".to_owned()),
            scores: Some("conf".to_owned()),
            points: Some("clicks".to_owned()),
            ..ManifestColumns::default()
        };
        let manifest = Manifest::read(text.into(), ManifestFormat::JsonLines, &columns).unwrap();
        let items: Vec<Item> = manifest.rows().map(of_row).collect();
        let expected = Extras {
            boxes: Some(vec![[0.0, 1.0, 8.0, 6.0]]),
            labels: Some(vec!["a cat".to_owned(), "a dog".to_owned()]),
            scores: Some(vec![0.5]),
            points: Some(vec![[2.0, 1.0, 0.0]]),
            ..Extras::default()
        };
        assert_eq!(items[0].extras.as_deref(), Some(&expected));
        assert_eq!(items[1].extras, None);
        assert_eq!(items[2].reject().unwrap().reason, "bad_labels");
    }

    #[test]
    fn addresses_become_keys_without_secrets_or_schemes() {
        for (uri, key) in [
            ("a/b.jpg", "a/b.jpg"),
            ("what?.jpg", "what?.jpg"),
            ("/data/b.jpg", "data/b.jpg"),
            ("file:///data/b.jpg", "data/b.jpg"),
            ("s3://bucket/a b.jpg", "bucket/a b.jpg"),
            ("s3://bucket/a?1#2.jpg", "bucket/a?1#2.jpg"),
            ("https://h/a.jpg?X-Amz-Signature=1#f", "h/a.jpg"),
            ("HTTPS://h:80/a.jpg?X-Amz-Signature=1", "h:80/a.jpg"),
            ("https://u:S@h/me@home.jpg", "h/me@home.jpg"),
            ("https://u:S/S@h/a.jpg", "h/a.jpg"),
            ("https://u:S/a.jpg", "(hidden)"),
            ("s3://ID:S@bucket/a.jpg", "bucket/a.jpg"),
            ("ftp://u:S S@h/a b.jpg?S", "h/a b.jpg"),
            ("http://[::1]:9000/a.jpg", "[::1]:9000/a.jpg"),
        ] {
            assert_eq!(key_of_uri(uri), key);
        }
    }

    #[test]
    fn rows_have_keys_of_their_own() {
        assert_eq!(row_key(7, "00000007"), "00000007");
        assert_eq!(row_key(7, "x/a.png"), "00000007-x/a.png");
        assert_ne!(row_key(7, "a"), row_key(8, "a"));
    }

    #[test]
    fn tars_are_told_by_name() {
        let is = |name, wanted: Wanted| assert_eq!(Wanted::tar(name), wanted, "{name}");
        is("a.tar", Wanted::Yes);
        is("A.TAR.GZ", Wanted::Yes);
        is("a.tgz", Wanted::Yes);
        is("a.tar.zst", Wanted::Compressed);
        is("a.gz", Wanted::No);
        is("tar", Wanted::No);
    }
}
