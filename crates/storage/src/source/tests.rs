use tempfile::{TempDir, tempdir};

use super::*;

const EXTENSIONS: [&str; 2] = ["jpg", "png"];

fn folder(files: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "12345").unwrap();
    }
    dir
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

#[test]
fn images_are_listed_recursively_and_sorted_by_key() {
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
    let listing = list_images(dir.path(), &EXTENSIONS).unwrap();
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
    assert_eq!(listing.files[2].path, dir.path().join("a/10.png"));
}

#[test]
fn a_root_that_cannot_be_listed_is_an_error() {
    let dir = folder(&["a.jpg"]);
    let missing = list_images(&dir.path().join("missing"), &EXTENSIONS);
    assert!(matches!(missing, Err(SourceError::NotFound { .. })));
    let file = list_images(&dir.path().join("a.jpg"), &EXTENSIONS).unwrap_err();
    assert!(
        file.to_string().contains("must be a folder of images"),
        "{file}"
    );
    let file = list_tars(&dir.path().join("a.jpg"));
    assert!(matches!(file, Err(SourceError::NotAFolder { .. })));
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles_and_broken_ones_are_reported() {
    use std::os::unix::fs::symlink;
    let dir = folder(&["set/a.jpg"]);
    let other = folder(&["b.jpg"]);
    let set = dir.path().join("set");
    symlink(dir.path(), set.join("up")).unwrap();
    symlink(other.path(), set.join("more")).unwrap();
    symlink("nowhere.jpg", set.join("gone.jpg")).unwrap();
    symlink("/mnt/unmounted", set.join("disk")).unwrap();
    symlink("nowhere.txt", set.join("gone.txt")).unwrap();
    let listing = list_images(dir.path(), &EXTENSIONS).unwrap();
    assert_eq!(keys(&listing), ["set/a.jpg", "set/more/b.jpg"]);
    assert_eq!(
        rejects(&listing),
        [("set/disk", "unreadable"), ("set/gone.jpg", "unreadable")]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_reported_and_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&["ok.jpg"]);
    for name in [&b"caf\xe9.jpg"[..], b"caf\xe8.jpg", b"caf\xe9.txt"] {
        fs::write(dir.path().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let listing = list_images(dir.path(), &EXTENSIONS).unwrap();
    assert_eq!(keys(&listing), ["ok.jpg"]);
    assert_eq!(
        rejects(&listing),
        [
            ("caf\\xE8.jpg", "non_utf8_name"),
            ("caf\\xE9.jpg", "non_utf8_name")
        ]
    );
}

#[cfg(unix)]
#[test]
fn what_has_an_image_name_and_is_no_file_is_reported() {
    let dir = folder(&["a.jpg"]);
    std::os::unix::net::UnixListener::bind(dir.path().join("b.jpg")).unwrap();
    let listing = list_images(dir.path(), &EXTENSIONS).unwrap();
    assert_eq!(keys(&listing), ["a.jpg"]);
    assert_eq!(rejects(&listing), [("b.jpg", "not_a_file")]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_listed_is_reported() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&["a.jpg", "locked/b.jpg"]);
    let locked = dir.path().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let may_list_anyway = fs::read_dir(&locked).is_ok(); // as root
    let listing = list_images(dir.path(), &EXTENSIONS).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    if may_list_anyway {
        assert_eq!(keys(&listing), ["a.jpg", "locked/b.jpg"]);
    } else {
        assert_eq!(keys(&listing), ["a.jpg"]);
        assert_eq!(rejects(&listing), [("locked/", "unreadable")]);
    }
}

#[test]
fn tars_are_listed_and_compressed_ones_reported() {
    let dir = folder(&[
        "b.tar",
        "a/1.TAR",
        "c.tar.gz",
        "d.tgz",
        "e.tar.zst",
        "f.gz",
        "g.jpg",
    ]);
    let listing = list_tars(dir.path()).unwrap();
    assert_eq!(keys(&listing), ["a/1.TAR", "b.tar"]);
    let reported = rejects(&listing);
    assert!(
        reported
            .iter()
            .all(|(_, reason)| *reason == "compressed_tar")
    );
    let reported: Vec<&str> = reported.iter().map(|(key, _)| *key).collect();
    assert_eq!(reported, ["c.tar.gz", "d.tgz", "e.tar.zst"]);
    let one = list_tars(&dir.path().join("b.tar")).unwrap();
    assert_eq!(keys(&one), ["b.tar"]);
}

#[test]
fn a_file_is_read_up_to_the_limit() {
    let dir = folder(&["a.jpg"]);
    let path = dir.path().join("a.jpg");
    assert_eq!(read_file(&path, 5).unwrap(), &b"12345"[..]);
    let error = read_file(&path, 4).unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { bytes: 5, limit: 4 }));
    let error = read_file(&dir.path().join("b.jpg"), 4).unwrap_err();
    assert!(matches!(error, ReadError::Unreadable { .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_claims_to_be_smaller_than_it_is_does_not_pass_the_limit() {
    // Files of procfs say 0 bytes and have some, as a growing file does.
    let error = read_file(Path::new("/proc/self/status"), 10).unwrap_err();
    assert!(
        matches!(error, ReadError::TooLarge { limit: 10, .. }),
        "{error}"
    );
}
