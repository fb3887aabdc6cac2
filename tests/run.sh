#!/usr/bin/env bash
# All tests of maskmill:
#   1. every Rust test of the workspace: unit, property, parity with segment-anything, end to end;
#   2. the quick start into a fresh directory, verified;
#   3. its output read with Polars, DuckDB, pandas and pycocotools from PyPI, in a virtual environment
#      under target/;
#   4. the same with a job of text prompts;
#   5. a training run, whose events TensorBoard's own reader reads;
#   6. a job from bucket to bucket in moto, another S3 than the tests' own, read by the same.
# Everything is built in the release profile: an unoptimised model takes minutes per test, and what
# `cargo run --release` has built serves the tests as well.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cargo test --release --workspace 2>&1 | tee "$out/log"

maskmill() { cargo run --release --quiet -- "$@"; }
maskmill run pipelines/quickstart.toml --config configs/local.toml --set output.root="$out"
maskmill verify "$out/quickstart"
maskmill export "$out/quickstart" --format sa1b --out "$out/sa1b"

venv=target/interop-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
"$venv/bin/python" tests/interop/check_readers.py "$out/quickstart"
"$venv/bin/python" tests/interop/check_sa1b.py "$out/sa1b"

# Masks for what texts name, whose rows have labels and boxes.
maskmill run pipelines/quickstart-text.toml --config configs/local.toml --set output.root="$out"
maskmill verify "$out/quickstart-text"
maskmill run tests/interop/text.toml --config configs/local.toml --set output.root="$out"
maskmill verify "$out/text"
"$venv/bin/python" tests/interop/check_readers.py "$out/text"

# A training run, stopped and gone on with: each step is in its events once.
maskmill train tests/interop/training.toml --config configs/local.toml --set output.root="$out" \
    --set train.log_steps=1 --steps-at-most 7
maskmill train tests/interop/training.toml --config configs/local.toml --set output.root="$out" \
    --set train.log_steps=1
"$venv/bin/python" tests/interop/check_events.py "$out/very-small"

tests/interop/moto_smoke.sh "$out/moto"
"$venv/bin/python" tests/interop/check_readers.py "$out/moto"

# One line over all test binaries, which report one by one above.
awk '/^test result:/ { passed += $4; failed += $6 } END { print passed " passed, " failed " failed" }' "$out/log"
