//! `[labels]` and `[labeller]` through [`load_pipeline`]: one form for all orders, and mistakes.

use std::time::{Duration, Instant};

use super::prompt_problem_tests::assert_problems;
use super::prompt_tests::{LABELLED, TEXT, fingerprint, label, loaded, with};
use super::tests::{messages, pipeline};

#[test]
fn the_order_and_spacing_of_labels_changes_nothing() {
    let one = "[labels]\nnames = { car = ['car', 'red  auto'], 'traffic light' = 'lamp' }\n\
               templates = ['a {}', 'the {}']\nnegatives = ['sky', 'wall']\n";
    let other = "[labels]\nnegatives = ['wall', ' sky', 'wall']\n\
                 templates = [' the  {}', 'a {}', 'a {}']\n[labels.names]\n\
                 ' traffic  light ' = { phrases = ['lamp '] }\n\
                 car = [\"red\\n auto\", 'car', 'car']\n";
    let (one, other) = (
        with(&format!("{TEXT}{one}")),
        with(&format!("{TEXT}{other}")),
    );
    assert_eq!(loaded(&one), loaded(&other));
    assert_eq!(fingerprint(&one), fingerprint(&other));
    let names = loaded(&one).labels.unwrap().names;
    assert_eq!(names[0], label("car", &["car", "red auto"]));
    assert_eq!(names[1], label("traffic light", &["lamp"]));

    // An array of names is a table of names without phrases of their own.
    let array = with(&format!("{TEXT}[labels]\nnames = ['dog', 'cat']\n"));
    let table = with(&format!("{TEXT}[labels.names]\ncat = {{}}\ndog = 'dog'\n"));
    assert_eq!(fingerprint(&array), fingerprint(&table));
}

#[test]
fn labels_that_are_one_are_refused() {
    const SPELLING: &str = "differ only in case or white space, and models read them as the same \
                            text; keep one of them";
    const OTHER: &str =
        "but that is what masks without a label are called (labeller.other_label = ";
    for (section, line, message) in [
        (
            "[labels]\nnames = ['cat', 'dog', 'cat']",
            10,
            "labels.names[2]: the label \"cat\" is given twice; remove one".to_string(),
        ),
        (
            "[labels]\nnames = [\n'traffic light',\n'Traffic  light']",
            12,
            format!(
                "labels.names[1]: the labels \"traffic light\" and \"Traffic  light\" {SPELLING}"
            ),
        ),
        (
            "[labels.names]\n'a b' = 'x'\n'a  b' = 'y'",
            10, // a table is read in the order of its keys
            format!("labels.names.\"a b\": the labels \"a  b\" and \"a b\" {SPELLING}"),
        ),
        (
            "[labels.names]\ncar = ['car', 'van']\ntruck = [\n'truck',\n'Van']",
            13,
            "labels.names.truck[1]: \"Van\" is a phrase of the label \"car\" and of \"truck\", whose \
             scores for it are always equal, so that nothing decides between the two; keep it in \
             one"
            .to_string(),
        ),
        (
            "[labels]\nnames = ['cat', 'sky']\nnegatives = ['wall', ' Sky']",
            11,
            "labels.negatives[1]: \"Sky\" is also a phrase of the label \"sky\"; their scores are \
             always equal, so that nothing decides whether it counts. Keep it in one"
                .to_string(),
        ),
        (
            "[labels]\nnames = ['cat', 'Other']",
            10,
            format!("labels.names has the label \"Other\", {OTHER}\"other\"); rename one of them"),
        ),
        (
            "[labels.names]\ncat = 'cat'\nrest = 'all'\n[labeller]\nother_label = 'rest'",
            11,
            format!("labels.names has the label \"rest\", {OTHER}\"rest\"); rename one of them"),
        ),
    ] {
        assert_problems(&[(&format!("{LABELLED}{section}"), line, &message)]);
    }
}

