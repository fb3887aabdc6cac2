//! Shards made by hand, whole and damaged.

use proptest::prelude::*;
use tar::Header;

use super::members::{BLOCK, padding};
use super::*;

const LIMITS: TarLimits = TarLimits {
    max_entry_bytes: 2000,
    max_expansion: 200,
};

/// A member with any bytes as its name, which `tar::Builder` would refuse or shorten.
fn member(name: &[u8], kind: EntryType, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data].concat();
    bytes.resize(bytes.len() + padding(data.len() as u64) as usize, 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(name.as_bytes(), EntryType::Regular, data)
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK]].concat()
}

fn read(bytes: &[u8]) -> Vec<Result<TarItem, TarError>> {
    TarReader::new(bytes, LIMITS).collect()
}

/// One line per item: `key=bytes`, `key!reason` or `error at offset`.
fn summary(bytes: &[u8]) -> Vec<String> {
    lines(read(bytes))
}

fn lines(items: impl IntoIterator<Item = Result<TarItem, TarError>>) -> Vec<String> {
    let line = |item| match item {
        Ok(TarItem::Sample { key, bytes, .. }) => format!("{key}={}", bytes.escape_ascii()),
        Ok(TarItem::Rejected { key, reason, .. }) => format!("{key}!{}", reason.as_str()),
        Err(TarError::Truncated { offset, .. }) => format!("truncated at {offset}"),
        Err(TarError::Corrupt { offset, .. }) => format!("corrupt at {offset}"),
        Err(TarError::Bomb { .. }) => "bomb".to_owned(),
        Err(TarError::Io { offset, .. }) => format!("unreadable at {offset}"),
    };
    items.into_iter().map(line).collect()
}

#[test]
fn keys_end_at_the_first_dot_of_the_file_name() {
    for (name, expected) in [
        ("a.jpg", Some(("a", "jpg"))),
        ("./v1.0/a.left.JPG", Some(("v1.0/a", "left.JPG"))),
        ("dir/a", None),
        ("dir.x/a", None),
        (".hidden.jpg", None),
        ("dir/._a.jpg", None),
        ("a.", None),
        ("", None),
    ] {
        assert_eq!(key_and_extension(name), expected, "{name}");
    }
}

#[test]
fn image_extensions_in_any_case() {
    for extension in [
        "jpg", "JPEG", "png", "tif", "tiff", "bmp", "webp", "left.jpg",
    ] {
        assert!(is_image_extension(extension), "{extension}");
    }
    for extension in ["", "json", "txt", "cls", "gif", "jpg.txt"] {
        assert!(!is_image_extension(extension), "{extension}");
    }
}

#[test]
fn images_are_samples_and_the_rest_is_skipped() {
    let shard = archive(&[
        member(b"dir/", EntryType::Directory, b""),
        file("dir/a.jpg", b"AAA"),
        file("dir/a.json", b"{}"),
        file("dir/a.cls", b"7"),
        member(b"link.jpg", EntryType::Symlink, b""),
        member(b"", EntryType::XGlobalHeader, b"19 comment=created\n"),
        file("./b.PNG", b""),
    ]);
    assert_eq!(summary(&shard), ["dir/a=AAA", "b="]);
}

#[test]
fn what_tar_builder_writes_is_read() {
    let long = format!("{}/image.jpeg", "d".repeat(150));
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in [("short.jpg", &b"1"[..]), (&long, &[2; 1500])] {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data).unwrap();
    }
    let items = read(&builder.into_inner().unwrap());
    assert_eq!(items.len(), 2);
    assert!(
        matches!(&items[1], Ok(TarItem::Sample { name, bytes, .. }) if *name == long && bytes == &vec![2; 1500])
    );
}

#[test]
fn pax_names_and_sizes_win() {
    let mut shard = member(
        b"PaxHeaders/x",
        EntryType::XHeader,
        b"19 path=real/a.jpg\n10 size=3\n",
    );
    // The pax size is the true one; the header's is 0, as for members over 8 GiB.
    let mut image = file("placeholder", b"");
    image.extend(b"AAA");
    image.resize(image.len() + 509, 0);
    shard.extend(image);
    assert_eq!(summary(&archive(&[shard])), ["real/a=AAA"]);
}

#[test]
fn unsafe_names_are_rejected() {
    let shard = archive(&[
        file("../a.jpg", b"A"),
        file("x/../../b.jpg", b"B"),
        file("/etc/c.jpg", b"C"),
        file("d..e/f..jpg", b"F"),
        file("../notes.txt", b"skipped"),
    ]);
    let expected = [
        "../a!unsafe_name",
        "x/../../b!unsafe_name",
        "/etc/c!unsafe_name",
        "d..e/f=F",
    ];
    assert_eq!(summary(&shard), expected);
}

#[test]
fn names_that_are_not_utf8_are_rejected_under_distinct_keys() {
    let shard = archive(&[
        member(b"caf\xE9.jpg", EntryType::Regular, b"A"),
        member(b"caf\xE8.jpg", EntryType::Regular, b"B"),
        file("ok.jpg", b"C"),
    ]);
    let expected = [
        "caf\u{FFFD}!non_utf8_name",
        "caf\u{FFFD}#2!non_utf8_name",
        "ok=C",
    ];
    assert_eq!(summary(&shard), expected);
    assert!(
        matches!(&read(&shard)[0], Ok(TarItem::Rejected { detail, .. }) if detail.contains(r"caf\xe9.jpg"))
    );
}

