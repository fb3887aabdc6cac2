//! Token ids against Hugging Face's `CLIPTokenizer`: hand-picked and fuzzed strings of `tokens.json`.

mod support;

use std::path::Path;

use maskmill_grounding::{Clip, ClipTokenizer, LoadError, TokenizerError};
use proptest::prelude::*;
use serde::Deserialize;

use support::{copy_of, device, fixture, json};

#[derive(Deserialize)]
struct Expected {
    context: usize,
    owl_context: usize,
    hand_picked: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    count: usize,
    small_ids: Vec<u32>,
    small_count: usize,
    owl_ids: Option<Vec<u32>>,
    owl_count: Option<usize>,
}

fn expected() -> Expected {
    let expected: Expected = json(&fixture("tokens.json"));
    assert!(expected.cases.len() > 400 && expected.hand_picked > 50);
    expected
}

fn load(folder: &Path) -> ClipTokenizer {
    ClipTokenizer::load(folder).unwrap()
}

fn full() -> ClipTokenizer {
    load(&fixture("clip-tokenizer"))
}

/// A folder with these files of `from`.
fn with_files(from: &Path, names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// Compares all strings and fails with every one that differs.
fn check(
    tokenizer: &ClipTokenizer,
    context: usize,
    ids: impl Fn(&Case) -> Option<(&[u32], usize)>,
) -> usize {
    let expected = expected();
    let mut compared = 0;
    let mut different = Vec::new();
    for case in &expected.cases {
        let Some((ids, count)) = ids(case) else {
            continue;
        };
        compared += 1;
        let tokens = tokenizer.encode(&case.text, context);
        let same_count = tokenizer.encode(&case.text, usize::MAX).ids.len() == count;
        if tokens.ids != ids || tokens.cut.is_some() != (count > context) || !same_count {
            different.push((&case.text, tokens.ids, ids));
        }
    }
    assert!(
        different.is_empty(),
        "{} differ: {different:?}",
        different.len()
    );
    compared
}

#[test]
fn ids_of_the_full_vocabulary() {
    let tokenizer = full();
    assert_eq!(tokenizer.size(), 49_408);
    let context = expected().context;
    assert_eq!(context, 77);
    let compared = check(&tokenizer, context, |case| Some((&case.ids, case.count)));
    assert!(compared > 400);
}

/// `tokenizer.json` as transformers saves it, and the `vocab.json` and `merges.txt` it was made from.
#[test]
fn ids_by_both_ways_of_loading() {
    let from = fixture("small-tokenizer");
    for names in [&["tokenizer.json"][..], &["vocab.json", "merges.txt"]] {
        let folder = with_files(&from, names);
        let tokenizer = load(folder.path());
        assert_eq!(tokenizer.size(), 1314);
        assert_eq!(tokenizer.path(), folder.path().join(names[0]));
        check(&tokenizer, 77, |case| {
            Some((&case.small_ids, case.small_count))
        });
    }
    // A tokenizer.json may be named itself.
    let tokenizer = load(&from.join("tokenizer.json"));
    check(&tokenizer, 77, |case| {
        Some((&case.small_ids, case.small_count))
    });
}

/// OWL's checkpoints name `!` as their padding: it becomes a special token, in texts too.
#[test]
fn owl_s_sixteen_ids_with_its_own_padding() {
    let named = with_files(&fixture("clip-tokenizer"), &["vocab.json", "merges.txt"]);
    let expected = expected();
    let settings = [
        ("tokenizer_config.json", r#"{"pad_token": "!"}"#),
        (
            "tokenizer_config.json",
            r#"{"pad_token": {"content": "!", "lstrip": false}}"#,
        ),
        ("special_tokens_map.json", r#"{"pad_token": "!"}"#),
    ];
    for (name, text) in settings {
        std::fs::write(named.path().join(name), text).unwrap();
        let tokenizer = load(named.path());
        let of_case = |case: &Case| {
            let tokens = tokenizer.encode(&case.text, expected.owl_context);
            tokenizer.padded(&tokens, expected.owl_context)
        };
        let mut compared = 0;
        for case in &expected.cases {
            let (Some(ids), Some(count)) = (&case.owl_ids, case.owl_count) else {
                continue;
            };
            assert_eq!(&of_case(case), ids, "{:?}", case.text);
            let whole = tokenizer.encode(&case.text, usize::MAX);
            assert_eq!(whole.ids.len(), count, "{:?}", case.text);
            compared += 1;
        }
        assert!(compared > 100);
        std::fs::remove_file(named.path().join(name)).unwrap();
    }
    let unnamed = load(named.path());
    let tokens = unnamed.encode("cat", 16);
    assert_eq!(unnamed.padded(&tokens, 5)[3..], [unnamed.end(); 2]);
}

/// What a model sees and what it does not make up the text. ASCII in lower case, so that ids name bytes.
#[test]
fn what_was_cut_is_the_rest_of_the_text() {
    let tokenizer = full();
    let text = "a dog, a cat & 12 very-unusual armchairs' legs in front of it";
    let whole = tokenizer.encode(text, usize::MAX).ids;
    for context in 2..whole.len() {
        let tokens = tokenizer.encode(text, context);
        assert_eq!(tokens.ids.len(), context);
        assert_eq!(tokens.ids[..context - 1], whole[..context - 1]);
        assert_eq!(tokens.ids[context - 1], tokenizer.end());
        let cut = tokens.cut.expect("it is longer");
        let seen = text
            .strip_suffix(cut.as_str())
            .expect("the end of the text");
        // Byte pairs of a word that was cut apart have no end of a word: only whole words are compared.
        let at_a_word = cut.starts_with(|c: char| !c.is_ascii_alphanumeric());
        if at_a_word || seen.ends_with(' ') || seen.is_empty() {
            let again = tokenizer.encode(seen, usize::MAX).ids;
            assert_eq!(again, tokens.ids, "{seen:?} | {cut:?}");
        }
    }
    assert_eq!(tokenizer.encode(text, whole.len()).cut, None);
    assert_eq!(tokenizer.encode("a dog and a cat", 5).cut.unwrap(), "a cat");
    // Characters outside ASCII: NFC and case move bytes, the cut is still the end of the text.
    let accents = tokenizer.encode("Ein Ba\u{308}r und ein ÜBEL", 6);
    let cut = accents.cut.unwrap();
    assert!("Ein Ba\u{308}r und ein ÜBEL".ends_with(&cut), "{cut:?}");
    assert!(!cut.is_empty());
}

proptest! {
    /// Whatever the text, ids begin with the start, end with the end, and fit the vocabulary and the context.
    #[test]
    fn any_text_has_ids(text in "\\PC{0,40}", context in 2_usize..20) {
        let tokenizer = load(&fixture("small-tokenizer"));
        let tokens = tokenizer.encode(&text, context);
        prop_assert!(tokens.ids.len() <= context);
        prop_assert_eq!(*tokens.ids.last().unwrap(), tokenizer.end());
        prop_assert!(tokens.ids.iter().all(|&id| (id as usize) < tokenizer.size()));
        if let Some(cut) = &tokens.cut {
            prop_assert_eq!(tokens.ids.len(), context);
            prop_assert!(text.ends_with(cut.as_str()), "{:?}", cut);
        }
    }
}

fn refused(folder: &Path) -> String {
    match ClipTokenizer::load(folder) {
        Ok(_) => panic!("{} was loaded", folder.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_without_a_tokenizer_is_told_with_what_it_needs() {
    let folder = with_files(&fixture("clip-tokenizer"), &["vocab.json"]);
    let message = refused(folder.path());
    let path = folder.path().display();
    assert_eq!(
        message,
        format!(
            "no tokenizer in {path}: it needs tokenizer.json, or vocab.json and merges.txt, from the same place as the checkpoint"
        )
    );
}

#[test]
fn a_broken_tokenizer_is_told_with_its_path() {
    let folder = with_files(&fixture("small-tokenizer"), &["tokenizer.json"]);
    let path = folder.path().join("tokenizer.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let without_start = whole.replace("<|startoftext|>", "<s>");
    assert_ne!(without_start, whole);
    for (text, reason) in [
        (&whole[..whole.len() / 2], "not a CLIP tokenizer"),
        ("{}", "not a CLIP tokenizer"),
        (without_start.as_str(), "it has no token <|startoftext|>"),
    ] {
        std::fs::write(&path, text).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains(reason), "{message}");
    }
    let pairs = with_files(&fixture("small-tokenizer"), &["vocab.json", "merges.txt"]);
    std::fs::write(pairs.path().join("vocab.json"), "[1, 2").unwrap();
    let message = refused(pairs.path());
    assert!(
        message.contains("vocab.json: not a CLIP tokenizer: not JSON"),
        "{message}"
    );
}

/// Merges of another vocabulary.
#[test]
fn merges_that_the_vocabulary_does_not_have_are_refused() {
    let folder = with_files(&fixture("small-tokenizer"), &["vocab.json"]);
    std::fs::copy(
        fixture("clip-tokenizer").join("merges.txt"),
        folder.path().join("merges.txt"),
    )
    .unwrap();
    let message = refused(folder.path());
    assert!(message.contains("not a CLIP tokenizer"), "{message}");
}

#[test]
fn a_padding_token_that_is_no_token_is_refused() {
    let folder = with_files(&fixture("small-tokenizer"), &["tokenizer.json"]);
    let settings = folder.path().join("tokenizer_config.json");
    std::fs::write(settings, r#"{"pad_token": "<pad>"}"#).unwrap();
    let message = refused(folder.path());
    assert!(message.contains("it has no token <pad>"), "{message}");
}

/// Ids of another vocabulary would name other words, or none.
#[test]
fn a_tokenizer_of_another_size_than_the_embedding_is_refused() {
    let model = copy_of(&fixture("clip-small"));
    let tokenizer = fixture("clip-tokenizer");
    let refused = Clip::load(model.path(), Some(&tokenizer), &device());
    let Err(LoadError::Tokenizer(error)) = refused else {
        panic!("it was loaded, or refused otherwise");
    };
    assert!(matches!(
        error,
        TokenizerError::OtherVocabulary {
            tokens: 49_408,
            embeddings: 1314,
            ..
        }
    ));
    let message = error.to_string();
    for part in [
        tokenizer.join("vocab.json").display().to_string(),
        model.path().join("model.safetensors").display().to_string(),
        "has 49408 tokens".to_owned(),
        "embeddings for 1314".to_owned(),
        "give the tokenizer that came with the checkpoint".to_owned(),
    ] {
        assert!(message.contains(&part), "{message}");
    }
}