#[test]
fn labels_that_are_none_are_refused() {
    let long = "x".repeat(501);
    let names_shape = "an array of labels, or a table of labels with their phrases, such as { car \
                       = [\"car\", \"automobile\"] }";
    let long_names = format!("[labels]\nnames = ['{}', '{long}']", "y".repeat(500));
    for (section, line, message) in [
        (
            "[labels]\nnames = ['a',\n' ']",
            13,
            "names[1] is empty".to_string(),
        ),
        (
            "[labels]\nnames = ['']",
            12,
            "names[0] is empty".to_string(),
        ),
        (
            "[labels.names]\n'' = 'x'",
            12,
            "names.\"\" is empty".to_string(),
        ),
        ("[labels.names]\na = ''", 12, "names.a is empty".to_string()),
        (
            "[labels.names]\na = ['x', '\t']",
            12,
            "names.a[1] is empty".to_string(),
        ),
        (
            "[labels.names]\na = []",
            12,
            "names.a has no phrases".to_string(),
        ),
        (
            "[labels.names]\na = { phrases = [] }",
            12,
            "names.a.phrases has no phrases".to_string(),
        ),
        (
            "[labels]\nnames = []",
            12,
            "names has no labels".to_string(),
        ),
        (
            "[labels]\nnames = {}",
            12,
            "names has no labels".to_string(),
        ),
        (
            "[labels]\nnames = 'cat'",
            12,
            format!("names = \"cat\" is a string; it must be {names_shape}"),
        ),
        (
            "[labels]\nnames = [7]",
            12,
            "names[0] = 7 is an integer; it must be a string; labels with several phrases are \
             written as a table, such as names = { car = [\"car\", \"automobile\"] }"
                .to_string(),
        ),
        (
            "[labels.names]\na = 7",
            12,
            "names.a = 7 is an integer; it must be a phrase, an array of phrases, or { phrases = \
             [...], score_thresh = 0.3 }"
                .to_string(),
        ),
        (
            "[labels.names]\na = { phrases = 'x', score_thresh = 1.5 }",
            12,
            "names.a.score_thresh = 1.5 is outside [0, 1]".to_string(),
        ),
        (
            "[labels.names]\na = { phrase = 'x' }",
            12,
            "names.a.phrase is not a key of a label; did you mean `phrases`?".to_string(),
        ),
        (
            &long_names,
            12,
            "names[1] has 501 characters; labels and phrases have 500 at most".to_string(),
        ),
        (
            "[labels]\nnames = ['a']\nnegatives = 'sky'",
            13,
            "negatives = \"sky\" is a string; it must be an array of strings".to_string(),
        ),
        (
            "[labels]\nnames = ['a']\nnegative = ['sky']",
            13,
            "negative is not a key of [labels]; did you mean `negatives`?".to_string(),
        ),
    ] {
        let text = with(&format!("{TEXT}{section}"));
        let expected = format!("cats.toml:{line}: labels.{message}");
        assert_eq!(messages(pipeline(&text)), [expected], "{section}");
    }
}

#[test]
fn a_template_has_one_place_for_the_phrase() {
    const ONCE: &str = "a template has {} once, where the phrase goes, such as \"a photo of a {}\"";
    for (templates, message) in [
        (
            "['a photo']",
            format!("[0] = \"a photo\" has no {{}}; {ONCE}"),
        ),
        (
            "['{}', '{} and {}']",
            format!("[1] = \"{{}} and {{}}\" has {{}} 2 times; {ONCE}"),
        ),
        ("['{}', ' ']", "[1] is empty".to_string()),
        (
            "[]",
            " has no template; leave it out to use phrases as they are".to_string(),
        ),
        (
            "'a {}'",
            " = \"a {}\" is a string; it must be an array of strings".to_string(),
        ),
    ] {
        let text = format!("{TEXT}[labels]\nnames = ['a']\ntemplates = {templates}");
        assert_problems(&[(&text, 13, &format!("labels.templates{message}"))]);
    }
}

fn many_labels(count: usize, rest: &str) -> String {
    let names: Vec<String> = (0..count)
        .map(|at| format!("  'label number {at}',\n"))
        .collect();
    with(&format!(
        "{TEXT}[labels]\n{rest}names = [\n{}]\n",
        names.concat()
    ))
}

#[test]
fn ten_thousand_labels_load_at_once() {
    let text = many_labels(10_000, "");
    let start = Instant::now();
    let labels = loaded(&text).labels.unwrap();
    // Some 80 ms in a release build on two busy cores. What grows with the square of the number of
    // labels, such as finding each one's line from the beginning of the text, does not pass.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(labels.names.len(), 10_000);
    assert!(labels.names.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn the_number_of_texts_is_limited() {
    let limits = [
        (20_000, "", None),
        (
            20_001,
            "",
            Some("names and labels.negatives have 20001 phrases; there can be 20000 at most"),
        ),
        (
            20_000,
            "negatives = ['sky']\n",
            Some("names and labels.negatives have 20001 phrases; there can be 20000 at most"),
        ),
        (10_000, "templates = [TEMPLATES]\n", None),
        (
            10_000,
            "negatives = ['sky']\ntemplates = [TEMPLATES]\n",
            Some(
                "templates: 20 templates for 10001 phrases make 200020 texts; there can be 200000 \
                 at most",
            ),
        ),
    ];
    let templates: Vec<String> = (0..20).map(|at| format!("'{at} {{}}'")).collect();
    for (count, rest, message) in limits {
        let rest = rest.replace("TEMPLATES", &templates.join(", "));
        let result = pipeline(&many_labels(count, &rest));
        match message {
            None => assert_eq!(result.unwrap().labels.unwrap().names.len(), count),
            Some(message) => {
                let found = messages(result);
                assert_eq!(found.len(), 1, "{found:#?}");
                assert!(
                    found[0].ends_with(&format!("labels.{message}")),
                    "{found:#?}"
                );
            }
        }
    }
}

#[test]
fn the_labeller_has_ranges() {
    for (line, message) in [
        (
            "crop_padding = -0.1",
            "crop_padding = -0.1 is outside [0, 10]",
        ),
        (
            "crop_background = 'blurr'",
            "crop_background = \"blurr\" is unknown; did you mean `blur`?",
        ),
        (
            "min_probability = 1.1",
            "min_probability = 1.1 is outside [0, 1]",
        ),
        (
            "min_similarity = -1.5",
            "min_similarity = -1.5 is outside [-1, 1]",
        ),
        ("other_label = ''", "other_label is empty"),
        (
            "padding = 0.1",
            "padding is not a key of [labeller]; did you mean `crop_padding`?",
        ),
    ] {
        let text = format!("{LABELLED}[labels]\nnames = ['a']\n[labeller]\n{line}");
        assert_problems(&[(&text, 12, &format!("labeller.{message}"))]);
    }
}
