#!/usr/bin/env bash
# A job whose source and output are in moto, an S3 that is not maskmill's own test server:
# tests/interop/moto_smoke.sh DIR runs one, and leaves its output in the new directory DIR.
set -euo pipefail
download=$(realpath -m "$1")
cd "$(dirname "$0")/../.."

venv=target/moto-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements-moto.txt
bucket() { "$venv/bin/python" tests/interop/moto_bucket.py "$@"; }

port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
log=$(mktemp)
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$log" 2>&1 &
server=$!
end() {
    status=$?
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    [ "$status" = 0 ] || tail -n 20 "$log"
    rm -f "$log"
}
trap end EXIT

# Whatever the machine's environment says of stores is not the test's business.
for name in $(compgen -e AWS_ || true); do unset "$name"; done
export AWS_ENDPOINT_URL="http://127.0.0.1:$port" AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=moto AWS_SECRET_ACCESS_KEY=moto

bucket wait
bucket upload samples photos
maskmill() { cargo run --release --quiet -- "$@"; }
job=(pipelines/quickstart.toml --config configs/local.toml --set prompts.points_per_side=8
    --set source.path=s3://photos/samples --set source.images_per_shard=2 --set output.root=s3://masks/out)
output=s3://masks/out/quickstart
maskmill run "${job[@]}"
maskmill run "${job[@]}" | grep "nothing to do"
maskmill verify "$output"
maskmill finalize "$output"
maskmill status "$output" | grep "0 running, 0 failed; finalized"
maskmill gc "$output" | grep "^0 objects"
bucket download masks out/quickstart "$download"
