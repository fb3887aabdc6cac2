//! A vocabulary of byte pairs in CLIP's format, learnt from a few words.
//!
//! Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016). Every word that it is learnt from
//! becomes one token; any other text falls to smaller pieces, to single bytes in the end. Laid out as CLIP's: 256 bytes, the
//! same at the end of a word, a token per merge, start and end of text last, where `transformers` looks for the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::tokenizer::{END, START};

const END_OF_WORD: &str = "</w>";

/// A vocabulary: a function of the words it is learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytePairs {
    merges: Vec<[String; 2]>,
    /// In the order of their ids.
    tokens: Vec<String>,
}

impl BytePairs {
    /// Learns merges until every word is one token. A pair counts once for each word it is in; of equally frequent ones the
    /// first in the order of their bytes is merged.
    ///
    /// Words are lower-case, as CLIP's tokenizer hands them over.
    ///
    /// # Panics
    /// If a word has a character that is no printable one of ASCII.
    pub fn learnt(words: &[&str]) -> Self {
        let symbols = byte_symbols();
        let words: BTreeSet<&str> = words.iter().copied().collect();
        let mut words: Vec<Vec<String>> = words.into_iter().map(in_symbols).collect();
        let mut tokens: Vec<String> = symbols.iter().map(char::to_string).collect();
        tokens.extend(
            symbols
                .iter()
                .map(|symbol| format!("{symbol}{END_OF_WORD}")),
        );
        let mut known: BTreeSet<String> = tokens.iter().cloned().collect();
        let mut merges = Vec::new();
        while let Some(pair) = most_frequent(&words) {
            let merged = pair.concat();
            for word in &mut words {
                merge(word, &pair);
            }
            // Two pairs may give one token.
            if known.insert(merged.clone()) {
                tokens.push(merged);
            }
            merges.push(pair);
        }
        tokens.extend([START, END].map(str::to_owned));
        Self { merges, tokens }
    }

    /// Tokens, start and end of text included.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// The text of `vocab.json`: every token's id, in their order.
    pub fn vocabulary_file(&self) -> String {
        let entries = self.tokens.iter().enumerate();
        let entries = entries.map(|(id, token)| format!("{}:{id}", Value::from(token.as_str())));
        format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
    }

    /// The text of `merges.txt`.
    pub fn merges_file(&self) -> String {
        let lines = self
            .merges
            .iter()
            .map(|pair| format!("{}\n", pair.join(" ")));
        format!("#version: 0.2\n{}", lines.collect::<String>())
    }
}

/// The printable character that stands for each byte, in CLIP's order of ids: printable bytes first, then the others
/// (`bytes_to_unicode`).
fn byte_symbols() -> Vec<char> {
    let printable: Vec<u32> = (0x21..=0x7e)
        .chain(0xa1..=0xac)
        .chain(0xae..=0xff)
        .collect();
    let others = 256 - printable.len() as u32;
    let symbols = printable.into_iter().chain(256..256 + others);
    symbols
        .map(|code| char::from_u32(code).expect("below the surrogates"))
        .collect()
}

/// A word as its bytes' symbols, the last one at the end of a word. Of the printable bytes of ASCII each is its own symbol.
fn in_symbols(word: &str) -> Vec<String> {
    assert!(
        word.bytes().all(|byte| byte.is_ascii_graphic()),
        "{word:?} is a word of ASCII"
    );
    let mut all: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = all.last_mut() {
        last.push_str(END_OF_WORD);
    }
    all
}

/// The pair of neighbours that is in most words; none where every word is one token.
fn most_frequent(words: &[Vec<String>]) -> Option<[String; 2]> {
    let mut counts: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    for word in words {
        let pairs: BTreeSet<[&str; 2]> = word.windows(2).map(|w| [&*w[0], &*w[1]]).collect();
        for pair in pairs {
            *counts.entry(pair).or_default() += 1;
        }
    }
    let most = counts.values().copied().max()?;
    let first = counts.into_iter().find(|(_, count)| *count == most);
    first.map(|(pair, _)| pair.map(str::to_owned))
}

fn merge(word: &mut Vec<String>, pair: &[String; 2]) {
    let mut at = 0;
    while at + 1 < word.len() {
        if word[at..at + 2] == pair[..] {
            let right = word.remove(at + 1);
            word[at].push_str(&right);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_tokens_by_their_most_frequent_pairs() {
        let pairs = BytePairs::learnt(&["red", "bed", "a"]);
        // `ed</w>` is in both; then `b` and `r` are as frequent, and `b` comes first.
        let merges: Vec<String> = pairs.merges.iter().map(|pair| pair.join(" ")).collect();
        assert_eq!(merges, ["e d</w>", "b ed</w>", "r ed</w>"]);
        assert_eq!(pairs.size(), 512 + 3 + 2);
        assert_eq!(pairs.tokens[0], "!");
        assert_eq!(pairs.tokens[256 + 64], "a</w>");
        assert_eq!(pairs.tokens[514..], ["red</w>", START, END]);
        assert!(pairs.merges_file().starts_with("#version: 0.2\ne d</w>\n"));
        let vocabulary: BTreeMap<String, usize> =
            serde_json::from_str(&pairs.vocabulary_file()).unwrap();
        assert_eq!(vocabulary[END], 516);
        assert_eq!(vocabulary.len(), pairs.size());
    }

    #[test]
    fn the_order_of_words_does_not_matter() {
        let one = BytePairs::learnt(&["striped", "star", "disc", "disc"]);
        assert_eq!(one, BytePairs::learnt(&["disc", "star", "striped"]));
    }
}
