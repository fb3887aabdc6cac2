//! What the sections of a pipeline file need of each other: a mode its models and labels, and every
//! model and label something that uses it.

use crate::document::{Document, Value};
use crate::labels::folded;
use crate::pipeline::Pipeline;
use crate::problem::Problems;
use crate::prompts::{MODE, Mode};
use crate::schema;

/// Notes what is missing and what nothing uses. Where `mode` is wrong itself, and so `None`, only
/// what does not hang on it is checked.
pub(crate) fn check(
    pipeline: &Pipeline,
    mode: Option<Mode>,
    written: &Document,
    problems: &mut Problems,
) {
    let mut needs = Needs { written, problems };
    needs.check_labeller(pipeline);
    needs.check_columns();
    if let Some(mode) = mode {
        needs.check_models(mode);
        needs.check_labels(pipeline, mode);
    }
}

/// Looks at what is written and not at what was read: what is there but wrong has been noted, and
/// is not missing.
struct Needs<'a> {
    written: &'a Document,
    problems: &'a mut Problems,
}

impl Needs<'_> {
    fn has(&self, path: &[&str]) -> bool {
        self.written.get(path).is_some()
    }

    fn word(&self, section: &str, key: &str) -> Option<&str> {
        match &self.written.get(&[section, key])?.value {
            Value::String(word) => Some(word),
            _ => None,
        }
    }

    /// Notes what is wrong with the setting at `path`, at its place or the nearest around it.
    fn note(&mut self, path: &[&str], what: &str) {
        let keys: Vec<String> = path.iter().map(|key| schema::quoted_key(key)).collect();
        let place = self.written.place_of(path);
        self.problems
            .add(place, format!("{}{what}", keys.join(".")));
    }

    fn note_other_mode(&mut self, path: &[&str], mode: Mode, why: &str, modes: &[Mode]) {
        let words: Vec<String> = modes
            .iter()
            .map(|mode| format!("{:?}", MODE.word(*mode)))
            .collect();
        let what = format!(
            " has no meaning for mode = {:?}{why}; it is for mode = {}. Remove it",
            MODE.word(mode),
            words.join(" or ")
        );
        self.note(path, &what);
    }

    fn check_labeller(&mut self, pipeline: &Pipeline) {
        if !self.has(&["model", "labeller"]) {
            const WITHOUT: &str = "without model.labeller; name a CLIP checkpoint there, or remove";
            if self.has(&["model", "labeller_tokenizer"]) {
                let what = format!(" is there {WITHOUT} this");
                self.note(&["model", "labeller_tokenizer"], &what);
            }
            if self.has(&["labeller"]) {
                let place = self.written.place_of(&["labeller"]);
                let what = format!("[labeller] is there {WITHOUT} the section");
                self.problems.add(place, what);
            }
            return;
        }
        let (Some(labels), Some(labeller)) = (&pipeline.labels, &pipeline.labeller) else {
            return;
        };
        let other = folded(&labeller.other_label);
        for label in labels.names.iter().filter(|l| folded(&l.name) == other) {
            let what = format!(
                "labels.names has the label {:?}, but that is what masks without a label are \
                 called (labeller.other_label = {:?}); rename one of them",
                label.name, labeller.other_label
            );
            let place = self.written.place_of(&["labels", "names", &label.name]);
            self.problems.add(place, what);
        }
    }

    /// What is read from columns needs a source that has columns.
    fn check_columns(&mut self) {
        let Some(kind @ ("images" | "webdataset" | "scenes")) = self.word("source", "kind") else {
            return;
        };
        let kind = kind.to_string();
        for (key, words) in [
            ("labels_from", &["caption", "labels"][..]),
            ("boxes_from", &["columns"]),
            ("points_from", &["columns"]),
        ] {
            let Some(word) = self
                .word("prompts", key)
                .filter(|word| words.contains(word))
            else {
                continue;
            };
            let what = format!(
                " = {word:?} needs a source with columns: source.kind = \"parquet\" or \
                 \"manifest\", not {kind:?}"
            );
            self.note(&["prompts", key], &what);
        }
    }

    fn check_models(&mut self, mode: Mode) {
        const DETECTOR: &[&str] = &["model", "detector"];
        const DETECTOR_TOKENIZER: &[&str] = &["model", "detector_tokenizer"];
        const LABELLER: &[&str] = &["model", "labeller"];
        let detects = matches!(mode, Mode::Text | Mode::Examples);
        if detects && !self.has(DETECTOR) {
            let what = format!(
                " is missing: mode = {:?} needs an OWLv2 or OWL-ViT checkpoint, the file or the \
                 folder with model.safetensors",
                MODE.word(mode)
            );
            self.note(DETECTOR, &what);
        }
        if !detects && self.has(DETECTOR) {
            self.note_other_mode(DETECTOR, mode, "", &[Mode::Text, Mode::Examples]);
        }
        if mode != Mode::Text && self.has(DETECTOR_TOKENIZER) {
            self.note_other_mode(DETECTOR_TOKENIZER, mode, "", &[Mode::Text]);
        }
        if detects && self.has(LABELLER) {
            let why = ", whose masks have labels from the detector";
            let others = [Mode::Automatic, Mode::Boxes, Mode::Points];
            self.note_other_mode(LABELLER, mode, why, &others);
        }
    }

    fn check_labels(&mut self, pipeline: &Pipeline, mode: Mode) {
        const NAMES: &[&str] = &["labels", "names"];
        let has_labeller = self.has(&["model", "labeller"]);
        if mode == Mode::Text {
            match self.word("prompts", "labels_from") {
                // Only a word can say otherwise.
                None | Some("pipeline") if !self.has(NAMES) => {
                    self.note(
                        NAMES,
                        " is missing: the labels that mode = \"text\" looks for",
                    );
                }
                Some(word @ ("caption" | "labels")) if self.has(NAMES) => {
                    let what = format!(
                        " has no meaning for labels_from = {word:?}, where each image has its \
                         own labels; it is for labels_from = \"pipeline\". Remove it"
                    );
                    self.note(NAMES, &what);
                }
                _ => {}
            }
            return;
        }
        if mode == Mode::Examples || !has_labeller {
            if self.has(&["labels"]) {
                let place = self.written.place_of(&["labels"]);
                let what = "[labels] is used by mode = \"text\" and by a labeller \
                            (model.labeller), and here is neither. Remove the section";
                self.problems.add(place, what);
            }
            return;
        }
        if !self.has(NAMES) {
            let what = " is missing: the labels that model.labeller chooses from";
            self.note(NAMES, what);
        }
        let labels = pipeline.labels.iter().flat_map(|labels| &labels.names);
        for label in labels.filter(|label| label.score_thresh.is_some()) {
            let path = ["labels", "names", &label.name, "score_thresh"];
            self.note_other_mode(&path, mode, "", &[Mode::Text]);
        }
    }
}
