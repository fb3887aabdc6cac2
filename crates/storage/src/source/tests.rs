//! Folders and files of this machine.

use tempfile::{TempDir, tempdir};

use super::*;

fn images(name: &str) -> Wanted {
    Wanted::extension(name, &["jpg", "png"])
}

fn folder(files: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "12345").unwrap();
    }
    dir
}

fn open(root: &Path) -> SourceStore {
    SourceStore::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

async fn list(root: &Path, wanted: Wants<'_>) -> Listing {
    open(root).list(wanted).await.unwrap()
}

fn keys(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|file| file.key.as_str()).collect()
}

fn rejects(listing: &Listing) -> Vec<(&str, &str)> {
    let rejects = listing.rejects.iter();
    rejects
        .map(|r| (r.key.as_str(), r.reason.as_str()))
        .collect()
}

async fn read(store: &SourceStore, at: &str) -> Result<String, ReadError> {
    let fetch = store.get(at, Expect::default(), 100).await?;
    let bytes = fetch.body().await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn images_are_listed_recursively_and_sorted_by_key() {
    let dir = folder(&[
        "b.jpg",
        "a/2.PNG",
        "a/10.png",
        "a.jpg",
        ".hidden.jpg",
        "notes.txt",
        "jpg",
        "caf\u{e9}.jpg",
    ]);
    let listing = list(dir.path(), &images).await;
    let sorted = [
        ".hidden.jpg",
        "a.jpg",
        "a/10.png",
        "a/2.PNG",
        "b.jpg",
        "caf\u{e9}.jpg",
    ];
    assert_eq!(keys(&listing), sorted);
    assert_eq!(rejects(&listing), []);
    assert_eq!(listing.files[0].bytes, 5);
    assert_eq!(listing.files[0].etag, None);
    assert_eq!(list(folder(&[]).path(), &images).await, Listing::default());
}

#[tokio::test]
async fn a_root_that_cannot_be_listed_is_an_error() {
    let dir = folder(&["a.txt", "b.jpg"]);
    let open_at = |name: &str| {
        let path = dir.path().join(name);
        SourceStore::open(path.to_str().unwrap(), &StoreOptions::default())
    };
    let missing = open_at("missing");
    assert!(matches!(missing, Err(SourceError::NotFound { .. })));
    let file = open_at("a.txt").unwrap().list(&images).await.unwrap_err();
    assert!(matches!(file, SourceError::NotAFolder { .. }), "{file}");
    let one = open_at("b.jpg").unwrap();
    assert_eq!(keys(&one.list(&images).await.unwrap()), ["b.jpg"]);
    assert_eq!(read(&one, "b.jpg").await.unwrap(), "12345");
    let bad = SourceStore::open("ftp://h/x", &StoreOptions::default()).unwrap_err();
    assert!(bad.to_string().contains("no store for `ftp://`"), "{bad}");
}

#[cfg(unix)]
#[tokio::test]
async fn links_are_followed_but_not_in_circles_and_broken_ones_are_reported() {
    use std::os::unix::fs::symlink;
    let dir = folder(&["set/a.jpg"]);
    let other = folder(&["b.jpg"]);
    let set = dir.path().join("set");
    symlink(dir.path(), set.join("up")).unwrap();
    symlink(other.path(), set.join("more")).unwrap();
    symlink("nowhere.jpg", set.join("gone.jpg")).unwrap();
    symlink("/mnt/unmounted", set.join("disk")).unwrap();
    symlink("nowhere.txt", set.join("gone.txt")).unwrap();
    let listing = list(dir.path(), &images).await;
    assert_eq!(keys(&listing), ["set/a.jpg", "set/more/b.jpg"]);
    assert_eq!(
        rejects(&listing),
        [("set/disk", "unreadable"), ("set/gone.jpg", "unreadable")]
    );
    assert!(
        listing.rejects[0]
            .detail
            .contains("a link that cannot be followed")
    );
    let through = read(&open(dir.path()), "set/more/b.jpg").await;
    assert_eq!(through.unwrap(), "12345");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_that_are_not_utf8_are_reported_and_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&["ok.jpg", "new\nline.jpg"]);
    for name in [&b"caf\xe9.jpg"[..], b"caf\xe8.jpg", b"caf\xe9.txt"] {
        fs::write(dir.path().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let listing = list(dir.path(), &images).await;
    assert_eq!(keys(&listing), ["ok.jpg"]);
    assert_eq!(
        rejects(&listing),
        [
            ("caf\\xE8.jpg", "non_utf8_name"),
            ("caf\\xE9.jpg", "non_utf8_name"),
            ("new\nline.jpg", "bad_key"),
        ]
    );
}

#[cfg(unix)]
#[tokio::test]
async fn what_has_an_image_name_and_is_no_file_is_reported_and_not_opened() {
    let dir = folder(&["a.jpg", "c.jpg/x.png"]);
    let socket = dir.path().join("b.jpg");
    std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let listing = list(dir.path(), &images).await;
    assert_eq!(keys(&listing), ["a.jpg", "c.jpg/x.png"]);
    assert_eq!(rejects(&listing), [("b.jpg", "not_a_file")]);
    let store = open(dir.path());
    for at in ["b.jpg", "c.jpg", "/dev/zero"] {
        let error = read(&store, at).await.unwrap_err();
        assert_eq!(error.reject_reason(), Some("unreadable"), "{at}: {error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_may_not_be_listed_is_reported() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&["a.jpg", "locked/b.jpg"]);
    let locked = dir.path().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let may_list_anyway = fs::read_dir(&locked).is_ok(); // as root
    let listing = list(dir.path(), &images).await;
    let read = read(&open(dir.path()), "locked/b.jpg").await;
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    if may_list_anyway {
        assert_eq!(keys(&listing), ["a.jpg", "locked/b.jpg"]);
    } else {
        assert_eq!(keys(&listing), ["a.jpg"]);
        assert_eq!(rejects(&listing), [("locked/", "unreadable")]);
        assert_eq!(read.unwrap_err().reject_reason(), Some("unreadable"));
    }
}

#[tokio::test]
async fn tars_are_listed_and_those_compressed_otherwise_reported() {
    let dir = folder(&[
        "b.tar",
        "a/1.TAR",
        "c.tar.gz",
        "d.tgz",
        "e.tar.zst",
        "f.gz",
        "g.jpg",
        "h.tbz2",
        "tar",
        "i.tar.XZ",
        ".tar",
    ]);
    let listing = list(dir.path(), &Wanted::tar).await;
    assert_eq!(keys(&listing), ["a/1.TAR", "b.tar", "c.tar.gz", "d.tgz"]);
    let compressed = ["e.tar.zst", "h.tbz2", "i.tar.XZ"].map(|key| (key, "compressed_tar"));
    assert_eq!(rejects(&listing), compressed);
    assert_eq!(
        keys(&list(&dir.path().join("b.tar"), &Wanted::tar).await),
        ["b.tar"]
    );
}

#[tokio::test]
async fn a_file_is_read_up_to_the_limit_and_if_it_is_what_was_listed() {
    let dir = folder(&["a.jpg"]);
    let store = open(dir.path());
    let get = |at: &'static str, bytes, limit| {
        let store = &store;
        let etag = Some("of another store");
        async move { store.get(at, Expect { bytes, etag }, limit).await }
    };
    let fetch = get("a.jpg", Some(5), 5).await.unwrap();
    assert_eq!(fetch.bytes(), 5);
    assert_eq!(fetch.body().await.unwrap(), &b"12345"[..]);
    let reason = |fetch: Result<Fetch, ReadError>| fetch.err().unwrap().reject_reason();
    assert_eq!(reason(get("a.jpg", None, 4).await), Some("too_large"));
    assert_eq!(reason(get("gone.jpg", Some(9), 4).await), Some("too_large"));
    assert_eq!(reason(get("a.jpg", Some(6), 9).await), Some("changed"));
    assert_eq!(reason(get("gone.jpg", None, 9).await), Some("missing"));
    let facts = store.facts("a.jpg").await.unwrap();
    assert_eq!(
        facts,
        ObjectFacts {
            bytes: 5,
            etag: None
        }
    );
}

#[tokio::test]
async fn odd_names_are_read_by_key_by_path_and_by_uri() {
    let names = [
        "a b#1.png",
        "%2F.jpg",
        "\u{fc}.jpg",
        "50%.jpg",
        "a?b&c.jpg",
        "sub/..x.jpg",
        "a\\b.jpg",
    ];
    let dir = folder(&[]);
    fs::create_dir(dir.path().join("sub")).unwrap();
    for name in names {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let listing = list(dir.path(), &images).await;
    assert_eq!(listing.files.len(), names.len());
    let store = open(dir.path());
    for file in &listing.files {
        let path = dir.path().join(&file.key).canonicalize().unwrap();
        let uri = Url::from_file_path(&path).unwrap();
        for at in [file.key.as_str(), path.to_str().unwrap(), uri.as_str()] {
            assert_eq!(read(&store, at).await.unwrap(), file.key, "{at}");
        }
    }
}

#[tokio::test]
async fn what_leads_out_of_the_root_or_nowhere_is_no_location() {
    let dir = folder(&["root/a.jpg", "secret.jpg"]);
    let store = open(&dir.path().join("root"));
    let absolute = format!("{}/root/../secret.jpg", dir.path().display());
    for at in [
        "../secret.jpg",
        "./a.jpg",
        "x//a.jpg",
        "",
        &absolute,
        "ftp://h/x",
        "file://h/x",
    ] {
        let error = read(&store, at).await.unwrap_err();
        assert_eq!(error.reject_reason(), Some("bad_uri"), "{at}: {error}");
    }
}

#[tokio::test]
async fn a_blob_is_read_by_ranges_until_the_file_is_another() {
    let dir = folder(&[]);
    let path = dir.path().join("a.tar");
    fs::write(&path, "0123456789").unwrap();
    let store = open(dir.path());
    let blob = store.open_blob("a.tar", Expect::default()).await.unwrap();
    assert_eq!(blob.bytes(), 10);
    assert_eq!(blob.range(3..7).await.unwrap(), &b"3456"[..]);
    assert_eq!(blob.range(10..10).await.unwrap(), &b""[..]);
    assert!(blob.range(3..11).await.is_err());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "abcdefghij").unwrap();
    let error = blob.range(3..7).await.unwrap_err();
    assert_eq!(error.reject_reason(), Some("changed"), "{error}");
}
