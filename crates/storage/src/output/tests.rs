use std::process::Command;

use tempfile::tempdir;

use super::*;
use crate::faulty::{Fault, FaultyStore};

fn open(root: &Path) -> OutputStore {
    OutputStore::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn the_second_write_changes_nothing() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("not/there/yet"));
    let put = store.put_if_absent("a/b.txt", text("first")).await.unwrap();
    assert_eq!(put, PutOutcome::Created);
    let put = store
        .put_if_absent("a/b.txt", text("second"))
        .await
        .unwrap();
    assert_eq!(put, PutOutcome::AlreadyExists);
    assert_eq!(store.get("a/b.txt").await.unwrap(), Some(text("first")));
    assert!(store.exists("a/b.txt").await.unwrap());
    assert!(!store.exists("a/c.txt").await.unwrap());
    assert_eq!(store.get("a/c.txt").await.unwrap(), None);
}

#[tokio::test]
async fn a_list_is_sorted_recursive_and_below_the_prefix() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for path in ["z/1", "a/2", "a/10", "a/b/1", "ab/1"] {
        store.put_if_absent(path, text("xyz")).await.unwrap();
    }
    let paths = |objects: Vec<ObjectInfo>| -> Vec<String> {
        objects.into_iter().map(|object| object.path).collect()
    };
    let listed = store.list("a").await.unwrap();
    assert_eq!(listed[0].bytes, 3);
    assert_eq!(paths(listed), ["a/10", "a/2", "a/b/1"]);
    assert_eq!(store.list("").await.unwrap().len(), 5);
    assert_eq!(store.list("nothing").await.unwrap(), []);
}

#[tokio::test]
async fn a_file_uri_is_the_same_place() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("with space");
    let uri = url::Url::from_file_path(&root).unwrap();
    let store = OutputStore::open(uri.as_str(), &StoreOptions::default()).unwrap();
    store.put_if_absent("a", text("x")).await.unwrap();
    assert!(root.join("a").is_file());
    assert_eq!(open(&root).get("a").await.unwrap(), Some(text("x")));
}

#[tokio::test]
async fn places_that_are_none_are_refused_with_what_is_possible() {
    let message = |location: &str| {
        OutputStore::open(location, &StoreOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("ftp://bucket/masks"),
        "\"ftp://bucket/masks\": there is no store for outputs at `ftp://`; a location is a local \
         path, or a URI that begins with file:// or s3:// (gs:// and az:// in builds with them)"
    );
    assert!(message("https://h/out?sig=hunter2").contains("no store for outputs at `https://`"));
    assert!(!message("https://h/out?sig=hunter2").contains("hunter2"));
    assert!(message("file://host/share").contains("names an absolute path"));
    assert!(message(" ").contains("is empty"));

    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for location in [file.clone(), file.join("below")] {
        let message = message(location.to_str().unwrap());
        assert!(message.contains("is a file"), "{message}");
    }
    let missing = dir.path().join("missing");
    let error = OutputStore::open_existing(missing.to_str().unwrap(), &StoreOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::NoOutput { .. }), "{error}");
    assert!(!missing.exists());
}

#[tokio::test]
async fn unfinished_writes_of_a_killed_process_are_neither_seen_nor_in_the_way() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    fs::create_dir(dir.path().join("masks")).unwrap();
    let staged = dir.path().join("masks/part-000000.parquet#1");
    fs::write(&staged, "half of").unwrap();

    assert_eq!(store.list("").await.unwrap(), []);
    assert_eq!(store.any_object(&[]).await.unwrap(), None);
    let put = store.put_if_absent("masks/part-000000.parquet", text("whole"));
    assert_eq!(put.await.unwrap(), PutOutcome::Created);

    // A young one may be another worker's write in progress.
    let hour = Duration::from_secs(3600);
    assert_eq!(store.sweep_staging(hour).await.unwrap(), 0);
    assert!(staged.exists());
    let file = fs::File::options().write(true).open(&staged).unwrap();
    file.set_modified(SystemTime::now() - 2 * hour).unwrap();
    assert_eq!(store.sweep_staging(hour).await.unwrap(), 1);
    assert!(!staged.exists());
    assert!(store.exists("masks/part-000000.parquet").await.unwrap());
}

#[tokio::test]
async fn a_full_disk_and_a_forbidden_one_are_told_apart() {
    for (fault, full) in [(Fault::Full, true), (Fault::PermissionDenied, false)] {
        let inner = Arc::new(object_store::memory::InMemory::new());
        let faulty = FaultyStore::new(inner).on_put(1, fault);
        let store = OutputStore::over(Arc::new(faulty), "memory");
        let error = store.put_if_absent("a", text("x")).await.unwrap_err();
        assert_eq!(error.is_full(), full, "{error}");
        let denied = matches!(error, StorageError::PermissionDenied { .. });
        assert_eq!(denied, !full, "{error}");
        assert_eq!(store.get("a").await.unwrap(), None);
    }
}

/// A file system of 64 KiB, unmounted on drop. Mounting needs privileges, so there may be none;
/// the error's path is covered without it by the test above and by `/dev/full` in `error.rs`.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_really_full_disk_leaves_nothing_behind_and_takes_more_when_freed() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: mounting a tmpfs is not permitted here");
        return;
    };
    let root = disk.0.path();
    let store = open(root);
    store.put_if_absent("small", text("x")).await.unwrap();
    let large = Bytes::from(vec![7; 256 << 10]);
    let error = store.put_if_absent("large", large).await.unwrap_err();
    assert!(error.is_full(), "{error}: {error:?}");
    let left: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["small"], "the unfinished file is gone");
    let fits = Bytes::from(vec![7; 32 << 10]);
    let put = store.put_if_absent("large", fits).await.unwrap();
    assert_eq!(put, PutOutcome::Created);
}
