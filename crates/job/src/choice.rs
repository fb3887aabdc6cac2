//! A setting whose word decides which other settings have a meaning: `kind`, `mode`, `boxes_from`.

use crate::section::Section;

/// One such setting.
pub(crate) struct Choice<T: 'static> {
    /// Its key.
    pub(crate) key: &'static str,
    /// What can be chosen.
    pub(crate) words: &'static [(&'static str, T)],
    /// The settings that only some of the words have, each with those.
    pub(crate) settings: &'static [(&'static str, &'static [T])],
}

impl<T: Copy + PartialEq> Choice<T> {
    /// The word for `chosen`.
    pub(crate) fn word(&self, chosen: T) -> &'static str {
        let found = self.words.iter().find(|(_, value)| *value == chosen);
        found.expect("every value has a word").0
    }

    /// All words, for messages: `"coco" or "yolo"`.
    pub(crate) fn any_word(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|(w, _)| format!("{w:?}")).collect();
        words.join(" or ")
    }

    /// Reads the setting from `section`, where it must be.
    pub(crate) fn required(&self, section: &mut Section<'_>) -> Option<T> {
        if section.origin_of(self.key).is_none() {
            let what = format!(" is missing: {}", self.any_word());
            section.note(None, self.key, &what);
        }
        section.one_of(self.key, self.words)
    }

    /// Drops the settings in `section` that have no meaning for `chosen` and says so of each;
    /// `why` may add a reason, which begins with a comma, given those that have a meaning.
    pub(crate) fn refuse_others(
        &self,
        section: &mut Section<'_>,
        chosen: T,
        why: impl Fn(&[T]) -> &'static str,
    ) {
        for (key, of) in self.settings {
            let origin = section.origin_of(key);
            if origin.is_none() || of.contains(&chosen) {
                continue;
            }
            let others: Vec<String> = of
                .iter()
                .map(|of| format!("{:?}", self.word(*of)))
                .collect();
            let what = format!(
                " has no meaning for {selector} = {:?}{}; it is for {selector} = {}. Remove it",
                self.word(chosen),
                why(of),
                others.join(" or "),
                selector = self.key,
            );
            section.note(origin, key, &what);
            section.ignore(key);
        }
    }

    /// Drops, unread, the settings in `section` that not all words have.
    pub(crate) fn ignore_all(&self, section: &mut Section<'_>) {
        for (key, _) in self.settings {
            section.ignore(key);
        }
    }
}