#[test]
fn duplicate_keys_are_rejected_whatever_the_extension() {
    let shard = archive(&[
        file("a.jpg", b"1"),
        file("a.jpg", b"2"),
        file("a.png", b"3"),
        file("A.jpg", b"4"),
        file("a#2.jpg", b"5"),
    ]);
    let expected = [
        "a=1",
        "a#2!duplicate_key",
        "a#3!duplicate_key",
        "A=4",
        "a#2#2!duplicate_key",
    ];
    assert_eq!(summary(&shard), expected);
    let Ok(TarItem::Rejected { detail, .. }) = &read(&shard)[2] else {
        panic!("a.png is rejected")
    };
    assert_eq!(
        detail,
        "\"a.png\": an earlier image has the key \"a\"; keys end at the name's first dot"
    );
}

#[test]
fn members_over_the_limit_are_skipped_unread() {
    let shard = archive(&[file("big.jpg", &[1; 2001]), file("fits.jpg", &[b'x'; 2000])]);
    assert_eq!(summary(&shard)[0], "big!entry_too_large");
    assert!(summary(&shard)[1].starts_with("fits=xxx"));
}

#[test]
fn a_missing_end_mark_is_accepted_at_a_member_boundary() {
    assert_eq!(summary(&file("a.jpg", b"A")), ["a=A"]);
}

#[test]
fn an_empty_input_is_not_an_empty_shard() {
    assert_eq!(summary(b""), ["truncated at 0"]);
    assert!(summary(&archive(&[])).is_empty());
}

#[test]
fn samples_before_a_cut_are_delivered() {
    let shard = archive(&[file("a.jpg", b"AAA"), file("b.jpg", &[b'B'; 600])]);
    // 0: header, 512: data and padding, 1024: header, 1536: 600 bytes, padded to 2560.
    for cut in 1..2560 {
        let complete = (cut / 1024).min(1);
        let found = summary(&shard[..cut]);
        let ends_cleanly = cut == 1024;
        assert_eq!(
            found.len(),
            complete + usize::from(!ends_cleanly),
            "cut at {cut}: {found:?}"
        );
        if complete == 1 {
            assert_eq!(found[0], "a=AAA");
        }
        if !ends_cleanly {
            assert_eq!(found[complete], format!("truncated at {cut}"));
        }
    }
}

#[test]
fn damage_is_an_error_after_the_samples_before_it() {
    let mut shard = archive(&[file("a.jpg", b"A"), file("b.jpg", b"B")]);
    shard[1024 + 3] ^= 1;
    assert_eq!(summary(&shard), ["a=A", "corrupt at 1024"]);
}

#[test]
fn compressed_shards_are_named_as_such() {
    let error = read(&[&[0x1F, 0x8B, 8, 0][..], &[0; 600]].concat())
        .remove(0)
        .unwrap_err();
    assert!(error.to_string().contains("gzip"), "{error}");
}

#[test]
fn a_failing_reader_is_reported_with_its_offset() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("disk on fire"))
        }
    }
    let shard = file("a.jpg", b"A");
    let items: Vec<_> = TarReader::new(shard.chain(Failing), LIMITS).collect();
    assert!(matches!(
        items[..],
        [Ok(_), Err(TarError::Io { offset: 1024, .. })]
    ));
}

/// A header that says a member has `size` bytes, in base 256.
fn claims(size: u64) -> Vec<u8> {
    let mut header = file("a.jpg", b"");
    header[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    let mut fixed = Header::new_old();
    fixed.as_mut_bytes().copy_from_slice(&header);
    fixed.set_cksum();
    fixed.as_bytes().to_vec()
}

#[test]
fn sizes_that_lie_are_found_without_room_for_them() {
    let unlimited = TarLimits {
        max_entry_bytes: u64::MAX,
        ..LIMITS
    };
    for (size, expected) in [
        (3, "truncated at 513"),
        (1 << 40, "truncated at 513"),
        (i64::MAX as u64, "truncated at 513"),
        (1 << 63, "corrupt at 0"),
        (u64::MAX, "corrupt at 0"),
    ] {
        let shard = [claims(size), b"A".to_vec()].concat();
        assert_eq!(
            lines(TarReader::new(&shard[..], unlimited)),
            [expected],
            "{size}"
        );
        assert_eq!(summary(&shard), [expected], "{size}, skipped");
    }
    let pax = member(b"x", EntryType::XHeader, b"29 size=18446744073709551615\n");
    let shard = [pax, file("a.jpg", b"A")].concat();
    assert_eq!(summary(&shard), ["corrupt at 1024"]);
}

proptest! {
    /// Whatever the bytes, reading ends, and no two items share a key.
    #[test]
    fn damaged_shards_never_panic(
        flips in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..20),
        fix_checksums in any::<bool>(),
    ) {
        let mut shard = archive(&[
            file("a.jpg", b"AAA"),
            member(b"x", EntryType::XHeader, b"19 path=real/b.jpg\n"),
            file("b", &[b'B'; 600]),
        ]);
        for (at, byte) in flips {
            let at = at % shard.len();
            shard[at] = byte;
        }
        if fix_checksums {
            for block in shard.as_chunks_mut::<BLOCK>().0 {
                if block.iter().any(|&byte| byte != 0) {
                    let mut header = Header::new_old();
                    header.as_mut_bytes().copy_from_slice(block);
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        let mut keys = std::collections::HashSet::new();
        for item in read(&shard).into_iter().flatten() {
            let (TarItem::Sample { key, .. } | TarItem::Rejected { key, .. }) = item;
            prop_assert!(keys.insert(key));
        }
    }
}
