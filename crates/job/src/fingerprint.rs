//! Which rows a job makes, as one hash: only outputs of the same fingerprint may be resumed.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::pipeline::Pipeline;

/// Raised when the same pipeline and model begin to give other rows: a changed algorithm, a changed
/// schema, a corrected bug. An output made before cannot be resumed after.
pub const OUTPUT_VERSION: u32 = 2;

/// SHA-256 over the resolved pipeline, the digests of the files that it names and
/// [`OUTPUT_VERSION`], in lower-case hex.
///
/// It depends on values alone: not on the order of keys, on comments, on which defaults are
/// written out, on the config file or on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of `pipeline` run with the model file whose SHA-256 is `model_sha256` (hex).
    ///
    /// `files` has the SHA-256 of each other file that rows depend on, by its setting:
    /// `model.detector`, `prompts.boxes_path`, `prompts.examples[0].image`.
    pub fn of(pipeline: &Pipeline, model_sha256: &str, files: &BTreeMap<String, String>) -> Self {
        let mut identity = json!({
            "output_version": OUTPUT_VERSION,
            "model_sha256": model_sha256,
            "pipeline": pipeline,
        });
        // Jobs without other files have the fingerprint they had before there were any.
        if !files.is_empty() {
            identity["files"] = json!(files);
        }
        Self::of_value(&identity)
    }

    /// The fingerprint of a value, whatever the order of its keys.
    pub(crate) fn of_value(identity: &Value) -> Self {
        Fingerprint(hex(&Sha256::digest(canonical_json(identity).as_bytes())))
    }

    /// All 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// JSON with sorted keys and no white space: one text per value.
///
/// Floats are written as the shortest decimal that reads back to the same `f64`. Keys are sorted
/// here because the order inside `serde_json` depends on a feature that any dependency may turn on.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (at, (key, value)) in entries.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// `bytes` in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{"b": [1, {"d": 0.7, "c": null}], "a": "x\"y", "1": 1.0}"#)
                .unwrap();
        assert_eq!(
            canonical_json(&value),
            r#"{"1":1.0,"a":"x\"y","b":[1,{"c":null,"d":0.7}]}"#
        );
    }

    #[test]
    fn sha256_is_the_standard_one() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            hex(&Sha256::digest(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
